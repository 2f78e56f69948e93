"""What keeps the operator's memory small: what is not imported (some 8 MB), and what the C library gives back (with 200
AuditPipelines some 12 MB).

`import kubernetes.aio` runs `kubernetes/__init__.py`, which imports the synchronous client, and kopf imports that too
where it is there, for type checks alone. A package object without that `__init__` has the same modules below it.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import cast

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""


def leave_out_synchronous_client() -> None:
    """To be called before kopf or kubernetes is imported; ImportError where kubernetes is not installed."""
    spec = find_spec("kubernetes")
    if spec is None:
        raise ImportError("kubernetes")
    if "kubernetes" in sys.modules:
        return
    package = ModuleType("kubernetes")
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__spec__ = spec
    sys.modules["kubernetes"] = package
    # None makes an import raise ImportError, which kopf expects where the client is not installed.
    cast("dict[str, ModuleType | None]", sys.modules)["kubernetes.client"] = None


def give_memory_back() -> None:
    """To be called before there are threads. Lists and configurations of many pipelines are large and short-lived; by
    itself glibc keeps their room, between what stays, in an arena for each thread. Without glibc nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2**17), (_TRIM_THRESHOLD, 2**17)):
            mallopt(setting, value)

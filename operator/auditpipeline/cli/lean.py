"""Import the Kubernetes client without its synchronous half, which nobody here uses: some 8 MB less memory.

`import kubernetes.aio` runs `kubernetes/__init__.py`, which imports the synchronous client, and kopf imports that too
where it is there, for type checks alone. A package object without that `__init__` has the same modules below it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import cast


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

"""Build beforehand what tests use: `python -m tests.cluster.prepare [unit | node | native]`.

The first build of Kubernetes takes some twelve minutes on two cores, which is longer than a test may take; with `node`
the node's programs and the project's image are made too, and with `native` Kubernetes 1.18. `unit` makes what the tests
without a cluster need alone: kube-apiserver's evaluator (tests/oracle), the decoders of distributions' configurations
(tests/schemas), and for root a C compiler (tests/reliability/faulty.py). What is in the cache already costs nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from . import binaries, image, packages
from .controlplane import ControlPlane
from .native import NATIVE
from .node import Node


def main(arguments: Sequence[str]) -> int:
    """Build what is not there; the exit code."""
    try:
        binaries.find(*binaries.ORACLE.packages, *binaries.SCHEMAS.packages)
        if "unit" in arguments and not os.geteuid():
            packages.install(packages.COMPILER, "the tests on a disk that fails")
        if "native" in arguments:
            binaries.find_in(NATIVE)
        if "unit" not in arguments:
            binaries.find(*(Node.programs if "node" in arguments else ControlPlane.programs))
        if "node" in arguments:
            binaries.find("helm")
            image.build()
    except binaries.Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

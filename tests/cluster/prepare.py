"""Build beforehand what the tests of this folder use: `python -m tests.cluster.prepare [node]`.

The first build of Kubernetes takes some twelve minutes on two cores, which is longer than a test may take; with `node`
the node's programs and the project's image are made too. What is in the cache already costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import binaries, image
from .controlplane import ControlPlane
from .node import Node


def main(arguments: Sequence[str]) -> int:
    """Build what is not there; the exit code."""
    try:
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

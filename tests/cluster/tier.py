"""What this machine can run: `python -m tests.cluster.tier` prints arguments for pytest.

root on Linux      everything
Docker             everything, on kind, but for the tests of the node itself
neither            the control plane; a line on standard error says what is not run
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from .onnode import NodeDeployment


def docker_answers() -> bool:
    """Whether there is a Docker engine."""
    docker = shutil.which("docker")
    if not docker:
        return False
    return subprocess.run([docker, "info"], capture_output=True, check=False, timeout=20).returncode == 0


def root_on_linux() -> bool:
    """Whether a node can be started in namespaces of its own."""
    return sys.platform == "linux" and os.geteuid() == 0


def deployment(data: Path, *, values: tuple[str, ...] = (), behind_service: bool = False) -> NodeDeployment:
    """auditpipeline on a real node: kind where Docker answers, else namespaces of this machine."""
    if docker_answers():
        from .onkind import KindDeployment

        return KindDeployment(data, values=values, behind_service=behind_service)
    return NodeDeployment(data, values=values, behind_service=behind_service)


def main() -> None:
    """Print the arguments."""
    if root_on_linux():
        arguments = ["-m", "controlplane or node"]
    elif docker_answers():
        arguments = ["-m", "controlplane or node", "--ignore=tests/cluster/test_node.py"]
    else:
        arguments = ["-m", "controlplane"]
        print("neither root on Linux nor Docker: the tests on a real node are not run", file=sys.stderr)
    print(shlex.join(arguments))


if __name__ == "__main__":
    main()

"""Install what the node tier needs of Debian: `python -m tests.cluster.packages`.

Promises: nothing is touched when everything is there; as root on Debian or Ubuntu what is missing is installed
without a question; anywhere else one line says what to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .binaries import Missing

__all__ = ["COMPILER", "PACKAGES", "Missing", "install", "missing"]

PACKAGES = {
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iptables": "/usr/sbin/iptables",
    "conntrack": "/usr/sbin/conntrack",
    "ipset": "/usr/sbin/ipset",
    "iproute2": "/usr/sbin/ip",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
}
"""Debian packages, and a file by which each is known to be there."""
COMPILER = {"gcc": "/usr/bin/cc", "libc6-dev": "/usr/include/dlfcn.h"}
"""For the library that stands for a disk that fails (tests/reliability/faulty.py)."""


def missing(wanted: Mapping[str, str] = PACKAGES) -> list[str]:
    """The packages that are not installed."""
    return [package for package, file in wanted.items() if not (Path(file).exists() or _on_path(file))]


def install(wanted: Mapping[str, str] = PACKAGES, what: str = "the tests on a real node") -> None:
    """Install what is missing; raises `Missing` where that cannot be done."""
    packages = missing(wanted)
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid():
        raise Missing(f"{what} need root, and the packages {names}")
    if shutil.which("apt-get") is None:
        raise Missing(f"{what} need what Debian calls {names}: install them")
    print(f"installing {names}", file=sys.stderr, flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["--yes", "--quiet", "--no-install-recommends"]
    for command in (["update", "--quiet"], ["install", *options, *packages]):
        done = subprocess.run(["apt-get", *command], env=environment, stdout=sys.stderr, check=False)
        if done.returncode:
            raise Missing(f"apt-get {command[0]} failed, see above: install {names}")


def main() -> int:
    """Install, or say what cannot be; the exit code."""
    try:
        install()
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _on_path(file: str) -> bool:
    # Other distributions have their programs elsewhere; the plugins have to be where containerd is told they are.
    return "/cni/" not in file and shutil.which(Path(file).name) is not None


if __name__ == "__main__":
    sys.exit(main())

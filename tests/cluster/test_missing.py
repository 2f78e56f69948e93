"""What is missing for `make demo` is said in one line, with what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import binaries
from .controlplane import ControlPlane

pytestmark = pytest.mark.controlplane


def demo(tmp_path: Path, path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with nothing in its cache and nothing but `path` to look for programs in."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("KUBEBUILDER_ASSETS", "GOPROXY", "GOFLAGS")
    }
    environment |= {"PATH": str(path), "XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
    command = [sys.executable, "-m", "tests.cluster.demo", "--once", "--tier", "local"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("demo: ")]
    return line


def test_without_go_the_demo_says_what_to_install(tmp_path: Path) -> None:
    """Or where to point it to."""
    line = complaint(demo(tmp_path, tmp_path))
    assert "Install Go" in line
    assert "KUBEBUILDER_ASSETS" in line


def test_without_helm_the_demo_says_what_to_install(tmp_path: Path) -> None:
    """At once: a whole cluster is there, and is not started."""
    assets = tmp_path / "assets"
    assets.mkdir()
    for name, program in binaries.find(*ControlPlane.programs).items():
        (assets / name).symlink_to(program)
    done = demo(tmp_path, tmp_path, KUBEBUILDER_ASSETS=str(assets))
    line = complaint(done)
    assert line.startswith("demo: helm: nothing found. Install Go")
    assert "KUBEBUILDER_ASSETS" in line
    assert "building" not in done.stderr


def test_without_a_network_the_demo_says_so(tmp_path: Path) -> None:
    """Go is there, and no module can be had."""
    go = shutil.which("go")
    assert go, "Go is needed for these tests"
    modules = {"GOPROXY": "off", "GOMODCACHE": str(tmp_path / "modules"), "GOFLAGS": "-modcacherw"}
    line = complaint(demo(tmp_path, Path(go).resolve().parent, **modules))
    assert "network" in line or "module" in line

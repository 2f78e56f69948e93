"""The release before this one, as a folder: its code, its chart and its Dockerfile.

It is kept as tests/data/previous-release.tar.xz, since a clone may be shallow and a source archive has no tags. It is
made anew for each release:

    git archive TAG operator manifests/chart manifests/policies Dockerfile .dockerignore LICENSE README.md \
      pyproject.toml requirements/runtime.txt | xz -9e > tests/data/previous-release.tar.xz
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

ARCHIVE = Path(__file__).parent / "data" / "previous-release.tar.xz"


@cache
def folder() -> Path:
    """The unpacked release, one folder for each content of the archive; nobody may write to it."""
    name = hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"auditpipeline-previous-{os.getuid()}-{name}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(prefix="auditpipeline-previous-"))
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(partial, filter="data")
        try:
            partial.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return target


def environment() -> dict[str, str]:
    """The environment in which `import auditpipeline` finds that release."""
    return {**os.environ, "PYTHONPATH": str(folder() / "operator"), "PYTHONDONTWRITEBYTECODE": "1"}


def run(code: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """What Python code prints that runs with that release."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def ask(code: str, value: Any, *arguments: str) -> Any:
    """Python code that reads JSON from `sys.stdin` and prints JSON, run with that release."""
    return msgspec.json.decode(run(code, *arguments, stdin=msgspec.json.encode(value)))

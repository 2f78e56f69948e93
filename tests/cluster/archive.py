"""A container image as a file, for an image so small that no builder is needed."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path


def write_static(name: str, program: Path, archive: Path) -> None:
    """Write a docker-archive of one static program and nothing else, under the image name `name`."""
    layer = _tar({program.name: (program.read_bytes(), 0o755)})
    config = {
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    content = {
        "config.json": (json.dumps(config).encode(), 0o644),
        "manifest.json": (json.dumps(manifest).encode(), 0o644),
        "layer.tar": (layer, 0o644),
    }
    partial = archive.with_suffix(".partial")
    partial.write_bytes(_tar(content))
    partial.rename(archive)


def architecture() -> str:
    """This machine's architecture, in the words of images and of Debian."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    # No times, no owners: the same content makes the same archive.
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()

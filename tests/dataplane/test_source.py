"""The configuration's file: what cannot be read now is read later."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from auditpipeline.core.errors import Invalid, Retryable
from auditpipeline.dataplane.source import ConfigFile
from tests.dataplane.setting import Setting, until


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Nothing can be opened meanwhile (EMFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_cannot_be_read_is_tried_again(setting: Setting) -> None:
    """Although it is the same file as at the failure."""
    digest = setting.write(setting.config())
    file = ConfigFile(setting.path)
    for _ in range(2):
        with no_descriptors(), pytest.raises(Retryable, match="cannot be read: Too many open files"):
            file.changed()
    found = file.changed()
    assert found
    assert found.digest == digest
    assert file.changed() is None


def test_a_file_that_is_not_valid_is_refused_once(tmp_path: Path) -> None:
    """Until it is another one."""
    path = tmp_path / "config.json"
    path.write_text("{")
    file = ConfigFile(path)
    with pytest.raises(Invalid):
        file.changed()
    assert file.changed() is None


async def test_a_change_that_cannot_be_read_comes_into_force_later(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written once, and nobody writes it again."""
    failing, read = True, Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if failing and path == setting.path:
            raise OSError(24, "Too many open files", str(path))
        return read(path)

    async with setting.running(setting.config()) as plane:
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        digest = setting.write(setting.config(setting.route("other")))
        await until(lambda: plane.plane.config_error.endswith("cannot be read: Too many open files"))
        failing = False
        await plane.in_force(digest)
        assert not (await plane.report()).config_error

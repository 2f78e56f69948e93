"""Which folders `auditpipeline run` takes for its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditpipeline.cli.run_folder import DataFolder
from auditpipeline.core.errors import Invalid


@pytest.mark.parametrize("there", [(), ("lost+found",), ("tls", ".ca.crt.new")])
def test_an_empty_folder_is_taken_also_at_the_top_of_a_file_system(tmp_path: Path, there: tuple[str, ...]) -> None:
    """And what an earlier start left that found no room is its own."""
    for name in there:
        (tmp_path / name).mkdir()
    DataFolder(tmp_path).make()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_the_key_of_hashes_is_made_once_and_is_private(tmp_path: Path) -> None:
    """Hashes of before and after a restart can be compared; a start that ended before the certificates does no harm."""
    folder = DataFolder(tmp_path)
    folder.make_key()
    first = folder.redaction_key.read_bytes()
    DataFolder(tmp_path).make()
    folder.make_key()
    assert (len(first), folder.redaction_key.read_bytes()) == (32, first)
    assert folder.redaction_key.stat().st_mode & 0o777 == 0o600


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """It may be somebody's home."""
    (tmp_path / "letters").touch()
    before = tmp_path.stat().st_mode
    with pytest.raises(Invalid, match="holds other files"):
        DataFolder(tmp_path).make()
    assert tmp_path.stat().st_mode == before

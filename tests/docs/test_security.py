"""docs/security.md: each line is tried by a test that is there, or said to be a limit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for section in (ROOT / "docs" / "security.md").read_text().split("\n## ")
    if "test, or limit" in section
    for line in re.findall(r"^\| .*$", section, re.MULTILINE)
    if "test, or limit" not in line
]


def test_there_is_something_to_check() -> None:
    """Tables are found at all, and each of them."""
    assert len(LINES) > 30


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[2:50])
def test_each_line_has_a_test_or_is_a_limit(line: str) -> None:
    """The test exists in the file that is named."""
    last = line.strip("| ").rpartition(" | ")[2]
    named = re.fullmatch(r"`(tests/\S+\.py)::(test_\w+)`", last)
    if named is None:
        assert last.startswith("**limit**")
        return
    assert f"def {named[2]}(" in (ROOT / named[1]).read_text()

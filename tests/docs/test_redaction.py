"""docs/redaction.md against the code: the names and the examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auditpipeline.core.redaction import names
from auditpipeline.core.redaction.taking import Taker
from auditpipeline.core.redaction.text import arguments, text, value_of
from auditpipeline.core.redaction.url import uri

PAGE = (Path(__file__).parent.parent.parent / "docs" / "redaction.md").read_text()
ROWS = re.findall(r"^\| (variable|arguments|script|URI) \| `(.+)` \| (?:`(.+)`|all of it) \|$", PAGE, re.MULTILINE)


def left(kind: str, said: str) -> str:
    """Returns what is left of an example."""
    taker = Taker(len(said))
    if kind == "variable":
        name, _, value = said.partition("=")
        return f"{name}={value_of(name, value, taker)}"
    if kind == "arguments":
        return " ".join(arguments(said.split(" "), taker.take))
    return uri(said, taker) if kind == "URI" else text(said, taker.take)


@pytest.mark.parametrize(("kind", "said", "expected"), ROWS, ids=[f"{kind} {said}" for kind, said, _ in ROWS])
def test_the_examples_are_true(kind: str, said: str, expected: str) -> None:
    """Hits and misses; what is left is left alone the next time."""
    assert left(kind, said) == (expected or said)
    assert left(kind, expected or said) == (expected or said)


def test_there_are_examples_of_each_kind() -> None:
    """None is lost to another form of the table."""
    assert len(ROWS) == len(re.findall(r"^\| (?:variable|arguments|script|URI) \|", PAGE, re.MULTILINE)) > 20
    assert {kind for kind, _, _ in ROWS} == {"variable", "arguments", "script", "URI"}


def test_every_part_of_a_name_is_documented() -> None:
    """And no other one."""
    section = PAGE[PAGE.index("### Names") : PAGE.index("### What is not taken")]
    contains, ends, options, headers = re.findall(
        r"^- it (?:contains|ends with|is an? [^.]*?is|is a header, and is) (.+?)(?:, or|\.)$", section, re.MULTILINE
    )
    words = [re.findall(r"[A-Za-z_-]+", line) for line in (contains, ends, options, headers)]
    said = [[word for word in line if word not in ("or", "and", "is")] for line in words]
    assert said[0] == list(names.WORDS)
    assert said[1] == list(names.ENDS)
    assert said[2] == list(names.WHOLE)
    assert [names.spelt(word) for word in said[3]] == list(names.HEADERS)

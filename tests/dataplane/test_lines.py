"""Lines that are joined in memory, held against lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.dataplane.lines import Lines, as_lines

LISTS = st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"")), max_size=9)


def text_of(lines: list[bytes]) -> bytes:
    """The lines, each with its end."""
    return b"".join(line + b"\n" for line in lines)


@given(LISTS)
def test_joined_or_apart_they_are_the_same_lines(lines: list[bytes]) -> None:
    """In number, size, order and text, whichever of the two is there."""
    for made in (Lines.joined(text_of(lines), len(lines)), as_lines(lines)):
        assert (len(made), made.size, bool(made)) == (len(lines), sum(map(len, lines)), bool(lines))
        assert made.text == text_of(lines)
        assert made == lines
        assert list(made) == [made[number] for number in range(len(lines))] == lines


@given(LISTS, st.integers(0, 9), st.integers(0, 9))
def test_a_part_is_made_of_lines_again(lines: list[bytes], start: int, end: int) -> None:
    """Which begin and end where those of a list do."""
    part = Lines.joined(text_of(lines), len(lines))[start:end]
    assert part == lines[start:end]
    assert (part.size, part.text) == (sum(map(len, lines[start:end])), text_of(lines[start:end]))


@given(st.lists(LISTS, max_size=4))
def test_a_chain_is_all_of_them_and_no_copy(rows: list[list[bytes]]) -> None:
    """Each part's text is there as it was."""
    parts = [Lines.joined(text_of(lines), len(lines)) for lines in rows]
    chain = Lines.chained(parts)
    assert chain == [line for lines in rows for line in lines]
    assert chain.size == sum(part.size for part in parts)
    assert {id(text) for text in chain.texts} <= {id(text) for part in parts for text in part.texts}


def test_lines_stay_what_they_are() -> None:
    """Nothing is made anew for who asks twice."""
    made = as_lines([b"a", b"b"])
    assert as_lines(made) is made
    assert Lines.chained([made]) is made
    assert made.text is made.text

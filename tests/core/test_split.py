"""Parts are found as a recursive parser finds them, at any depth, and whatever is inside of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core import split

# Everything that a scanner may trip over, in strings and keys.
texts = st.text(st.sampled_from('a"\\{}[],:\n é\U0001f600'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)
spellings = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])


def nested(value: Any, levels: int) -> str:
    """The value within so many arrays and objects."""
    return '[{"a":' * levels + json.dumps(value) + "}]" * levels


@given(st.lists(values, max_size=8), spellings, st.booleans())
@settings(max_examples=300)
def test_the_elements_are_those_of_the_array(items: list[Any], separators: tuple[str, str], ascii_: bool) -> None:
    """One part for each, and one for a run of those that have nothing in them."""
    data = json.dumps({"x": items}, separators=separators, ensure_ascii=ascii_).encode()
    text = split.outline(data)
    assert len(text) == len(data)
    found = list(split.elements(text, text.index(b"[")))
    assert all(part.whole for part in found)
    assert sum(part.number for part in found) == len(items)
    assert [item for part in found for item in json.loads(b"[" + data[part.start : part.end] + b"]")] == items


@given(st.dictionaries(texts, values, max_size=6), spellings)
@settings(max_examples=300)
def test_the_members_are_those_of_the_object(fields: dict[str, Any], separators: tuple[str, str]) -> None:
    """Each key with its value."""
    data = json.dumps(fields, separators=separators).encode()
    found = {
        json.loads(b'"' + data[key.start : key.end] + b'"'): json.loads(data[value.start : value.end])
        for key, value in split.members(split.outline(data), 0)
    }
    assert found == fields


@pytest.mark.parametrize("levels", [1, 20, 32, 40, 600, 100_000])
@pytest.mark.parametrize("size", [0, 2**15, 2**18])
def test_depth_and_size_do_not_matter(levels: int, size: int) -> None:
    """Neighbours of a part of any depth and size are found, and how deep it is."""
    odd = nested('"]}\\' * (size // 4), levels)
    data = f'[{{"a":1}},{odd},"b,]",{{"c":[]}}]'.encode()
    text = split.outline(data)
    found = [data[part.start : part.end] for part in split.elements(text, 0)]
    assert found == [b'{"a":1}', odd.encode(), b'"b,]"', b'{"c":[]}']
    assert split.depth(split.outline(odd.encode())) == 2 * levels
    assert split.outlined_end(split.outline(b"x" + odd.encode() + b"]"), 1) == len(odd) + 1


@given(st.lists(st.dictionaries(texts, values, min_size=1), min_size=1, max_size=5), st.data())
@settings(max_examples=200)
def test_a_torn_array_has_its_whole_elements_and_the_rest(items: list[Any], data: st.DataObject) -> None:
    """Nothing of it is left out, and nothing comes twice."""
    whole = json.dumps(items, separators=(",", ":")).encode()
    torn = whole[: data.draw(st.integers(1, len(whole) - 1))]
    *found, last = split.elements(split.outline(torn), 0)
    assert all(part.whole for part in found)
    assert not last.whole
    assert [json.loads(torn[part.start : part.end]) for part in found] == items[: len(found)]
    assert last.end == len(torn.rstrip())
    assert last.start == (found[-1].end + 1 if found else 1)


def test_a_run_of_empty_elements_is_one_part_with_their_number() -> None:
    """Half a million of them need no half a million steps."""
    data = b"[" + b'1, "a,b",{}, [ ],null,' * 100_000 + b'{"a":1}]'
    *runs, last = split.elements(split.outline(data), 0)
    assert sum(part.number for part in runs) == 500_000
    assert len(runs) < 100
    assert data[last.start : last.end] == b'{"a":1}'


@pytest.mark.parametrize("data", [b"", b"{", b'{"a', b'{"a":[}', b"{]", b'["' + b"\\" * 2**18])
def test_what_does_not_end_has_no_end(data: bytes) -> None:
    """And the search for it ends."""
    text = split.outline(data)
    assert len(text) == len(data)
    assert split.outlined_end(text, 0) in (None, len(data))
    list(split.elements(text, 0))
    list(split.members(text, 0))


@given(st.lists(values | texts.map(lambda text: {text: [text]}), max_size=12), st.integers(0, 4), spellings)
@settings(max_examples=200)
def test_behind_as_many_parts_as_were_asked_for_come_runs(
    items: list[Any], most: int, separators: tuple[str, str]
) -> None:
    """All elements are counted, and none is left out."""
    data = json.dumps(items, separators=separators).encode()
    found = list(split.elements(split.outline(data), 0, most))
    assert sum(part.number for part in found) == len(items)
    assert [item for part in found for item in json.loads(b"[" + data[part.start : part.end] + b"]")] == items
    assert len(found) <= 2 * most + 2


@pytest.mark.parametrize("levels", [split._NESTED + 1, 200, 5000])
def test_many_short_and_deep_elements_take_no_more_than_a_few_looks(
    levels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at byte by byte is in proportion to the data, however short the elements are."""
    data = b"[" + b",".join([b"[" * levels + b"]" * levels] * (2**17 // levels)) + b"]"
    looked, real = 0, split._end_within

    def counted(parts: list[bytes], inside: int, level: int) -> int | None:
        nonlocal looked
        looked += sum(map(len, parts))
        return real(parts, inside, level)

    monkeypatch.setattr(split, "_end_within", counted)
    assert sum(part.number for part in split.elements(data, 0)) == 2**17 // levels
    assert looked <= 4 * len(data)


def test_is_deeper_asks_for_levels_and_not_for_brackets() -> None:
    """Brackets beside each other, or in strings, make nothing deep."""
    assert not split.is_deeper(b"[" + b"[]," * 1000 + b'"' + b"[" * 1000 + b'"]', 10)
    assert split.is_deeper(b"[" * 11 + b"]" * 11, 10)
    assert not split.is_deeper(b"[" * 10 + b"]" * 10, 10)

"""Bodies that were sound once: bytes flipped, cut out, doubled and swapped, and JSON of the wrong shape."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.dataplane.setting import DATA

_STRANGE = (
    b"\xff\xfe",
    b"\x00",
    b"\n",
    b"\r\n",
    b'"',
    b"\\",
    b"\\ud800",
    b"{",
    b"]",
    b"1e999",
    b"-0",
    b"NaN",
    b"\xc0\x80",
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def sound() -> list[list[dict[str, Any]]]:
    """Events of real request bodies, a few at a time."""
    whole = [json.loads(path.read_bytes())["items"] for path in sorted((DATA / "batches").glob("*.json"))]
    return [items[start : start + 4] for items in whole for start in range(0, len(items), 4)]


def listed(items: list[Any]) -> bytes:
    """An EventList of these items, as kube-apiserver writes it."""
    whole = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": items}
    return json.dumps(whole, separators=(",", ":")).encode()


@st.composite
def strange_lists(draw: st.DrawFn) -> bytes:
    """A real EventList in which a field of an event, an item, or the list itself is something else."""
    items: list[Any] = [dict(item) for item in draw(st.sampled_from(sound()))]
    place = draw(st.integers(0, len(items) - 1))
    match draw(st.sampled_from(["field", "item", "list", "missing"])):
        case "field":
            items[place][draw(st.sampled_from(sorted(items[place])))] = draw(ANYTHING)
        case "item":
            items[place] = draw(ANYTHING)
        case "missing":
            del items[place][draw(st.sampled_from(sorted(items[place])))]
        case _:
            return json.dumps(draw(ANYTHING)).encode()
    return listed(items)


def mutated(number: int, seed: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """So many bodies and their headers; the same ones for the same seed."""
    chance = random.Random(seed)
    bodies = [listed(items) for items in sound()]
    for _ in range(number):
        body = bytearray(chance.choice(bodies))
        for _ in range(chance.choice((0, 1, 1, 1, 2, 5, 50))):
            _mutate(body, chance, bodies)
        if chance.random() < 0.1:
            packed = bytearray(gzip.compress(bytes(body), 1))
            for _ in range(chance.choice((0, 1, 3))):
                packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
            yield bytes(packed), {"Content-Encoding": chance.choice(("gzip", "gzip", "gzip", "br", "Gzip"))}
        else:
            yield bytes(body), {}


def _mutate(body: bytearray, chance: random.Random, bodies: list[bytes]) -> None:
    place = chance.randrange(len(body) + 1)
    end = min(len(body), place + chance.choice((1, 1, 2, 10, 300)))
    match chance.randrange(6):
        case 0 if place < len(body):
            body[place] ^= 1 << chance.randrange(8)
        case 1:
            del body[place:end]
        case 2:
            body[place:place] = body[place:end]
        case 3:
            body[place:end] = chance.choice(_STRANGE)
        case 4:
            del body[place:]
        case _:
            other = chance.choice(bodies)
            start = chance.randrange(len(other))
            body[place:end] = other[start : start + chance.randrange(200)]

"""Promise: no secret of a kind that the list of places names is in what is stored or delivered; all else is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditpipeline.core.event import as_item, decode_event, encode_line
from auditpipeline.core.mend import is_tame, mended
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.redaction.model import DEFAULT, HASH, MASK_BASE64, Redaction
from auditpipeline.core.redaction.redactor import Redactor
from auditpipeline.dataplane.filter import Filter, Wanted, narrow_line
from tests.dataplane.setting import DATA
from tests.redaction.bodies import FORMS, listed
from tests.redaction.controls import EVENTS
from tests.redaction.events import item
from tests.redaction.marks import Mint, marks_in
from tests.redaction.plant import KINDS, Planted, planted, several
from tests.redaction.plant_secrets import KINDS as SECRETS
from tests.redaction.shape import as_line, loaded, problems, readable

EVERYTHING = (Policy(rules=(Rule("RequestResponse"),)),)
FILTER = Filter([Wanted(EVERYTHING)])
EACH = 8
"""Events of each kind."""
KEY = bytes(range(32))


def taken(planted_: Sequence[Planted], form: str = "listed") -> list[bytes]:
    """What a filter makes of a body of these events: the same again when it remembers them."""
    body = FORMS[form]([each.item for each in planted_])
    found, again = FILTER.take(body), FILTER.take(body)
    assert not any(b"auditID" in dead.data for dead in found.dead), found.dead
    assert list(found.lines) == list(again.lines)
    return list(found.lines)


def faults(each: Planted, line: bytes) -> list[str]:
    """Lists what is wrong with the line that was made of an event: a secret that is there, or anything else that is
    not."""
    left = [f"{number} is still there" for number in sorted(marks_in(line))]
    missing = [f"{text!r} is gone" for text in each.kept if text not in readable(line) and not each.odd]
    return [*left, *missing, *problems(each.item, line, each.odd)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_stays_and_all_else_does(kind: str) -> None:
    """In a body of several events of that kind."""
    events = [planted(kind, seed, seed * 100) for seed in range(EACH)]
    for each, line in zip(events, taken(events), strict=True):
        assert faults(each, line) == [], f"{each.item.decode(errors='replace')}\n\n{line.decode()}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_is_redacted_as_a_body_is(kind: str) -> None:
    """What comes out is stable, and a hash is a value like any other: with a key, without one, masked."""
    for redactor in (Redactor(DEFAULT), Redactor(Redaction(method="hash"), KEY), Redactor(Redaction(method="hash"))):
        for seed in range(EACH // 2):
            each = planted(kind, seed)
            found = redactor.line(_mended(each.item))
            assert faults(each, found.line) == []
            again = redactor.line(found.line)
            assert again == (found.line, 0)


def _mended(item_: bytes) -> bytes:
    """The event as a line, as it is when it was mended."""
    return encode_line(decode_event(item_) if is_tame(item_) else mended(item_))


def test_each_route_takes_what_another_one_keeps() -> None:
    """Beside a route that has opted out, events are stored whole, and the other one takes the secrets when it
    delivers. So it does with what a release without redaction has stored."""
    whole, without = Wanted(EVERYTHING, Redaction(default=False)), Wanted(EVERYTHING)
    for each in several(1500):
        (line,) = Filter([whole, without]).take(listed([each.item])).lines
        assert marks_in(line) or each.odd
        delivered = narrow_line(line, EVERYTHING, Redactor(DEFAULT))
        assert delivered is not None
        assert faults(each, delivered) == [], each.kind


def test_what_came_before_changes_nothing() -> None:
    """Thousands of events later, no more is taken from one, and no less."""
    own = Filter([Wanted(EVERYTHING)])
    for each in several(6000, kinds=[kind for kind in KINDS if kind.startswith(("command", "env", "pods", "probes"))]):
        (line,) = own.take(listed([each.item])).lines
        assert faults(each, line) == [], each.kind


def test_a_hash_becomes_a_mask() -> None:
    """What is stored with hashes for one route is delivered with masks to another: wherever there was a hash."""
    hashing, masking = Redactor(Redaction(method="hash"), KEY), Redactor(DEFAULT)
    hashes, in_base64 = re.compile(HASH.encode() + b"[0-9a-f]{32}"), base64.b64encode(HASH.encode())
    for each in several(2000):
        stored = hashing.line(_mended(each.item)).line
        delivered = masking.line(stored).line
        assert not hashes.search(delivered), (each.kind, delivered)
        assert in_base64 not in delivered, (each.kind, delivered)


@pytest.mark.parametrize("name", EVENTS)
def test_what_only_looks_like_a_secret_stays(name: str) -> None:
    """However a patch is spelt; the event does not say that something was taken."""
    for seed in range(EACH):
        line = as_line(item(EVENTS[name](Mint(seed))))
        found = Redactor(DEFAULT).line(line)
        assert (loaded(found.line), found.values) == (loaded(line), 0)


def test_real_events_without_secrets_stay() -> None:
    """Byte for byte, as a kube-apiserver posted them."""
    for path in sorted((DATA / "batches").glob("*.json")):
        body = path.read_bytes()
        for line in Filter([Wanted(EVERYTHING)]).take(body).lines:
            assert as_item(line) in body


@pytest.mark.parametrize("kind", [kind for kind in SECRETS if "data" in kind])
def test_what_stands_for_a_value_of_data_is_base64(kind: str) -> None:
    """A client that reads the event as a Secret finds what it can decode."""
    for each in several(30, kinds=[kind]):
        for body in (value for name, value in decode_event(taken([each])[0]).items() if name.endswith("Object")):
            for found in _data(json.loads(bytes(body))):
                assert found == MASK_BASE64 or base64.b64decode(found, validate=True)


def _data(value: object) -> list[str]:
    if isinstance(value, list):
        return [text for inner in value for text in _data(inner)]
    if not isinstance(value, dict):
        return []
    own = value.get("data")
    mine = list(own.values()) if isinstance(own, dict) else []
    return mine + [text for key, inner in value.items() if key != "data" for text in _data(inner)]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6)), min_size=1, max_size=8),
    st.sampled_from(sorted(FORMS)),
)
def test_secrets_of_all_kinds_in_bodies_of_all_forms(chosen: list[tuple[str, int]], form: str) -> None:
    """Events of any kinds side by side, in any form of a body: none is lost, and none keeps its secret."""
    events = [planted(kind, seed, number * 1000) for number, (kind, seed) in enumerate(chosen)]
    lines = taken(events, form)
    assert len(lines) == len(events)
    for each, line in zip(events, lines, strict=True):
        assert marks_in(line) == frozenset()
        if form == "v1beta1":
            continue
        assert faults(each, line) == []


def test_planted_secrets_are_found_where_nothing_is_redacted() -> None:
    """What the other tests stand on: each secret is really in its event, and is found in whatever spelling."""
    for each in several(3000):
        assert marks_in(each.item) == each.secrets, each.kind


def test_a_whole_object_that_is_removed_is_noticed() -> None:
    """A redactor that takes everything away passes no test here."""
    each = planted("Secret: data in a request", 1)
    event = decode_event(each.item)
    event["requestObject"] = msgspec.Raw(b"{}")
    line = as_line(msgspec.json.encode(event))
    assert problems(each.item, line)
    assert listed([each.item]) != listed([line])

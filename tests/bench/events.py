"""Request bodies of real-shaped events (`policy_rules`), and how to give each copy of one its own auditIDs."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterable
from functools import cache

from tests.bench.policy_rules import bodies, mixed_bodies

_ID = re.compile(rb'"auditID":"[^"]*"')
_STAGE = re.compile(rb'"stage":"([A-Za-z]+)"')


MIXES = {"plain": bodies, "cluster": mixed_bodies}
"""What the bodies of events are. `plain`: a Deployment without secrets in each, whatever the event is about; figures of
before redaction are of this mix. `cluster`: the kinds of `tests.bench.kinds`, in their shares."""


@cache
def some(count: int = 8, at_once: int = 400, average: int = 3200, mix: str = "plain") -> tuple[bytes, ...]:
    """That many bodies, always the same ones: `at_once` events of about `average` bytes, 70 % Metadata, 30 % with
    bodies."""
    return tuple(MIXES[mix](count, at_once, average))


def incompressible(whole: Iterable[bytes], characters: int) -> tuple[bytes, ...]:
    """The bodies with a userAgent of that many random characters in each event: what fills a disk quickly."""
    chance, letters = random.Random(11), string.ascii_letters + string.digits
    found = []
    for body in whole:
        events = json.loads(body)
        for event in events["items"]:
            event["userAgent"] = "".join(chance.choices(letters, k=characters))
        found.append(json.dumps(events, separators=(",", ":")).encode())
    return tuple(found)


class Template:
    """A body of which copies are made, each with auditIDs of its own."""

    def __init__(self, body: bytes) -> None:
        self._parts = _ID.split(body)
        self._stages = [found.decode() for found in _STAGE.findall(body)]
        self.events = len(self._parts) - 1
        if len(self._stages) != self.events:
            raise ValueError("each event of a body needs one auditID and one stage")

    def stamped(self, name: str) -> tuple[bytes, list[str]]:
        """A copy whose auditIDs begin with `name`, and what identifies its events: `auditID/stage`, in order."""
        ids = [f"{name}-{number}" for number in range(self.events)]
        parts = [self._parts[0]]
        for audit_id, part in zip(ids, self._parts[1:], strict=True):
            parts += (b'"auditID":"%b"' % audit_id.encode(), part)
        return b"".join(parts), [f"{audit_id}/{stage}" for audit_id, stage in zip(ids, self._stages, strict=True)]


def stamps(templates: Iterable[bytes], name: str) -> Callable[[], tuple[bytes, list[str]]]:
    """A source of bodies: each call gives the next one, with auditIDs that no other call gives."""
    made = [Template(body) for body in templates]
    count = 0

    def following() -> tuple[bytes, list[str]]:
        nonlocal count
        count += 1
        return made[count % len(made)].stamped(f"{name}-{count}")

    return following

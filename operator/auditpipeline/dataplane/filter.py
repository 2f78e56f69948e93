"""A request's body -> the events that at least one route wants, as lines to store.

An event is stored as the widest of its routes wants it, and each route narrows it again when it delivers: one row
serves them all. `digest` names the policies that decided, so that a route whose own policies were the only ones may
deliver the stored lines as they are.

What cannot be read becomes a dead letter, never an error: kube-apiserver would send it again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import (
    Head,
    Raw,
    cut,
    decode_body,
    decode_event,
    delivery_key,
    encode_line,
    head,
    narrow,
    split_body,
)
from auditpipeline.core.policy import Decision, Policy
from auditpipeline.dataplane.store import NO_OUTPUT, Dead

Policies = tuple[Policy, ...]


class Taken(NamedTuple):
    """What became of a body: lines to store, the number of events that no route wants, and what cannot be read."""

    lines: list[bytes]
    filtered: int
    dead: list[Dead]


def digest(policies: Iterable[Policies]) -> str:
    """The name of a set of filters: the same policies always have the same name."""
    encoded = sorted({msgspec.json.encode(filter_) for filter_ in policies})
    return hashlib.sha256(b"\n".join(encoded)).hexdigest()[:16]


class Filter:
    """What the routes of one configuration want together; each item of `routes` is the policies of one."""

    def __init__(self, routes: Iterable[Policies]) -> None:
        self._routes = tuple(dict.fromkeys(routes))
        self.digest = digest(self._routes)

    def take(self, body: bytes) -> Taken:
        """Decides on every event of a body; never raises."""
        taken = Taken([], 0, [])
        try:
            events: Iterable[Raw | bytes] = decode_body(body)
        except Permanent as error:
            try:
                events = split_body(body)
            except Permanent:
                return Taken([], 0, [Dead(NO_OUTPUT, str(error), body)])
        filtered = sum(not self._take_one(event, taken) for event in events)
        return taken._replace(filtered=filtered)

    def _take_one(self, event: Raw | bytes, taken: Taken) -> bool:
        """Puts the event where it belongs; whether anything is left of it."""
        try:
            found = decode_event(event) if isinstance(event, bytes) else event
            captured = head(found)
            decision = self.decide(captured)
            if decision:
                taken.lines.append(encode_line(cut(found, captured.level, decision)))
            return decision is not None
        except Permanent as error:
            data = event if isinstance(event, bytes) else msgspec.json.encode(event)
            taken.dead.append(Dead(NO_OUTPUT, str(error), data, delivery_key(data)))
            return True

    def decide(self, captured: Head) -> Decision | None:
        """The widest of what the routes want of the event; None where no route wants it."""
        wanted = [decision for policies in self._routes if (decision := narrow(captured, policies))]
        if not wanted:
            return None
        widest = max(wanted, key=lambda decision: decision.level)
        return widest._replace(omit_managed_fields=all(decision.omit_managed_fields for decision in wanted))


def narrow_line(line: bytes, policies: Policies) -> bytes | None:
    """What a route with these policies gets of a stored line; None where nothing. Permanent where it cannot be read."""
    event = decode_event(line)
    captured = head(event)
    decision = narrow(captured, policies)
    return encode_line(cut(event, captured.level, decision)) if decision else None

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

from auditpipeline.core.compile import Compiled
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
    is_plain,
    level_and_stage,
    narrow,
    request_of,
    response_code,
    split_body,
    unreadable,
)
from auditpipeline.core.policy import Decision, Level, Policy
from auditpipeline.dataplane.store import NO_OUTPUT, Dead

Policies = tuple[Policy, ...]


class Taken(NamedTuple):
    """What became of a body: lines to store, the number of events that no route wants, and what cannot be read."""

    lines: list[bytes]
    filtered: int
    dead: list[Dead]


class _Fate(NamedTuple):
    """What becomes of events of one combination: the level that they were captured at, and what is left of them."""

    captured: Level
    decision: Decision


_MAX_FATES = 4096


def digest(policies: Iterable[Policies]) -> str:
    """The name of a set of filters: the same policies always have the same name."""
    encoded = sorted({msgspec.json.encode(filter_) for filter_ in policies})
    return hashlib.sha256(b"\n".join(encoded)).hexdigest()[:16]


class Filter:
    """What the routes of one configuration want together; each item of `routes` is the policies of one.

    What becomes of an event depends on its level, stage and response code and on the rule that decides in each policy:
    for each such combination the answer is worked out once, by the interpreter, and then looked up.
    """

    def __init__(self, routes: Iterable[Policies]) -> None:
        self._routes = tuple(dict.fromkeys(routes))
        self.digest = digest(self._routes)
        policies = dict.fromkeys(policy for policies in self._routes for policy in policies)
        self._compiled = tuple(Compiled(policy) for policy in policies)
        self._by_code = any(rule.omit_response_codes for policy in policies for rule in policy.rules)
        self._fates: dict[tuple[object, ...], _Fate | None] = {}

    def take(self, body: bytes) -> Taken:
        """Decides on every event of a body; never raises."""
        try:
            events: Iterable[Raw | bytes] = decode_body(body)
        except Permanent as error:
            try:
                events = split_body(body)
            except Permanent:
                return Taken([], 0, [Dead(NO_OUTPUT, str(error), body)])
        plain = is_plain(body)
        lines: list[bytes] = []
        dead: list[Dead] = []
        filtered = 0
        for event in events:
            try:
                found = decode_event(event) if isinstance(event, bytes) else event
                if fate := self._fate(found):
                    captured, decision = fate
                    lines.append(encode_line(cut(found, captured, decision), plain))
                else:
                    filtered += 1
            except Permanent as error:
                data = event if isinstance(event, bytes) else msgspec.json.encode(event)
                dead.append(Dead(NO_OUTPUT, str(error), data, delivery_key(data)))
        return Taken(lines, filtered, dead)

    def _fate(self, event: Raw) -> _Fate | None:
        """What becomes of the event; None where no route wants it. Permanent where it cannot be read."""
        try:
            level, stage = level_and_stage(event)
            user, groups, verb, path, resource, subresource, group, namespace, name = request_of(event)
        except ValueError as error:
            raise unreadable(error) from None
        kind = (verb, group, resource, subresource)
        rules = [
            (compiled.branches.get(kind) or compiled.branch(kind))(user, groups, path, namespace, name).rule
            for compiled in self._compiled
        ]
        combination = (level, stage, response_code(event) if self._by_code else 0, *rules)
        try:
            return self._fates[combination]
        except KeyError:
            return self._remember(combination, head(event))

    def _remember(self, combination: tuple[object, ...], captured: Head) -> _Fate | None:
        if len(self._fates) >= _MAX_FATES:
            self._fates.clear()
        decision = self.decide(captured)
        self._fates[combination] = _Fate(captured.level, decision) if decision else None
        return self._fates[combination]

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

"""A request's body -> the events that at least one route wants, as lines to store.

An event is stored as the widest of its routes wants it, and each route narrows it again when it delivers: one row
serves them all. `digest` names the policies that decided, so that a route whose own policies were the only ones may
deliver the stored lines as they are.

What cannot be read becomes a dead letter, never an error: kube-apiserver would send it again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

import msgspec

from auditpipeline.core.canary import PATH as CANARIES
from auditpipeline.core.compile import Compiled
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import (
    Head,
    Kind,
    Raw,
    Rest,
    cut,
    decode_body,
    decode_event,
    delivery_key,
    encode_line,
    encode_lines,
    encode_plain,
    facts_of,
    head,
    is_plain,
    is_whole,
    narrow,
    response_code,
    split_body,
)
from auditpipeline.core.known import Known, code_of_known, cut_known, decode_known, facts_of_known
from auditpipeline.core.policy import Decision, Level, Policy
from auditpipeline.dataplane.lines import Lines
from auditpipeline.dataplane.store import NO_OUTPUT, Dead

Policies = tuple[Policy, ...]


class Taken(NamedTuple):
    """What became of a body: lines to store, the number of events that no route wants, and what cannot be read; and the
    events that may be canaries, wanted or not."""

    lines: Lines
    filtered: int
    dead: list[Dead]
    canaries: list[Raw]


class _Fate(NamedTuple):
    """What becomes of events of one combination: the level that they were captured at, what is left of them (None:
    nothing), and whether that is the whole event."""

    captured: Level
    decision: Decision | None
    whole: bool


_MAX_FATES = 4096
E = TypeVar("E")


class _Form(NamedTuple, Generic[E]):
    """What is done to an event in one of the forms that a body is decoded to; `tidy` makes it a line, where it may be
    none yet."""

    facts: Callable[[E], tuple[str, str, Kind, Rest]]
    code: Callable[[E], int]
    cut: Callable[[E, Level, Decision], E]
    raw: Callable[[E], Raw]
    tidy: Callable[[E], msgspec.Raw] | None = None


_KNOWN = _Form[Known](facts_of_known, code_of_known, cut_known, lambda event: decode_event(encode_plain(event)))
_PLAIN = _Form[Raw](facts_of, response_code, cut, lambda event: event)
_ANY = _Form[Raw](facts_of, response_code, cut, lambda event: event, lambda event: msgspec.Raw(encode_line(event)))


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
        # Without routes there is one judge all the same, who wants nothing.
        compiled = [Compiled(policy) for policy in policies or (Policy(),)]
        self._judges = tuple((each.branches.get, each.branch) for each in compiled)
        self._by_code = any(rule.omit_response_codes for policy in policies for rule in policy.rules)
        self._fates: dict[tuple[object, ...], _Fate] = {}

    def take(self, body: bytes) -> Taken:
        """Decides on every event of a body; never raises."""
        known = decode_known(body)
        if known is not None:
            return self._take(known, _KNOWN, [])
        dead: list[Dead] = []
        try:
            events = decode_body(body)
        except Permanent as error:
            try:
                events = list(_readable(split_body(body), dead))
            except Permanent:
                return Taken(Lines.joined(b"", 0), 0, [Dead(NO_OUTPUT, str(error), body)], [])
        return self._take(events, _PLAIN if is_plain(body) else _ANY, dead)

    def _take(self, events: Iterable[E], form: _Form[E], dead: list[Dead]) -> Taken:
        """Every microsecond here is one of each event's five: what happens to all of them is written out."""
        kept, filtered, canaries = list[E | msgspec.Raw](), 0, list[Raw]()
        facts, tidy, find_fate, by_code = form.facts, form.tidy, self._fates.get, self._by_code
        (find, learn), *others = self._judges
        for event in events:
            try:
                level, stage, kind, (user, groups, path, namespace, name) = facts(event)
                if path and path.startswith(CANARIES):
                    canaries.append(form.raw(event))
                rules: object = (find(kind) or learn(kind))(user, groups, path, namespace, name).rule
                if others:
                    rules = (rules, *self._others(kind, (user, groups, path, namespace, name)))
                combination = (level, stage, form.code(event) if by_code else 0, rules)
                fate = find_fate(combination) or self._remember(combination, form.raw(event))
                if fate.decision is None:
                    filtered += 1
                else:
                    left = event if fate.whole else form.cut(event, fate.captured, fate.decision)
                    kept.append(tidy(left) if tidy else left)
            except Permanent as error:
                dead.append(_dead(error, msgspec.json.encode(event)))
        return Taken(Lines.joined(encode_lines(kept), len(kept)), filtered, dead, canaries)

    def _others(self, kind: Kind, rest: Rest) -> list[int | None]:
        """The rules that decide in the second policy and those after it."""
        return [(find(kind) or learn(kind))(*rest).rule for find, learn in self._judges[1:]]

    def _remember(self, combination: tuple[object, ...], event: Raw) -> _Fate:
        if len(self._fates) >= _MAX_FATES:
            self._fates.clear()
        captured = head(event)
        decision = self.decide(captured)
        whole = decision is not None and is_whole(captured.level, decision)
        self._fates[combination] = _Fate(captured.level, decision, whole)
        return self._fates[combination]

    def decide(self, captured: Head) -> Decision | None:
        """The widest of what the routes want of the event; None where no route wants it."""
        wanted = [decision for policies in self._routes if (decision := narrow(captured, policies))]
        if not wanted:
            return None
        widest = max(wanted, key=lambda decision: decision.level)
        return widest._replace(omit_managed_fields=all(decision.omit_managed_fields for decision in wanted))


def _readable(items: Iterable[bytes], dead: list[Dead]) -> Iterator[Raw]:
    """The items that are events; the others go to `dead`."""
    for item in items:
        try:
            yield decode_event(item)
        except Permanent as error:
            dead.append(_dead(error, item))


def _dead(error: Permanent, data: bytes) -> Dead:
    return Dead(NO_OUTPUT, str(error), data, delivery_key(data))


def narrow_line(line: bytes, policies: Policies) -> bytes | None:
    """What a route with these policies gets of a stored line; None where nothing. Permanent where it cannot be read."""
    event = decode_event(line)
    captured = head(event)
    decision = narrow(captured, policies)
    return encode_line(cut(event, captured.level, decision)) if decision else None

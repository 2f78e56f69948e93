"""A request's body -> the events that at least one route wants, without secrets, as lines to store.

An event is stored as the widest of its routes wants it, and each route narrows it again when it delivers: one row
serves them all. So it is with secrets: what every one of these routes takes is gone before anything is stored, and each
takes the rest when it delivers. An event that the conditions of no route keep is not stored, and each route asks its
own when it delivers. `digest` names what decided, so that a route that was alone in that may deliver the stored lines
as they are.

What cannot be read becomes a dead letter, never an error: kube-apiserver would send it again and again. One odd event
costs none of its neighbours: a body that the quick decoders refuse is read item by item (`core.eventlist`), which is
slower, so that the intake does it in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from auditpipeline.core.canary import PATH as CANARIES
from auditpipeline.core.compile import Compiled
from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.conditions.values import Get
from auditpipeline.core.conditions.view import is_exempt
from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import (
    Head,
    Kind,
    Raw,
    as_item,
    cut,
    decode_event,
    delivery_key,
    encode_line,
    encode_lines,
    encode_plain,
    facts_of,
    has_excess,
    head,
    is_plain,
    is_whole,
    narrow,
    response_code,
    with_envelope,
    without_envelope,
)
from auditpipeline.core.event import Rest as Where
from auditpipeline.core.eventlist import MOST_ALONE, Rest, Unreadable, decode_body, is_crowded, is_event, read_body
from auditpipeline.core.known import (
    Known,
    code_of_known,
    cut_known,
    decode_known,
    facts_of_known,
    find_known,
    has_excess_known,
)
from auditpipeline.core.mend import mended
from auditpipeline.core.policy import Decision, Level, Policy
from auditpipeline.core.redaction.events import redacted, redacted_known, size_of, size_of_known
from auditpipeline.core.redaction.model import DEFAULT, Redaction, Stays, common
from auditpipeline.core.redaction.redactor import Redactor, edition
from auditpipeline.dataplane.conditions import Asked, Conditions, Watched, keeps, keeps_any
from auditpipeline.dataplane.lines import Lines
from auditpipeline.dataplane.store import NO_OUTPUT, Dead

Policies = tuple[Policy, ...]


class Wanted(NamedTuple):
    """What one route wants: what passes all of its policies, without what its redaction takes, if all of its conditions
    are true of that."""

    policies: Policies
    redaction: Redaction = DEFAULT
    conditions: tuple[Condition, ...] = ()


_Wanting = list[tuple[Wanted, Decision]]


class Taken(NamedTuple):
    """What became of a body: lines to store, the number of events that no route wants, and what cannot be read; the
    events that may be canaries, wanted or not; how many events had bodies that their level does not have; and how many
    secret values were taken from how many events."""

    lines: Lines
    filtered: int
    dead: list[Dead]
    canaries: list[Raw]
    excess: int = 0
    redacted: int = 0
    values: int = 0


class _Fate(NamedTuple):
    """What becomes of events of one combination: the level that they were captured at, what is left of them (None:
    nothing), whether that is the whole event, what takes secrets from it (None: nobody does), and the conditions of
    each route that wants it (none if a route has none)."""

    captured: Level
    decision: Decision | None
    whole: bool
    redactor: Redactor | None
    asked: tuple[Asked, ...]


_MAX_FATES = 4096
E = TypeVar("E")


class _Form(NamedTuple, Generic[E]):
    """What is done to an event in one of the forms that a body is decoded to; `tidy` makes it a line, if it may not be
    one yet."""

    facts: Callable[[E], tuple[str, str, Kind, Where]]
    code: Callable[[E], int]
    excess: Callable[[E, Level], bool]
    cut: Callable[[E, Level, Decision], E]
    redacted: Callable[[E, Kind, Redactor], tuple[E, int]]
    size: Callable[[E], int]
    find: Callable[[E], Get]
    raw: Callable[[E], Raw]
    tidy: Callable[[E], msgspec.Raw | Raw] | None = None


_KNOWN = _Form[Known](
    facts_of_known,
    code_of_known,
    has_excess_known,
    cut_known,
    redacted_known,
    size_of_known,
    find_known,
    lambda event: without_envelope(decode_event(encode_plain(event))),
)
_PLAIN = _Form[Raw](
    facts_of,
    response_code,
    has_excess,
    cut,
    redacted,
    size_of,
    lambda event: event.get,
    lambda event: event,
    with_envelope,
)
_ANY = _PLAIN._replace(tidy=lambda event: msgspec.Raw(encode_line(event)))


class Decoded(NamedTuple):
    """The events of a body, and the form that they are decoded to; `quick` unless they were read one by one."""

    events: Sequence[Any]
    form: _Form[Any]
    quick: bool = True

    @classmethod
    def one_by_one(cls, events: Sequence[Raw]) -> Decoded:
        """Events that were read one by one."""
        return cls(events, _ANY, quick=False)


_SLICE = 1000
"""Events that are decided on before others get their turn."""
_FORM = b"lines with kind and apiVersion"
"""What the lines of a row look like, besides the policies that decided: rows of a release that made others are made
anew when they are delivered."""


def digest(routes: Iterable[Wanted], key: bytes | None = None) -> str:
    """The name of a set of filters: the same routes always have the same name, with the same list of secrets and the
    same key of hashes, if they have any. If all of them have one redaction, what is behind the `+` is its name."""
    wanted = set(routes)
    encoded = sorted({msgspec.json.encode(each) for each in wanted})
    redactions = {each.redaction for each in wanted}
    name = _name(*encoded, *(_name_of(each, key).encode() for each in redactions if each.hashes))
    return f"{name}+{_name_of(redactions.pop(), key)}" if len(redactions) == 1 else name


def redaction_of(digest: str) -> str:
    """The name of the redaction in the name of a set of filters; empty if its routes have several."""
    return digest.partition("+")[2]


def _name_of(redaction: Redaction, key: bytes | None) -> str:
    secret = [hashlib.sha256(b"key of hashes:" + key).digest()] if key and redaction.hashes else []
    return _name(msgspec.json.encode(redaction), *secret)


def _name(*said: bytes) -> str:
    return hashlib.sha256(b"\n".join([_FORM, edition().encode(), *said])).hexdigest()[:16]


class Filter:
    """What the routes of one configuration want together. `key` is that of hashes (None: what should be hashed is
    masked).

    What becomes of an event depends on its level, stage and response code and on the rule that decides in each policy:
    for each such combination the answer is worked out once, by the interpreter, and then looked up.
    """

    def __init__(
        self, routes: Iterable[Wanted], key: bytes | None = None, conditions: Conditions | None = None
    ) -> None:
        self._routes = tuple(dict.fromkeys(routes))
        self._key = key
        self._conditions = conditions or Conditions()
        self.digest = digest(self._routes, key)
        policies = dict.fromkeys(policy for route in self._routes for policy in route.policies)
        # Without routes there is one judge all the same, who wants nothing.
        compiled = [Compiled(policy) for policy in policies or (Policy(),)]
        self._judges = tuple((each.branches.get, each.branch) for each in compiled)
        self._by_code = any(rule.omit_response_codes for policy in policies for rule in policy.rules)
        self._fates: dict[tuple[object, ...], _Fate] = {}

    def take(self, body: bytes) -> Taken:
        """Decides on every event of a body; never raises."""
        quick = decode(body)
        parts = list(self.slices(quick)) if quick else []
        if parts and not parts[-1].dead:
            return merged(parts)
        events, unreadable = read_body(body)
        return merged([*self.slices(Decoded.one_by_one(events)), self.left_over(unreadable)])

    def slices(self, decoded: Decoded) -> Iterator[Taken]:
        """Decides on the events, some at a time; at least one part comes. What is refused of a body that was decoded
        quickly may be an event that can be mended: that part is the last one, and the body has to be read."""
        for start in range(0, len(decoded.events) or 1, _SLICE):
            part = self._take(decoded.events[start : start + _SLICE], decoded.form)
            yield part
            if part.dead and decoded.quick:
                return

    def left_over(self, unreadable: Iterable[Unreadable]) -> Taken:
        """What no event could be made of, as dead letters."""
        return Taken(Lines.joined(b"", 0), 0, [_letter(each) for each in unreadable], [])

    def _take(self, events: Iterable[E], form: _Form[E]) -> Taken:
        """Every microsecond here is one of each event's five: what happens to all of them is written out."""
        kept, filtered, canaries, excess, lighter, values = list[E | Raw | msgspec.Raw](), 0, list[Raw](), 0, 0, 0
        refused = list[tuple[Any, Permanent]]()
        facts, tidy, find_fate, by_code = form.facts, form.tidy, self._fates.get, self._by_code
        has_more, redacted = form.excess, form.redacted
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
                    continue
                if more := has_more(event, fate.captured):
                    excess += 1
                left = event if fate.whole and not more else form.cut(event, fate.captured, fate.decision)
                taken = 0
                if fate.redactor:
                    left, taken = redacted(left, kind, fate.redactor)
                if fate.asked and not keeps_any(fate.asked, form.find(left)):
                    filtered += 1
                    continue
                if taken:
                    lighter, values = lighter + 1, values + taken
                kept.append(tidy(left) if tidy else left)
            except Permanent as error:
                refused.append((event, error))
        dead = _refused(refused) if refused else []
        lines = Lines.joined(encode_lines(kept), len(kept))
        return Taken(lines, filtered, dead, canaries, excess, lighter, values)

    def _others(self, kind: Kind, rest: Where) -> list[int | None]:
        """The rules that decide in the second policy and those after it."""
        return [(find(kind) or learn(kind))(*rest).rule for find, learn in self._judges[1:]]

    def _remember(self, combination: tuple[object, ...], event: Raw) -> _Fate:
        if len(self._fates) >= _MAX_FATES:
            self._fates.clear()
        captured = head(event)
        wanting = self._wanting(captured)
        decision = _widest(wanting)
        whole = decision is not None and is_whole(captured.level, decision)
        asked = self._asked(captured, wanting, decision)
        # Very large events are decided on in another thread, which may clear what is remembered.
        fate = self._fates[combination] = _Fate(captured.level, decision, whole, self._redactor(wanting), asked)
        return fate

    def _wanting(self, captured: Head) -> _Wanting:
        """The routes that want the event, and what each of them wants of it."""
        return [(route, decision) for route in self._routes if (decision := narrow(captured, route.policies))]

    def _asked(self, captured: Head, wanting: _Wanting, widest: Decision | None) -> tuple[Asked, ...]:
        """The conditions that decide whether the event is stored."""
        found = list[Asked]()
        for (policies, _, conditions), decision in wanting:
            if not conditions or is_exempt(policies, captured.request):
                return ()
            cut_so = widest and _leaves(decision) == _leaves(widest)
            found.append(Asked(self._conditions.of(conditions), None if cut_so else decision))
        return tuple(found)

    def _redactor(self, wanting: _Wanting) -> Redactor | None:
        """What takes secrets from the event before it is stored. A part of it stays as it came if a route that opted
        out wants that part: one that wants no bodies has no say in these."""
        wanted = [(route.redaction, decision.level) for route, decision in wanting]
        redaction = common({each for each, _ in wanted} or {DEFAULT})
        if redaction.default or len({each for each, _ in wanted}) == 1:
            return redactor(redaction, self._key)
        needs: dict[Stays, Level] = {"beside": Level.NONE, "request": Level.REQUEST, "response": Level.REQUEST_RESPONSE}
        stays = {
            part for part, least in needs.items() if not all(each.default for each, level in wanted if level >= least)
        }
        return redactor(Redaction(method=redaction.method), self._key, frozenset(stays))

    def decide(self, captured: Head) -> Decision | None:
        """The widest of what the routes want of the event; None where no route wants it."""
        return _widest(self._wanting(captured))


def _widest(wanting: _Wanting) -> Decision | None:
    if not wanting:
        return None
    widest = max((decision for _, decision in wanting), key=lambda decision: decision.level)
    return widest._replace(omit_managed_fields=all(decision.omit_managed_fields for _, decision in wanting))


def _leaves(decision: Decision) -> tuple[Level, bool]:
    """What a decision leaves of an event that it keeps."""
    return decision.level, decision.omit_managed_fields


def decode(body: bytes) -> Decoded | None:
    """The events of a body, quickly; None if it has to be read item by item."""
    known = decode_known(body)
    if known is not None:
        return Decoded(known, _KNOWN)
    if is_crowded(body) or not _is_utf8(body):
        return None
    try:
        return Decoded(decode_body(body), _PLAIN if is_plain(body) else _ANY)
    except Permanent:
        return None


def merged(parts: Sequence[Taken]) -> Taken:
    """What became of all of them, of which there is at least one."""
    if len(parts) == 1:
        return parts[0]
    lines, filtered, dead, canaries, *counts = zip(*parts, strict=True)
    return Taken(
        Lines.chained([each for each in lines if each]) if any(lines) else Lines.joined(b"", 0),
        sum(filtered),
        _few(list(chain.from_iterable(dead))),
        list(chain.from_iterable(canaries)),
        *map(sum, counts),
    )


def _few(dead: list[Dead]) -> list[Dead]:
    """The dead letters of a body, of which there are not very many: those behind the first become one."""
    if len(dead) <= MOST_ALONE:
        return dead
    rest = Rest()
    for letter in dead[MOST_ALONE:]:
        rest.add(letter.data, letter.events)
    return [*dead[:MOST_ALONE], *(_letter(each) for each in rest.unreadable())]


def _letter(each: Unreadable) -> Dead:
    return Dead(NO_OUTPUT, each.reason, each.data, delivery_key(each.data), each.events)


def _refused(refused: Iterable[tuple[Known | Raw, Permanent]]) -> list[Dead]:
    """Events that cannot be decided on, or not be cut; the first ones by themselves."""
    alone, rest = list[Unreadable](), Rest()
    for event, error in refused:
        data = as_item(encode_plain(event))
        if len(alone) < MOST_ALONE and (isinstance(event, Known) or is_event(event)):
            alone.append(Unreadable(str(error), data))
        else:
            rest.add(data)
    return [_letter(each) for each in (*alone, *rest.unreadable())]


def _is_utf8(body: bytes) -> bool:
    try:
        return body.isascii() or bool(body.decode())
    except UnicodeDecodeError:
        return False


@lru_cache(32)
def redactor(redaction: Redaction, key: bytes | None = None, stays: frozenset[Stays] = frozenset()) -> Redactor | None:
    """What applies a redaction; None if there is nothing to apply. All routes with one redaction share what it
    remembers, which is some megabytes."""
    made = Redactor(redaction, key, stays=stays)
    return None if made.idle else made


def narrow_line(
    line: bytes, policies: Policies, redactor: Redactor | None, watched: tuple[Watched, ...] = ()
) -> bytes | None:
    """What a route with these policies and conditions gets of a stored line; None if nothing. Permanent if it cannot be
    read."""
    try:
        return _narrowed(decode_event(line), policies, redactor, watched)
    except Permanent:
        # The deeper the stack is here, the fewer levels can be decoded.
        return _narrowed(mended(line), policies, redactor, watched)


def _narrowed(event: Raw, policies: Policies, redactor: Redactor | None, watched: tuple[Watched, ...]) -> bytes | None:
    captured = head(event)
    decision = narrow(captured, policies)
    if not decision:
        return None
    left = cut(event, captured.level, decision)
    left = redactor.event(left, facts_of(left)[2], stored=True)[0] if redactor else left
    if watched and not is_exempt(policies, captured.request) and not keeps(watched, left.get):
        return None
    return encode_line(left)

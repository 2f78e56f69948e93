"""What a record of statuses says about a disturbance. Pure: states, Events, writes and times in, a row of a table out.

    unchanged objects   no condition may move (status, reason, lastTransitionTime), not even for a moment; no Event may
                        tell of them; nothing of theirs may be written but a status whose figures or words changed
                        over a planned restart of its receivers (`planned` seconds) the conditions that tell of it may
                        move, have to come back within that time, and may be told by Events
    broken objects      may say Ready=True for GRACE seconds, counted from when they broke or from when the API server
                        answered again, whichever came last; and may have no Ready condition at all for as long

A row without a fault is a promise that held. Whatever cannot be judged (an object that was never seen) raises.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

GRACE = 10.0
"""Seconds for which a broken pipeline may say Ready=True while the API server answers: the promise itself."""
OF_RESTARTS = frozenset({"Ready", "Reconciling", "WebhookAvailable", "Delivering"})
"""The conditions that tell of a receiver that is restarted."""
Key = tuple[str, str]
"""Kind and name."""


class Condition(NamedTuple):
    """One condition; `since` is its lastTransitionTime."""

    kind: str
    status: str
    reason: str
    message: str
    since: str


class State(NamedTuple):
    """An object as it was seen at `at` (seconds since the epoch). `figures` is whatever else its status holds, as text.
    One that is gone has no `uid`."""

    at: float
    key: Key
    uid: str
    version: str
    conditions: tuple[Condition, ...] = ()
    figures: str = ""


class Told(NamedTuple):
    """A Kubernetes Event on an object."""

    at: float
    key: Key
    reason: str
    note: str


class Write(NamedTuple):
    """A write of the operator that the API server accepted; `version` is the resourceVersion that it led to."""

    at: float
    verb: str
    resource: str
    name: str
    version: str = ""


class Record(NamedTuple):
    """Everything that was seen, each in the order of time. An outage is from when the API server no longer answered to
    when it answered again."""

    states: Sequence[State] = ()
    events: Sequence[Told] = ()
    outages: Sequence[tuple[float, float]] = ()


class Window(NamedTuple):
    """When a disturbance began, and until when it was watched."""

    begins: float
    ends: float


class Row(NamedTuple):
    """What a disturbance did. `figures` and `words` count the statuses of unchanged objects whose counters or messages
    alone were written; `wrong` and `silent` are the longest times in seconds."""

    disturbance: str
    window: Window
    moved: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    figures: int = 0
    words: int = 0
    wrong: float = 0.0
    wrongly: str = ""
    silent: float = 0.0
    silently: str = ""

    @property
    def faults(self) -> list[str]:
        """Every broken promise, as a sentence."""
        found = [f"moved: {text}" for text in self.moved]
        found += [f"Event: {text}" for text in self.events]
        found += [f"written: {text}" for text in self.writes]
        if self.wrong > GRACE:
            found.append(f"{self.wrongly} said Ready=True for {self.wrong:.1f} s while it was broken")
        if self.silent > GRACE:
            found.append(f"{self.silently} had no Ready condition for {self.silent:.1f} s")
        return found


def judge(
    disturbance: str,
    record: Record,
    window: Window,
    *,
    unchanged: Collection[Key] = (),
    broken: Mapping[Key, float] | None = None,
    writes: Iterable[Write] = (),
    planned: float = 0.0,
) -> Row:
    """The row of a disturbance. `broken` says since when each object has been broken; `writes` are those that would be
    faults, and may hold any number of writes of statuses, which are judged by what they changed. `planned` is how many
    seconds a restart of receivers may show, if it is a part of the disturbance."""
    whole = {key: _seen(record, key, window) for key in unchanged}
    seen = {key: without_restarts(states, planned) for key, states in whole.items()}
    restarted = {key for key, states in whole.items() if len(seen[key]) < len(states)}
    steps = [step for states in seen.values() for step in pairwise(states)]
    within = [write for write in writes if window.begins < write.at <= window.ends]
    wrong = max((_longest(_wrong(record, window, *item)) for item in (broken or {}).items()), default=(0.0, ""))
    silent = max((_longest(_silent(record, window, *item)) for item in (broken or {}).items()), default=(0.0, ""))
    return Row(
        disturbance,
        window,
        moved=tuple(text for step in steps for text in moves(*step)),
        events=tuple(
            f"{'/'.join(told.key)}: {told.reason}: {told.note}"
            for told in record.events
            if window.begins < told.at <= window.ends and told.key in seen and not _excused(told, restarted)
        ),
        writes=(*_needless(steps), *_idle(within, seen), *(_text(write) for write in within if not _status(write))),
        figures=sum(before.figures != after.figures for before, after in steps),
        words=sum(_reworded(before, after) for before, after in steps),
        wrong=wrong[0],
        wrongly=wrong[1],
        silent=silent[0],
        silently=silent[1],
    )


def moves(before: State, after: State) -> Iterator[str]:
    """Each condition that moved from one state of an object to its next, as a sentence."""
    name = "/".join(after.key)
    if before.uid != after.uid:
        yield f"{name} is {'another object' if after.uid else 'gone'}"
        return
    old, new = ({entry.kind: entry for entry in state.conditions} for state in (before, after))
    for kind in dict.fromkeys((*old, *new)):
        then, now = old.get(kind), new.get(kind)
        if _shown(then) != _shown(now):
            yield f"{name} {kind}: {_shown(then)} -> {_shown(now)}: {now.message if now else 'no longer there'}"
        elif then and now and then.since != now.since:
            yield f"{name} {kind}: lastTransitionTime {then.since} -> {now.since}, still {_shown(now)}"


def without_restarts(states: Sequence[State], planned: float) -> list[State]:
    """The states of an object without the times, of at most `planned` seconds each, in which conditions of OF_RESTARTS
    alone were other than at first."""
    first, kept, left = states[0], [states[0]], list(states[1:])
    while left:
        state, back = left[0], _back(first, left)
        if _away(first, state) and back is not None and left[back].at - state.at <= planned:
            left = [_as_if_never_away(first, found) for found in left[back:]]
        else:
            kept.append(left.pop(0))
    return kept


def _away(first: State, state: State) -> frozenset[str]:
    """The conditions that are other than at first."""
    old, new = ({entry.kind: _shown(entry) for entry in found.conditions} for found in (first, state))
    return frozenset(kind for kind in old.keys() | new.keys() if old.get(kind) != new.get(kind))


def _back(first: State, states: Sequence[State]) -> int | None:
    """Which is the first of the states that is as at first again, if all before it tell of a restart alone."""
    for number, state in enumerate(states):
        away = _away(first, state)
        if state.uid != first.uid or not away <= OF_RESTARTS:
            return None
        if not away:
            return number
    return None


def _as_if_never_away(first: State, state: State) -> State:
    """The state with the times of `first` on the conditions that a restart may move."""
    since = {entry.kind: entry.since for entry in first.conditions if entry.kind in OF_RESTARTS}
    conditions = (entry._replace(since=since.get(entry.kind, entry.since)) for entry in state.conditions)
    return state._replace(conditions=tuple(conditions))


def _excused(told: Told, restarted: Collection[Key]) -> bool:
    """Whether an Event tells of the restart of receivers."""
    return told.key in restarted and told.note.partition(" is ")[0] in OF_RESTARTS


def table(rows: Iterable[Row]) -> str:
    """The rows as text, with a head."""
    head = ("disturbance", "watched", "conditions moved", "Events", "writes", "longest wrong True", "longest silence")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    watched = f"{row.window.ends - row.window.begins:.0f} s"
    counts = (str(len(row.moved)), str(len(row.events)), f"{len(row.writes)} (+{row.figures} of figures)")
    return row.disturbance, watched, *counts, f"{row.wrong:.1f} s", f"{row.silent:.1f} s"


def _seen(record: Record, key: Key, window: Window) -> list[State]:
    """The state of an object when the window begins, and each one that follows in it."""
    states = [state for state in record.states if state.key == key and state.at <= window.ends]
    before = [state for state in states if state.at <= window.begins]
    if not before:
        raise ValueError(f"{'/'.join(key)} was never seen before the disturbance: nothing can be said of it")
    return [before[-1], *states[len(before) :]]


def _shown(condition: Condition | None) -> str:
    return f"{condition.status} ({condition.reason})" if condition else "absent"


def _reworded(before: State, after: State) -> bool:
    return [entry.message for entry in before.conditions] != [entry.message for entry in after.conditions]


def _needless(steps: Iterable[tuple[State, State]]) -> Iterator[str]:
    """A new version of an object with nothing new in its status."""
    for before, after in steps:
        same = (before.uid, before.conditions, before.figures) == (after.uid, after.conditions, after.figures)
        if same and before.version != after.version:
            yield f"{'/'.join(after.key)}: a new version with the same status"


def _idle(writes: Iterable[Write], seen: Mapping[Key, Sequence[State]]) -> Iterator[str]:
    """Writes of a status that left the version as it was."""
    kinds = {"auditpipelines/status": "AuditPipeline", "auditsinks/status": "AuditSink"}
    known = {(key, states[0].version) for key, states in seen.items()}
    for write in writes:
        key = (kinds.get(write.resource, ""), write.name)
        if key in seen and write.version:
            if (key, write.version) in known:
                yield f"{_text(write)}, which changed nothing"
            known.add((key, write.version))


def _status(write: Write) -> bool:
    return write.resource.endswith("/status")


def _text(write: Write) -> str:
    return f"{write.verb} {write.resource} {write.name}"


def _wrong(record: Record, window: Window, key: Key, since: float) -> Iterator[tuple[float, str]]:
    """How long the object said Ready=True each time, from when it broke on."""
    yield from _spans(record, window, key, since, lambda state: _ready(state) == "True")


def _silent(record: Record, window: Window, key: Key, since: float) -> Iterator[tuple[float, str]]:
    """How long the object was there without a Ready condition each time."""
    yield from _spans(record, window, key, since, lambda state: bool(state.uid) and not _ready(state))


def _spans(
    record: Record, window: Window, key: Key, since: float, holds: Callable[[State], bool]
) -> Iterator[tuple[float, str]]:
    """How long in a row `holds` was true of the object each time, while the API server answered."""
    begins = max(since, window.begins)
    states = [state for state in record.states if state.key == key and state.at <= window.ends]
    if not states:
        raise ValueError(f"{'/'.join(key)} was never seen: nothing can be said of it")
    entered: float | None = None
    for state, until in zip(states, [*(state.at for state in states[1:]), window.ends], strict=True):
        if until <= begins:
            continue
        if not holds(state):
            entered = None
            continue
        entered = max(state.at, begins) if entered is None else entered
        yield _answered(record, entered, until), "/".join(key)


def _answered(record: Record, begins: float, ends: float) -> float:
    """The longest time in a row between the two in which the API server answered."""
    longest, start = 0.0, begins
    for away, back in record.outages:
        if back > start and away < ends:
            longest, start = max(longest, away - start), back
    return max(longest, ends - start)


def _ready(state: State) -> str:
    return next((entry.status for entry in state.conditions if entry.kind == "Ready"), "")


def _longest(spans: Iterable[tuple[float, str]]) -> tuple[float, str]:
    return max(spans, default=(0.0, ""))

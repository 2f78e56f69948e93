"""Whatever order lists, watch events and answers come in, what is seen in the end is what is there."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from auditpipeline.control.seen import Entry, Seen, older
from tests.control.test_seen import KEY
from tests.control.test_seen import version as made

ENTRY = made("1")

STEPS = (
    "write",
    "delete",
    "write ourselves",
    "delete ourselves",
    "event",
    "answer",
    "begin",
    "snapshot",
    "page",
    "end",
)


@dataclass
class List:
    """A list that is under way: the clock at which it was begun, and what it holds once it was taken."""

    since: int
    heard: str
    taken: bool = False
    entry: Entry | None = None
    version: str = ""


@dataclass
class Cluster:
    """One object in an etcd, a watch that lags behind, answers that are on their way, and an operator that looks."""

    seen: Seen = field(default_factory=Seen)
    version: int = 10
    there: Entry | None = None
    events: deque[tuple[str, Entry]] = field(default_factory=deque)
    answers: deque[Entry] = field(default_factory=deque)
    list: List | None = None
    uids: int = 0

    def step(self, name: str) -> None:
        """One thing happens."""
        getattr(self, name.replace(" ", "_"))()

    def write(self) -> None:
        self.version += 1
        self.uids += self.there is None
        kind = "MODIFIED" if self.there else "ADDED"
        self.there = ENTRY._replace(version=str(self.version), uid=f"u{self.uids}", fingerprint=str(self.version))
        self.events.append((kind, self.there))

    def delete(self) -> None:
        if self.there:
            self.version += 1
            self.events.append(("DELETED", self.there._replace(version=str(self.version))))
            self.there = None

    def write_ourselves(self) -> None:
        self.write()
        assert self.there
        self.answers.append(self.there)

    def delete_ourselves(self) -> None:
        """As `prune` does it: the answer has no version."""
        if self.there and self.seen.entries.get(KEY) == self.there:
            self.delete()
            self.seen.drop(KEY, self.events[-1][1].uid)

    def event(self) -> None:
        if self.events:
            kind, entry = self.events.popleft()
            if kind == "DELETED":
                self.seen.drop(KEY, entry.uid, entry.version)
            else:
                self.seen.put(KEY, entry)

    def answer(self) -> None:
        if self.answers:
            self.seen.put(KEY, self.answers.popleft())

    def begin(self) -> None:
        self.list = self.list or List(self.seen.clock, self.seen.heard.get(KEY[0], ""))

    def snapshot(self) -> None:
        if self.list and not self.list.taken:
            self.list.taken, self.list.entry, self.list.version = True, self.there, str(self.version)

    def page(self) -> None:
        """The page that holds the object, which may be the last one."""
        if self.list and self.list.taken:
            if older(self.list.version, self.list.heard):
                self.seen.rewind(self.list.version)
                self.list.heard = ""
            self.seen.hear(KEY[0], self.list.version)
            if self.list.entry:
                self.seen.replace(KEY, self.list.entry, self.list.since)

    def end(self) -> None:
        if self.list and self.list.taken:
            self.page()
            listed = [KEY] if self.list.entry else []
            self.seen.keep_only(KEY[0], KEY[1], listed, self.list.since, self.list.version)
            self.list = None

    def look(self) -> None:
        """A whole relist."""
        for name in ("begin", "snapshot", "end"):
            self.step(name)

    def restore(self, version: int) -> None:
        """Another history, from a snapshot at `version`. What was on its way in the former one is gone with its
        connections; the watches of this one begin with a list, and the object may have another form."""
        self.events.clear()
        self.answers.clear()
        self.list = None
        self.version = version
        self.there = ENTRY._replace(version=str(version), uid="u0") if version % 2 else None


def sequences(count: int, most: int) -> Iterator[list[str]]:
    """Orders of steps, the same ones in each run. Short ones: what a later write mends would hide a fault."""
    chance = random.Random(4)
    for _ in range(count):
        yield chance.choices(STEPS, k=chance.randint(1, most))


def finish(cluster: Cluster) -> None:
    """Everything that is on its way comes; no further list is made."""
    while cluster.list:
        cluster.snapshot()
        cluster.end()
    while cluster.events or cluster.answers:
        cluster.event()
        cluster.answer()


def test_what_is_there_is_seen_in_the_end() -> None:
    """When every event, answer and page has come."""
    for steps in sequences(20_000, 14):
        cluster = Cluster()
        for name in steps:
            cluster.step(name)
        finish(cluster)
        assert cluster.seen.entries.get(KEY) == cluster.there, steps


def test_after_a_restore_what_is_there_is_seen_after_one_list() -> None:
    """Whatever happened before it, happens until the list, and after it; also where the new history has passed by the
    versions of the former one until somebody looks."""
    orders = sequences(30_000, 7)
    for before, meanwhile, after in zip(orders, orders, orders, strict=True):
        cluster = Cluster()
        cluster.look()
        for name in before:
            cluster.step(name)
        cluster.restore(len(before))
        for name in meanwhile:
            cluster.step(name)
        cluster.list = None
        cluster.version += 100 * (len(meanwhile) % 2)
        cluster.look()
        for name in after:
            cluster.step(name)
        finish(cluster)
        assert cluster.seen.entries.get(KEY) == cluster.there, (before, meanwhile, after)

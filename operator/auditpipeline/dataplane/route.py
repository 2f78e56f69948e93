"""One route: what one output gets, in order, at its own pace.

    spool --read from the cursor--> narrow --> batch --> throttle --> deliver --> move the cursor
             ^                                                   |
             +------------- wait (backoff) <---- failed ---------+

1. The cursor moves only past what arrived, is a dead letter, or was counted as lost; after a failure everything behind
   the cursor is read again. So each event arrives at least once.
2. A Guaranteed output is tried for ever, with exponential backoff. A BestEffort output is tried a few times for each
   batch, then that is lost and counted. Where the batch behind it is lost too, so is what was there at the failure
   before: the backoff goes on, and an output that is down must not fill the spool meanwhile.
3. A route waits only for its own output: routes share nothing but the spool.
4. An event becomes a dead letter when it is refused alone **after** another one was accepted: one of its batch, or,
   where all of that are refused, one behind it (which comes again in its turn). Where nothing is accepted, that is held
   to be a wrong URL or format, or a server gone mad: the route tries again, with what has come meanwhile.

       refused: cursor [x x x] | [x x x] | [x x x] | [x o ...      each try looks one batch further, then from the
                        batch     try 1     try 2     try 3         front again; at `o` the first batch is buried
5. An event that is too large by itself is delivered without its bodies, and says so; only where that is refused too,
   4 holds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from auditpipeline.core.config import Route as RouteConfig
from auditpipeline.core.errors import Permanent, Retryable, TooLarge
from auditpipeline.core.event import delivery_key
from auditpipeline.core.report import OutputReport, State
from auditpipeline.core.truncate import truncated
from auditpipeline.dataplane.conditions import Conditions
from auditpipeline.dataplane.feed import FOR_EVER, Batch, Feed
from auditpipeline.dataplane.lines import as_lines
from auditpipeline.dataplane.log import Log, Seldom
from auditpipeline.dataplane.outputs import Output
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import Cursor, Dead, Figures
from auditpipeline.dataplane.throttle import Bucket

OVERTAKEN = "what waited longest was dropped, as the spool is full or by its maxAge"
"""Said of an output that has not got past what it lost."""


@dataclass(frozen=True)
class Patience:
    """How long a route waits, in seconds: for an answer, before the first and at most before any other try (doubling,
    then jittered), and how often a BestEffort output is tried."""

    answer: float = 30.0
    first: float = 0.25
    most: float = 30.0
    tries: int = 4
    stop: float = 3.0


@dataclass
class Progress:
    """How far into a batch the output has judged, from the front: `accepted` events, and those that it refused. The
    first `unsure` of these were refused before anything was accepted: they are tried once more, as the output may have
    been mended in between."""

    accepted: int = 0
    refused: list[tuple[bytes, str]] = field(default_factory=list)
    unsure: int = 0

    def refuse(self, line: bytes, reason: str) -> None:
        """Notes an event that is refused alone."""
        self.refused.append((line, reason))
        self.unsure += not self.accepted

    @property
    def judged(self) -> int:
        """The number of events behind which the output has gone."""
        return self.accepted + len(self.refused)


@dataclass
class Counts:
    """What a route did since the process started: batches and their bytes that the output took, batches that it did not
    take, failures after which it waited, and events that were delivered without their bodies."""

    batches: int = 0
    bytes: int = 0
    errors: int = 0
    retries: int = 0
    truncated: int = 0


class Route:
    """A running route; `start` once, `stop` once. Owns its output."""

    def __init__(  # noqa: PLR0913
        self,
        config: RouteConfig,
        spool: Spool,
        output: Output,
        log: Log,
        patience: Patience | None = None,
        key: bytes | None = None,
        until: int = FOR_EVER,
        *,
        conditions: Conditions | None = None,
    ) -> None:
        self.config = config
        self.counts = Counts()
        self._key = key
        self._conditions = conditions
        self._until = until
        self._spool = spool
        self._output = output
        self._log = log.bind(output=config.name)
        self._seldom = Seldom(self._log)
        self._patience = patience or Patience()
        self._bucket = Bucket(config.throttle)
        self._cursor = Cursor(0, 0, 0.0)
        self._ahead = 0
        self._waited = 0
        self._tries = 0
        self._failures = 0
        self._error = ""
        self._error_at = 0.0
        self._busy = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def drained(self) -> bool:
        """Whether there is nothing left to do: only where it has an end."""
        return self._cursor.next >= self._until

    def start(self, cursor: Cursor) -> None:
        """Delivers from the cursor on, up to `until`."""
        self._cursor = cursor
        self._task = asyncio.create_task(self._run(), name=f"route {self.config.name}")

    async def stop(self, grace: float | None = None) -> None:
        """Ends the route: a delivery that is under way has `grace` seconds to end, but not where the output fails
        anyway: whoever mends it should not wait for that. What the route did not move past comes again."""
        grace = self._patience.stop if grace is None else min(grace, self._patience.stop)
        self._stopping = True
        if self._task:
            if self._busy and not self._failures:
                await asyncio.wait([self._task], timeout=grace)
            self._task.cancel()
            await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(grace):
                await self._output.close()
        except TimeoutError:
            pass
        except Exception:  # one output must not keep others from going on
            self._log.exception("the output met a fault of its own while it was closed")

    @property
    def ended(self) -> bool:
        """Whether it ended although there is more to do, and nobody stopped it."""
        return bool(self._task and self._task.done()) and not (self._stopping or self.drained)

    def report(self, figures: Figures) -> OutputReport:
        """What the route says of itself; `figures` are the spool's."""
        stored = self._spool.cursors.get(self.config.name, self._cursor)
        pending = max(0, min(self._spool.end, self._until) - max(self._cursor.next, stored.next))
        state: State = "Failing" if self._failures else "Delivering" if pending else "Idle"
        since = figures.waiting_since.get(self.config.name) if pending else None
        dropped = {reason: events for output, reason, events in figures.lost if output == self.config.name}
        overtaken = stored.next > self._cursor.next and bool(dropped.keys() & {"overflow", "expired"})
        errors = [OVERTAKEN if overtaken else "", self._error]
        return OutputReport(
            name=self.config.name,
            state=state,
            lag_seconds=max(0.0, time.time() - since) if since else 0.0,
            pending=pending,
            delivered=stored.delivered,
            dropped=sum(dropped.values()),
            last_error="; ".join(filter(None, errors))[:512],
            last_error_at=self._error_at or (time.time() if overtaken else 0.0),
            last_delivered_at=stored.at,
        )

    async def _run(self) -> None:
        feed = self._feed()
        while not (self._stopping or self.drained):
            try:
                batch = await feed.take(0.0 if self._failures else self.config.batch_wait)
                await self._deliver(batch)
                continue
            except Retryable as error:
                wait = self._failed(str(error), error.after)
            except Exception as error:  # a fault of ours must not end the route in silence
                self._log.exception("the route met a fault of its own")
                wait = self._failed(f"internal error: {type(error).__name__}", None)
            feed = self._feed()
            await asyncio.sleep(wait)

    def _feed(self) -> Feed:
        return Feed(self.config, self._spool, self._cursor.next, self._key, self._until, conditions=self._conditions)

    async def _deliver(self, batch: Batch) -> None:
        """Delivers the batch and moves the cursor over what the output has judged; Retryable where that is not all."""
        progress = Progress()
        self._busy = True
        try:
            if batch.lines:
                await self._judge(batch.lines, progress)
                await self._confirm(progress, batch.end)
            await self._settle(batch, progress, batch.end)
        except Retryable as error:
            await self._give_up(batch, progress, error)
        finally:
            self._busy = False

    async def _judge(self, lines: Sequence[bytes], progress: Progress) -> None:
        """Sends the lines, in halves where they are refused together."""
        try:
            await self._send(lines)
            progress.accepted += len(lines)
        except Permanent as error:
            if len(lines) == 1:
                await self._fit(lines[0], error, progress)
                return
            middle = len(lines) // 2
            await self._judge(lines[:middle], progress)
            await self._judge(lines[middle:], progress)

    async def _fit(self, line: bytes, error: Permanent, progress: Progress) -> None:
        """What becomes of an event that is refused alone: one that is too large is sent without its bodies."""
        if isinstance(error, TooLarge) and (shorter := truncated(line)):
            try:
                await self._send([shorter])
                self.counts.truncated += 1
                progress.accepted += 1
                return
            except Permanent as still:
                error = still
        progress.refuse(line, str(error))

    async def _send(self, lines: Sequence[bytes]) -> None:
        await self._bucket.take()
        try:
            async with asyncio.timeout(self._patience.answer):
                await self._output.deliver(lines)
        except BaseException as error:
            self.counts.errors += 1
            if isinstance(error, TimeoutError):
                raise Retryable(f"no answer within {self._patience.answer:g} s") from None
            raise
        self.counts.batches += 1
        self.counts.bytes += as_lines(lines).size

    async def _confirm(self, progress: Progress, end: int) -> None:
        """Makes sure that what is refused is refused for its own sake; Retryable where nothing at all was accepted, nor
        is behind the batch's `end`."""
        if not progress.accepted and not await self._takes_later(end):
            reason = progress.refused[-1][1]
            raise Retryable(f"every event of a batch is refused ({reason}): check the output's url and format")
        again, progress.refused = progress.refused[: progress.unsure], progress.refused[progress.unsure :]
        for line, _ in again:
            await self._judge([line], progress)
        progress.unsure = 0
        self._recovered()

    async def _takes_later(self, end: int) -> bool:
        """Whether the output takes an event of the one batch that this try looks at: the first behind `end`, or the one
        behind that of the last try. Where it does, the next try looks there first."""
        start = self._ahead if end < self._ahead < self._spool.end else end
        feed = Feed(self.config, self._spool, start, self._key, conditions=self._conditions)
        while start < self._spool.end:
            batch = await feed.take()
            if batch.lines:
                taken = await self._takes_any(batch.lines)
                self._ahead = start if taken else batch.end
                return taken
            start = batch.end
        self._ahead = 0
        return False

    async def _takes_any(self, lines: Sequence[bytes]) -> bool:
        """Sends the lines, in halves where they are refused together, until some are accepted."""
        try:
            await self._send(lines)
        except Permanent as error:
            if len(lines) > 1:
                middle = len(lines) // 2
                return await self._takes_any(lines[:middle]) or await self._takes_any(lines[middle:])
            found = Progress()
            await self._fit(lines[0], error, found)
            return bool(found.accepted)
        return True

    async def _give_up(self, batch: Batch, progress: Progress, error: Retryable) -> None:
        """Moves past what arrived before the failure, past all of it where a BestEffort output has had its tries.
        Raises the error: there is something to wait for in either case."""
        self._tries += 1
        if self.config.delivery == "BestEffort" and self._tries >= self._patience.tries:
            lost = len(batch.lines) - progress.judged
            if not progress.accepted or progress.unsure:
                lost, progress = len(batch.lines), Progress()
            await self._settle(batch, progress, batch.end, lost)
            if self._failures >= self._patience.tries:
                await self._lose(self._waited)
        elif progress.accepted and not progress.unsure:
            await self._settle(batch, progress, batch.ends[progress.judged - 1])
        raise error

    async def _lose(self, end: int) -> None:
        """Moves past the batches before `end` without another try."""
        feed = self._feed()
        while self._cursor.next < end and (batch := await feed.take()).end <= end:
            await self._settle(batch, Progress(), batch.end, len(batch.lines))

    async def _settle(self, batch: Batch, progress: Progress, position: int, lost: int = 0) -> None:
        """Moves the cursor. A full disk is waited for: going back would deliver again what has arrived."""
        name = self.config.name
        refused = [Dead(name, reason, line, delivery_key(line)) for line, reason in progress.refused]
        passed = [spoilt for end, spoilt in batch.spoilt if end <= position]
        losses = {"undelivered": lost, "damaged": sum(spoilt.damaged for spoilt in passed)}
        dead = [*(spoilt.dead for spoilt in passed if spoilt.dead), *refused]
        if dead:
            self._seldom.warning("events became dead letters", len(dead), reason=dead[-1].reason)
        if not dead and not any(losses.values()):
            self._spool.move(name, position, progress.accepted)
        else:
            await self._advance(position, progress.accepted, dead, losses)
        self._cursor = self._cursor._replace(next=position)
        self._tries = 0
        if progress.accepted and not lost:
            self._recovered()

    async def _advance(self, position: int, delivered: int, dead: Sequence[Dead], losses: Mapping[str, int]) -> None:
        """Moves the cursor over what was lost, and returns when that is on disk."""
        while True:
            try:
                await self._spool.advance(self.config.name, position, delivered, dead, losses)
                return
            except Retryable as error:
                self._note(f"the cursor cannot move: {error}")
                await asyncio.sleep(1)

    def _failed(self, message: str, after: float | None) -> float:
        """Notes a failure; how many seconds to wait before the next try."""
        if not self._failures:
            self._log.warning("the output fails", error=message)
        self._failures += 1
        self._waited = self._spool.end
        self.counts.retries += 1
        self._note(message)
        backoff = min(self._patience.most, self._patience.first * 2 ** min(self._failures - 1, 20))
        return max(float(backoff) * random.uniform(0.5, 1.0), after or 0.0)  # noqa: S311

    def _note(self, message: str) -> None:
        self._error, self._error_at = message, time.time()

    def _recovered(self) -> None:
        if self._failures:
            self._log.info("the output works again", failures=self._failures)
        self._failures = 0

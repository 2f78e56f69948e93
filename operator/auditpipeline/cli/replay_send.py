"""Posts batches of events as kube-apiserver's audit webhook does, batch mode.

One connection is kept alive. A batch that is not answered with 2xx is posted again, whatever went wrong, four times at
most (backoff: k8s.io/apiserver/pkg/util/webhook, 10 s, factor 1.5, jitter 0.2); within each of these five tries 429 and
5xx with Retry-After are tried up to ten times more (k8s.io/client-go/rest/with_retry.go). An answer may take 30 s.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import aiohttp

from auditpipeline import __version__
from auditpipeline.cli.kubeconfig import Target
from auditpipeline.core.event import encode_item
from auditpipeline.core.eventlist import encode_body
from auditpipeline.core.eventlog import Line

TRIES, FACTOR, JITTER = 5, 1.5, 0.2
RETRIES_WITHIN = 10
ANSWER_SECONDS = 30.0
BATCH_BYTES = 10 * 2**20


class Batch(NamedTuple):
    """A body, the number of its events, and the lines of the log that the first and the last one stand in."""

    body: bytes
    events: int
    first: int
    last: int


class Refused(NamedTuple):
    """A batch that was given up, and the last answer."""

    batch: Batch
    reason: str


def batches(lines: Iterable[Line], most: int) -> Iterator[Batch]:
    """The events in batches of at most `most`, and of about 10 MiB."""
    items, numbers, size = list[bytes](), list[int](), 0
    for line in lines:
        item = encode_item(line.event)
        if items and (len(items) >= most or size + len(item) > BATCH_BYTES):
            yield _batch(items, numbers)
            items, numbers, size = [], [], 0
        items.append(item)
        numbers.append(line.number)
        size += len(item)
    if items:
        yield _batch(items, numbers)


def _batch(items: list[bytes], numbers: list[int]) -> Batch:
    return Batch(encode_body(items) + b"\n", len(items), numbers[0], numbers[-1])


class Sender:
    """Posts to one target. `backoff` is the first one, in seconds; `say` is told of what goes wrong, once a batch."""

    def __init__(self, target: Target, backoff: float, say: Callable[[str], None]) -> None:
        self._target = target
        self._backoff = backoff
        self._say = say
        self.events = self.batches = self.sent_bytes = self.repeated = 0
        self.refused: list[Refused] = []

    async def send(self, found: Iterable[Batch], rate: float | None) -> None:
        """Posts all batches, one after the other, at most `rate` events a second."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        connector = aiohttp.TCPConnector(ssl=self._target.context or True, limit=1)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"auditpipeline/{__version__}",
            **self._target.headers,
        }
        async with aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            trust_env=False,
        ) as session:
            for batch in found:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due = max(due, loop.time()) + (batch.events / rate if rate else 0.0)
                await self._send(session, batch)

    async def _send(self, session: aiohttp.ClientSession, batch: Batch) -> None:
        wait, reason = self._backoff, ""
        for number in range(TRIES):
            if number:
                await asyncio.sleep(wait * random.uniform(1, 1 + JITTER))  # noqa: S311
                wait *= FACTOR
                self.repeated += 1
            reason = await self._try(session, batch)
            if not reason:
                self.events += batch.events
                self.batches += 1
                self.sent_bytes += len(batch.body)
                return
            if not number:
                self._say(f"lines {batch.first} to {batch.last}: {reason}; trying again")
        self._say(f"lines {batch.first} to {batch.last}: given up after {TRIES} tries: {reason}")
        self.refused.append(Refused(batch, reason))

    async def _try(self, session: aiohttp.ClientSession, batch: Batch) -> str:
        """One try; empty where the batch was acknowledged, else what was answered."""
        reason = ""
        for _ in range(RETRIES_WITHIN + 1):
            try:
                async with session.post(
                    self._target.url,
                    data=batch.body,
                    allow_redirects=False,
                    server_hostname=self._target.server_name if self._target.context else None,
                ) as response:
                    text = (await response.content.read(200)).decode(errors="replace").strip()
            except TimeoutError:
                return f"no answer within {ANSWER_SECONDS:g} s"
            except (aiohttp.ClientError, OSError) as error:
                return (str(error) or type(error).__name__)[:300]
            if 200 <= response.status < 300:
                return ""
            reason = " ".join(f"{response.status} {response.reason or ''} {text}".split())
            after = response.headers.get("Retry-After", "")
            if not after.isdecimal() or not (response.status == 429 or response.status >= 500):
                return reason
            await asyncio.sleep(min(float(after), 60.0))
        return reason

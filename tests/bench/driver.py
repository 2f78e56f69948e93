"""Posts bodies as kube-apiserver does (HTTP/1.1, TLS 1.3, a client certificate, keep-alive), as a process of its own.

Without a rate each connection posts as soon as the last body was answered: the server is saturated. With a rate, bodies
are due at even distances, and the time to an acknowledgement counts from when a body was due: a server that stalls is
charged for all who had to wait, not only for the one that was under way.

Prints one JSON object, `Found`.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import msgspec

from tests.bench.events import MIXES, some


class Found(msgspec.Struct):
    """What became of a run. `begun` is a time since the epoch, `seconds` is from the first body to the last answer,
    `waits` are seconds to each acknowledgement, sorted; `cpu` is what the driver itself used."""

    begun: float
    bodies: int
    refused: int
    seconds: float
    waits: list[float]
    cpu: float


class Driver:
    """`connections` threads that post to one server until the time is over, to each of its ports equally many."""

    def __init__(
        self, ports: Sequence[int], context: ssl.SSLContext, bodies: tuple[bytes, ...], connections: int
    ) -> None:
        self._ports = ports
        self._context = context
        self._bodies = itertools.cycle(bodies)
        self._connections = connections
        self._lock = threading.Lock()
        self._waits: list[float] = []
        self._refused = 0
        self._paced = False
        self._begun = 0.0

    def run(self, seconds: float, rate: float) -> Found:
        """Posts for so long, `rate` bodies a second (0: as many as are answered)."""
        self._paced = rate > 0
        due = (number / rate if rate else 0.0 for number in itertools.count())
        ready = threading.Barrier(self._connections + 1, self._begin)
        threads = [
            threading.Thread(target=self._post, args=(self._ports[number % len(self._ports)], ready, due, seconds))
            for number in range(self._connections)
        ]
        for thread in threads:
            thread.start()
        ready.wait()
        before, at = sum(os.times()[:2]), time.time()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - self._begun
        return Found(at, len(self._waits), self._refused, took, sorted(self._waits), sum(os.times()[:2]) - before)

    def _begin(self) -> None:
        self._begun = time.perf_counter()

    def _post(self, port: int, ready: threading.Barrier, due: Iterator[float], seconds: float) -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=self._context)
        connection.connect()
        ready.wait()
        while True:
            with self._lock:
                since, body = self._begun + next(due), next(self._bodies)
            now = time.perf_counter()
            if not self._paced:
                since = now
            if since > self._begun + seconds:
                connection.close()
                return
            time.sleep(max(0.0, since - now))
            connection.request("POST", "/audit?timeout=30s", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            self._count(answer.status, time.perf_counter() - since)

    def _count(self, status: int, wait: float) -> None:
        with self._lock:
            if status == 200:
                self._waits.append(wait)
            else:
                self._refused += 1


def main() -> None:
    """Runs as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, nargs="+", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=0.0, help="bodies a second; 0: as many as are answered")
    parser.add_argument("--bodies", type=int, default=8)
    parser.add_argument("--mix", default="plain", choices=MIXES)
    options = parser.parse_args()
    context = ssl.create_default_context(cafile=options.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.certificate, options.key)
    driver = Driver(options.ports, context, some(options.bodies, mix=options.mix), options.connections)
    sys.stdout.buffer.write(msgspec.json.encode(driver.run(options.seconds, options.rate)))


if __name__ == "__main__":
    main()

"""`make bench-policy`: how many decisions a second, and what an event costs, in one run, as ratios.

    decisions     the same 30 rules and requests of real events: compiled, interpreted, a naive loop over dicts as a
                  receiver without an engine has it, and kube-apiserver's own evaluator in Go (one goroutine)
    an event      from the bytes of a request body to the lines to store: decode, decide, cut, encode; against json

One thread, the best of several rounds. Aims: compiled at 20 times the naive loop, and at least as fast as Go; at most
8 us an event of 3.2 KB, and at least 12 times the json route.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from auditpipeline.core.compile import compile_policy
from auditpipeline.core.event import attributes, decode_event
from auditpipeline.core.policy import Attributes, decide
from auditpipeline.dataplane.filter import Filter, Wanted
from tests.bench.naive import json_route, naive
from tests.bench.policy_rules import POLICY, bodies, events
from tests.cluster.binaries import Missing
from tests.oracle.oracle import Oracle

PLAIN: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(POLICY))


def race(
    works: dict[str, Callable[[], Callable[[], object]]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds by the clock of the fastest round of each; they take turns, so that a busy machine slows all of them.

    Each is prepared anew for every round, outside of the time: a string remembers its hash, a received one has none.
    """
    found = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, prepare in works.items():
            work = prepare()
            begun = clock()
            work()
            found[name] = min(found[name], clock() - begun)
    return found


def each(function: Callable[[Any], object], values: Sequence[Any]) -> Callable[[], None]:
    """Calls the function with every value."""

    def work() -> None:
        for value in values:
            function(value)

    return work


def nanoseconds_of_go(requests: Sequence[Attributes], rounds: int) -> float | None:
    """A decision of kube-apiserver's own evaluator, the fastest of several rounds; None where there is no Go."""
    try:
        with Oracle.running() as oracle:
            return min(oracle.bench(POLICY, requests, 0.2) for _ in range(rounds))
    except Missing as error:
        print(f"no figure for Go: {error}")
        return None


def decisions(rounds: int) -> None:
    """Prints the first table."""
    real = events()
    lines = [msgspec.json.encode(event) for event in real]
    compiled = compile_policy(POLICY)

    def requests() -> list[Attributes]:
        return [attributes(decode_event(line)) for line in lines]

    assert [compiled(request).level.title for request in requests()] == [naive(event, PLAIN)[0] for event in real]
    decided = Counter(compiled(request).rule for request in requests())
    works: dict[str, Callable[[], Callable[[], object]]] = {
        "compiled": lambda: each(compiled, requests()),
        "interpreter": lambda: each(partial(decide, POLICY), requests()),
        "naive loop": lambda: each(partial(naive, policy=PLAIN), [json.loads(line) for line in lines]),
    }
    found = {name: seconds / len(real) for name, seconds in race(works, rounds * 4).items()}
    if go := nanoseconds_of_go(requests(), rounds):
        found["kube-apiserver (Go)"] = go / 1e9
    print(f"decisions: {len(POLICY.rules)} rules; {len(real)} real events, decided by {len(decided)} of them")
    print(f"{'':24}{'events/s':>12}{'ns each':>10}{'compiled is':>14}")
    for name, seconds in found.items():
        print(f"{name:24}{1 / seconds:12,.0f}{seconds * 1e9:10.0f}{seconds / found['compiled']:12.1f} x")


def whole_events(rounds: int) -> None:
    """Prints the second table."""
    sent = list(bodies())
    count = sum(len(json.loads(body)["items"]) for body in sent)
    filter_ = Filter([Wanted((POLICY,))])
    kept = 0
    for body in sent:
        ours, theirs = filter_.take(body), json_route(body, PLAIN)
        assert not ours.dead
        assert [json.loads(line) for line in ours.lines] == [json.loads(line) for line in theirs]
        kept += len(ours.lines)
    works: dict[str, Callable[[], Callable[[], object]]] = {
        "auditpipeline": lambda: each(filter_.take, sent),
        "json": lambda: each(partial(json_route, policy=PLAIN), sent),
    }
    found = {name: seconds / count for name, seconds in race(works, rounds).items()}
    size = sum(map(len, sent)) / count
    print(f"\nan event: {size:,.0f} bytes on average, {kept / count:.0%} of {count} recorded")
    print(f"{'':24}{'events/s':>12}{'us each':>10}{'ratio':>12}")
    for name, seconds in found.items():
        print(f"{name:24}{1 / seconds:12,.0f}{seconds * 1e6:10.1f}{seconds / found['auditpipeline']:10.1f} x")


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement; the best counts (15)")
    rounds = parser.parse_args().rounds
    print(f"Python {platform.python_version()}, one thread\n")
    decisions(rounds)
    whole_events(rounds)


if __name__ == "__main__":
    main()

"""`make bench-union`: what the union of many policies takes, and comparing them, as ratios to ten of four rules.

One thread, CPU time, the best of several rounds; all in one run, so that a slow machine is slow for both sides. The
aim is at most 200 for a thousand different policies of four rules, and for two of a thousand.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from auditpipeline.core.covers import covers
from auditpipeline.core.union import fitting
from auditpipeline.core.upstream import coverage
from tests.core import many


def seconds(work: Callable[[], object], rounds: int) -> float:
    """The fastest of several rounds."""
    found = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        work()
        found = min(found, time.process_time() - begun)
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    tens = {name: [shape(number) for number in range(10)] for name, shape in many.SHAPES.items()}
    base = {name: seconds(lambda few=few: fitting(few), 5 * rounds) for name, few in tens.items()}  # type: ignore[misc]
    print(f"{'what':44} {'ms':>8} {'ten of four':>12} {'ratio':>6}")
    for name, shape in many.SHAPES.items():
        for count in (100, 200, 1000):
            policies = [shape(number) for number in range(count)]
            _line(f"union of {count} of four, {name}", lambda p=policies: fitting(p), base[name], rounds)  # type: ignore[misc]
    for count in (60, 300, 1000):
        one, other = many.long(count, "users"), many.long(count, "namespaces")
        for what, work in (("union", _union), ("covers", covers), ("coverage", coverage)):
            _line(
                f"{what} of two of {count}, users and namespaces",
                lambda w=work, a=one, b=other: w(a, b),  # type: ignore[misc]
                min(base.values()),
                rounds,
            )


def _union(*policies: object) -> object:
    return fitting(policies)  # type: ignore[arg-type]


def _line(what: str, work: Callable[[], object], base: float, rounds: int) -> None:
    took = seconds(work, rounds)
    print(f"{what:44} {took * 1000:8.1f} {base * 1000:12.2f} {took / base:6.0f}")


if __name__ == "__main__":
    main()

"""`make bench`: the data plane against a naive receiver and against the floor, in one run, absolute and as ratios.

    naive            tests/bench/naive.py: aiohttp, json, a loop over the rules, append, fsync, 200
    floor            tests/bench/floor.py: the data plane's event loop, TLS and body reader; appends, syncs, answers
    1 worker         `auditpipeline serve` with a spool and one file output
    before           `1 worker` of another checkout (--before DIR), run by the same Python with the same libraries
    2 workers        twice that, each with a spool and a file of its own; connections are shared out evenly, which is
                     the best that SO_REUSEPORT could make of them

and, in a second table, what redaction and conditions cost (tests/bench/plane_redaction.py).

Loopback, TLS 1.3 with client certificates, bodies of 400 real-shaped events of 3.2 KB, of which 30 % have bodies
(tests/bench/events.py). A server with one worker has one core, the driver has the other one; two workers have two
cores, and share one of them with the driver.

    saturated    each connection posts as soon as it was answered. CPU counts until everything is delivered
    half load    half as many events a second, at even distances; a wait counts from when the body was due

Medians of several rounds, in which the servers take turns; waits are of all rounds together. Asserts no time, but that
every acknowledged event was delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from auditpipeline.core.policy import Policy, Rule
from tests.bench import plane_redaction
from tests.bench.driver import Found
from tests.bench.events import MIXES
from tests.bench.plane_figures import Figures, Start, percentile
from tests.bench.plane_servers import Server, compared, ours
from tests.bench.plane_usage import cpu_seconds, pin, rss
from tests.bench.policy_rules import POLICY
from tests.dataplane.setting import Setting

EVENTS = 400
FULL = Policy(tuple(msgspec.structs.replace(rule, level="RequestResponse", omit_stages=()) for rule in POLICY.rules))
POLICIES = {"full": FULL, "real": POLICY, "one": Policy((Rule("RequestResponse"),))}


async def drive(setting: Setting, server: Server, options: argparse.Namespace, seconds: float, rate: float) -> Found:
    """Runs the driver on the last core."""
    tls = setting.client_tls
    command = [
        sys.executable,
        "-m",
        "tests.bench.driver",
        "--ports",
        *map(str, server.ports),
        "--ca",
        str(tls.client_ca),
    ]
    command += ["--certificate", tls.certificate, "--key", tls.key, "--connections", str(options.connections)]
    command += ["--seconds", str(seconds), "--rate", str(rate), "--bodies", str(options.bodies)]
    command += ["--mix", options.mix]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    pin(process.pid, {max(os.sched_getaffinity(0))})
    output, _ = await asyncio.wait_for(process.communicate(), seconds + 60)
    assert process.returncode == 0
    return msgspec.json.decode(output, type=Found)


async def measure(start: Start, options: argparse.Namespace, figures: Figures) -> None:
    """One round of one server."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        setting = Setting(Path(folder))
        async with start(setting) as server:
            warm = await drive(setting, server, options, 1.0, 0)
            sent = warm.bodies * EVENTS
            await server.arrived(sent)
            before = cpu_seconds(*server.pids)
            found = await drive(setting, server, options, options.seconds, 0)
            sent += found.bodies * EVENTS
            await server.arrived(sent)
            events = found.bodies * EVENTS
            figures.acknowledged.append(events / found.seconds)
            figures.delivered.append(events / (max(target.stat().st_mtime for target in server.targets) - found.begun))
            figures.cpu.append((cpu_seconds(*server.pids) - before) / events * 1e6)
            figures.waits += found.waits
            figures.driver.append(found.cpu / found.seconds)
            before = cpu_seconds(*server.pids)
            half = await drive(setting, server, options, options.seconds, found.bodies / found.seconds / 2)
            sent += half.bodies * EVENTS
            await server.arrived(sent)
            figures.cpu_half.append((cpu_seconds(*server.pids) - before) / (half.bodies * EVENTS) * 1e6)
            figures.waits_half += half.waits
            figures.memory.append(sum(map(rss, server.pids)))
            figures.refused += warm.refused + found.refused + half.refused


def contenders(policy: Policy, checkout: Path | None = None) -> dict[str, Start]:
    """Who takes part, and how each is started."""
    cores = sorted(os.sched_getaffinity(0))
    one = {cores[0]}
    before: dict[str, Start] = {}
    if checkout:
        before["before"] = partial(ours, 1, policy=policy, cores=one, checkout=checkout)
    return {
        **before,
        "naive": lambda setting: compared("naive", setting, policy, one),
        "floor": lambda setting: compared("floor", setting, policy, one),
        "1 worker": partial(ours, 1, policy=policy, cores=one),
        "2 workers": partial(ours, 2, policy=policy, cores=set(cores[:2])),
    }


def show(found: dict[str, Figures]) -> None:
    """Prints the table, then the aims."""
    middle = statistics.median
    naive, floor, before = found["naive"], found["floor"], found.get("before")
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        ("events/s acknowledged", lambda f: f"{middle(f.acknowledged):,.0f}"),
        ("  times naive", lambda f: f"{middle(f.acknowledged) / middle(naive.acknowledged):.1f} x"),
        ("events/s through to the file", lambda f: f"{middle(f.delivered):,.0f}"),
        ("CPU s per million events", lambda f: f"{middle(f.cpu):.1f}"),
        ("  naive has times as much", lambda f: f"{middle(naive.cpu) / middle(f.cpu):.1f} x"),
        ("  times before", lambda f: f"{middle(f.cpu) / middle(before.cpu):.2f} x" if before else "-"),
        ("  over the floor", lambda f: f"{middle(f.cpu) - middle(floor.cpu):+.1f}"),
        ("  at half load", lambda f: f"{middle(f.cpu_half):.1f}"),
        ("acknowledged, saturated: p50 ms", lambda f: percentile(f.waits, 0.5)),
        ("  p99 ms", lambda f: percentile(f.waits, 0.99)),
        ("acknowledged, half load: p50 ms", lambda f: percentile(f.waits_half, 0.5)),
        ("  p99 ms", lambda f: percentile(f.waits_half, 0.99)),
        ("RSS, peak, MB", lambda f: f"{max(f.memory) / 1e6:.0f}"),
        ("driver, saturated: % of its core", lambda f: f"{middle(f.driver):.0%}"),
        ("bodies refused", lambda f: str(f.refused)),
    ]
    print(f"\n{'':34}" + "".join(f"{name:>12}" for name in found))
    for title, value in rows:
        print(f"{title:34}" + "".join(f"{value(figures):>12}" for figures in found.values()))
    ours_ = found["1 worker"]
    aims = [
        ("events/s, times naive", ">= 7.5", f"{middle(ours_.acknowledged) / middle(naive.acknowledged):.1f}"),
        ("CPU s per million events", "<= 20", f"{middle(ours_.cpu):.1f}"),
        ("RSS, peak, MB", "< 100", f"{max(ours_.memory) / 1e6:.0f}"),
        ("p99 at half load, ms", "< 15", percentile(ours_.waits_half, 0.99)),
    ]
    print(f"\n{'1 worker':34}{'aim':>12}{'measured':>12}")
    for name, aim, measured in aims:
        print(f"{name:34}{aim:>12}{measured:>12}")


async def bench(options: argparse.Namespace) -> None:
    """All rounds, then the table."""
    policy = POLICIES[options.policy]
    starts, compare = contenders(policy, options.before), options.only != "redaction"
    if options.only:
        kept = ("before", "naive", "floor", options.only) if compare else ()
        starts = {name: start for name, start in starts.items() if name in kept}
    if options.only in (None, "redaction"):
        starts |= plane_redaction.contenders(policy, {min(os.sched_getaffinity(0))})
    found = {name: Figures() for name in starts}
    for number in range(1, options.rounds + 1):
        for name, start in starts.items():
            print(f"round {number} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            await measure(start, options, found[name])
    if compare:
        show({name: found[name] for name in found if name in contenders(policy, options.before)})
    if options.only in (None, "redaction"):
        plane_redaction.show(found)


def main() -> None:
    """Reads the options, and says on what it runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 3 s each: less than a minute")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load (8)")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--bodies", type=int, default=8, help="different bodies (8)")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="full",
        help="30 rules that record everything in full "
        "(default), 30 real rules that drop and cut, one rule that records everything",
    )
    parser.add_argument(
        "--only", metavar="NAME", help="of our own, only this one: `1 worker`; `redaction`: only the second table"
    )
    parser.add_argument(
        "--mix", choices=MIXES, default="cluster", help="what bodies hold: of before redaction, figures are of `plain`"
    )
    parser.add_argument(
        "--before", type=Path, metavar="DIR", help="compare with the checkout in DIR, in the same rounds"
    )
    parser.add_argument("--folder", help="where spools and files go (the system's folder for temporary files)")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 3.0
    cores = os.sched_getaffinity(0)
    load = os.getloadavg()[0]
    print(
        f"Python {platform.python_version()}, {len(cores)} cores, load {load:.1f} before the run, "
        f"{options.rounds} x {options.seconds:g} s, {options.connections} connections, "
        f"policy `{options.policy}`, mix `{options.mix}`"
    )
    if len(cores) < 2:
        sys.exit("bench: two cores are needed: one for the server, one for the driver")
    asyncio.run(bench(options))


if __name__ == "__main__":
    main()

"""What redaction costs an event, from the bytes of a request body to the lines to store, by kind of event.

    off        a route with `default: false`
    default    a route that says nothing
    rules      the default, and two rules of a user's

One thread, the best of several rounds, in which the three take turns; microseconds of CPU an event. `values` is how
many an event of that kind loses by default. The last rows are the mixes of `make bench`; with `--body FILE`, bodies of
your own, as kube-apiserver posted them.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from auditpipeline.core.config import Config, FileOutput, Listen, Route, Spool, Tls
from auditpipeline.core.policy import Policy
from auditpipeline.core.policy import Rule as PolicyRule
from auditpipeline.core.redaction.model import ANNOTATION, Redaction, Rule, Selector
from auditpipeline.dataplane import plane
from auditpipeline.dataplane.filter import Filter
from tests.bench.events import MIXES, some
from tests.bench.kinds import KINDS
from tests.bench.policy import each, race
from tests.bench.policy_rules import event_list

EVERYTHING, METADATA = (Policy((PolicyRule(level),)) for level in ("RequestResponse", "Metadata"))
RULES = (
    Rule(paths=("data.*",), resources=(Selector("", ("configmaps",)),), action="remove"),
    Rule(paths=('metadata.annotations["example.com/token"]',), resources=(Selector("apps", ("deployments",)),)),
)
REDACTIONS = {"off": Redaction(default=False), "default": None, "rules": Redaction(rules=RULES)}


def filter_of(redaction: Redaction | None, policy: Policy = EVERYTHING) -> Filter:
    """The filter of a data plane with one route."""
    tls = Tls("", "")
    route = Route("one", (policy,), FileOutput("/events"), redaction=redaction)
    config = Config("receiver", "bench", Listen("", "", tls, tls), Spool("/spool", 2**30), (route,))
    return plane._filter(config, None)


def samples(at_once: int) -> dict[str, tuple[bytes, ...]]:
    """Bodies by name: one of each kind, and those of `make bench`."""
    chance = Random(5)
    found = {kind.name: (event_list(kind.make(chance) for _ in range(at_once)),) for kind in KINDS}
    return found | {f"mix `{mix}`": some(4, 400, mix=mix) for mix in MIXES}


def measure(name: str, bodies: tuple[bytes, ...], rounds: int, policy: Policy = EVERYTHING) -> None:
    """Prints a row."""
    filters = {each_: filter_of(redaction, policy) for each_, redaction in REDACTIONS.items()}
    count = sum(len(msgspec.json.decode(body)["items"]) for body in bodies)
    taken = [filters["default"].take(body) for body in bodies]
    assert not any(part.dead for part in taken)
    lost = sum(int(json.loads(line).get("annotations", {}).get(ANNOTATION, 0)) for part in taken for line in part.lines)
    works: dict[str, Callable[[], Callable[[], object]]] = {
        each_: partial(each, filter_.take, bodies) for each_, filter_ in filters.items()
    }
    best = {each_: seconds / count * 1e6 for each_, seconds in race(works, rounds, time.process_time).items()}
    costs = "".join(f"{best[name]:9.2f}" for name in REDACTIONS)
    ratio, size = best["default"] / best["off"], sum(map(len, bodies)) / count
    print(f"{name:36}{size:9,.0f}{lost / count:9.1f}{costs}{ratio:9.2f} x{best['default'] - best['off']:+9.2f}")


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each measurement; the best counts (15)")
    parser.add_argument("--events", type=int, default=100, help="events in the body of each kind (100)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the kinds whose name has this text")
    parser.add_argument("--body", type=Path, action="append", default=[], metavar="FILE", help="a body, instead")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, one thread, best of {options.rounds}")
    titles = "".join(f"{title:>9}" for title in ("bytes", "values", *REDACTIONS))
    print(f"\n{'us an event':36}{titles}{'default is':>11}{'more':>9}")
    found = {path.name: (path.read_bytes(),) for path in options.body} or samples(options.events)
    for name, bodies in found.items():
        if options.only.lower() in name.lower():
            measure(name, bodies, options.rounds)
            if name.startswith("mix"):
                measure(f"{name}, kept as Metadata", bodies, options.rounds, METADATA)


if __name__ == "__main__":
    main()

"""What redaction and conditions cost the whole data plane: the rows of `make bench` that take turns with each other.

    Metadata, off      a policy that keeps Metadata of the same events, a route with `default: false`
    Metadata           the same, redacted by default
    full, off          everything in full, `default: false`
    full               the same, redacted by default: `1 worker` of the other table
    full, rules        the default and two rules of a user's
    full, conditions   the default and three conditions, which keep every event

Each is compared, round by round, with the row that it adds something to: a busy machine slows both.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.redaction.model import Redaction
from tests.bench.plane_figures import Figures, Start, percentile, ratio
from tests.bench.plane_servers import ours
from tests.bench.redaction import RULES

OFF = Redaction(default=False)
METADATA = Policy((Rule("Metadata"),))
DEFAULT = "1 worker"
CONDITIONS = (
    Condition("no-probes", "!event.userAgent.startsWith('kube-probe/')"),
    Condition("not-from-there", "!event.sourceIPs.exists(address, address.startsWith('192.0.2.'))"),
    Condition("no-plain-reads", "!(event.verb == 'get' && event.objectRef.name.startsWith('scratch-'))"),
)
BASES = {
    "Metadata": ("Metadata, off", "within noise"),
    DEFAULT: ("full, off", "<= 1.15"),
    "full, rules": (DEFAULT, ""),
    "full, conditions": (DEFAULT, ""),
}
"""With which row a row is compared, and the aim."""


def contenders(full: Policy, cores: set[int]) -> dict[str, Start]:
    """The rows, and how each is started."""
    one: Any = partial(ours, 1, cores=cores)
    return {
        "Metadata, off": partial(one, policy=METADATA, redaction=OFF),
        "Metadata": partial(one, policy=METADATA),
        "full, off": partial(one, policy=full, redaction=OFF),
        DEFAULT: partial(one, policy=full),
        "full, rules": partial(one, policy=full, redaction=Redaction(rules=RULES)),
        "full, conditions": partial(one, policy=full, conditions=CONDITIONS),
    }


def show(found: Mapping[str, Figures]) -> None:
    """Prints the table of these rows."""
    titles = ("CPU s per million", "events/s", "p99 at half load, ms", "RSS, MB")
    print(f"\n{'redaction':20}" + "".join(f"{title:>22}" for title in titles) + "  CPU, as a ratio to that of")
    rows = dict.fromkeys(each for row, (base, _) in BASES.items() for each in (base, row) if each in found)
    for name in rows:
        figures = found[name]
        cells = (
            f"{statistics.median(figures.cpu):.1f}",
            f"{statistics.median(figures.acknowledged):,.0f}",
            percentile(figures.waits_half, 0.99),
            f"{max(figures.memory) / 1e6:.0f}",
        )
        print(f"{name:20}" + "".join(f"{cell:>22}" for cell in cells) + _compared(name, found))


def _compared(name: str, found: Mapping[str, Figures]) -> str:
    if name not in BASES:
        return ""
    base, aim = BASES[name]
    return f"  {ratio(found[name].cpu, found[base].cpu)} {base}{aim and f'; aim: {aim}'}"

"""Whether the API server's static policy emits what a pipeline asks for: `covers`, with what nobody means left aside.

A rule without verbs, resources and paths asks, to the letter, for every probe of a load balancer and every answer to a
`list`. Few who write it mean that, and no static policy should emit it for their sake. So five kinds of events are
asked for only by a rule that names them; where one is missing otherwise it is an *exception*, told and not a gap:

    probes          paths of health checks and discovery    named by nonResourceURLs
    heartbeats      Leases of nodes and control plane       named by resources of group coordination.k8s.io
    reads           bodies of answers to get, list, watch   named by verbs
    kubeEvents      bodies of Kubernetes Events             named by resources `events`
    requestReceived the stage, beside ResponseComplete      never: the later event has its time too

`reads` and `kubeEvents` are excepted only where the request itself is recorded. A rule that names Leases only to have
less of them than a later rule would ask for does not ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from auditpipeline.core.budget import Budget
from auditpipeline.core.covers import MAX_TOTAL, Comparison, Gap
from auditpipeline.core.effect import effect_of, shortfall
from auditpipeline.core.policy import Attributes, GroupResources, Level, Policy, Rule, decide

READS = ("get", "list", "watch")
SHOWN = 3
"""So many gaps are looked for: enough to begin with."""

EXCEPTIONS: dict[str, str] = {
    "probes": "probes and discovery (/healthz and the like)",
    "heartbeats": "Leases of nodes and control plane",
    "reads": "bodies of answers to get, list and watch",
    "kubeEvents": "bodies of Kubernetes Events",
    "requestReceived": "stage RequestReceived",
}
"""Each exception with how a message calls it."""

_PROBES = Rule("RequestResponse", non_resource_urls=("/healthz*", "/livez*", "/readyz*", "/version", "/openapi*"))
_LEASES = (GroupResources("coordination.k8s.io", ("leases",)),)
_HEARTBEATS = (
    Rule("RequestResponse", user_groups=("system:nodes",), verbs=("get", "update", "patch"), resources=_LEASES),
    Rule(
        "RequestResponse",
        users=("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"),
        resources=_LEASES,
    ),
)


_HEARTBEAT = Attributes("", (), "update", "", "leases", "", "coordination.k8s.io", "kube-system", "name")
_BEATING = (
    _HEARTBEAT._replace(user="system:node:name", groups=("system:nodes",), namespace="kube-node-lease"),
    *(_HEARTBEAT._replace(user=user) for user in _HEARTBEATS[1].users),
)


class Coverage(NamedTuple):
    """The first gaps (none: all is met), and the exceptions without which there would be more."""

    gaps: tuple[Gap, ...] = ()
    exceptions: tuple[str, ...] = ()


def coverage(static: Policy, wanted: Policy, stopped: Callable[[], bool] = lambda: False) -> Coverage:
    """How far `static` emits what `wanted` asks for. Raises budget.Stopped."""
    look = _Look(static, wanted, Budget(MAX_TOTAL, stopped))
    strict = [gap.rule for gap in look.gaps(range(len(wanted.rules)))]
    found = tuple(islice(look.left(strict), SHOWN))
    return Coverage(found, tuple(look.needed(strict)) if strict and not found else ())


class _Look:
    """One comparison for each set of exceptions that is asked about, all paid for from one budget."""

    def __init__(self, static: Policy, wanted: Policy, budget: Budget) -> None:
        self._static, self._wanted, self._budget = static, wanted, budget
        self._comparisons: dict[frozenset[str], Comparison] = {}

    def gaps(self, rules: Iterable[int], allowed: Iterable[str] = ()) -> Iterator[Gap]:
        """The gaps of these rules with these exceptions."""
        kinds = frozenset(allowed)
        found = self._comparisons.get(kinds)
        if found is None:
            wanted = _without_received(self._wanted) if "requestReceived" in kinds else self._wanted
            found = self._comparisons[kinds] = Comparison(_eased(self._static, kinds), wanted, self._budget)
        for gap in found.gaps(rules):
            yield _as_it_is(self._static, found.wanted, gap) if kinds else gap

    def left(self, rules: Iterable[int]) -> Iterator[Gap]:
        """The gaps that remain with every exception."""
        for index in rules:
            yield from self.gaps([index], EXCEPTIONS.keys() - self._named(index))

    def needed(self, rules: list[int]) -> Iterator[str]:
        """The exceptions that make a difference to one of the rules."""
        for kind in EXCEPTIONS:
            others = EXCEPTIONS.keys() - {kind}
            if any(list(self.gaps([index], others - self._named(index))) for index in rules):
                yield kind

    def _named(self, index: int) -> set[str]:
        """What the rule asks for by name."""
        rule = self._wanted.rules[index]
        entries = [(entry.group, resource) for entry in rule.resources for resource in entry.resources or ("",)]
        leases = any(group == "coordination.k8s.io" for group, _ in entries)
        events = any(group == "events.k8s.io" or name == "events" for group, name in entries)
        return {
            *(["probes"] if any(url != "*" for url in rule.non_resource_urls) else ()),
            *(["heartbeats"] if leases and self._adds(index) else ()),
            *(["reads"] if set(rule.verbs) & set(READS) else ()),
            *(["kubeEvents"] if events else ()),
        }

    def _adds(self, index: int) -> bool:
        """Whether heartbeats would be recorded at a lower level without the rule; also if it decides on none."""
        wanted = self._wanted
        decided = [request for request, rule in self._beating.items() if rule == index]
        if not decided:
            return True
        without = replace(wanted, rules=wanted.rules[:index] + wanted.rules[index + 1 :])
        level = effect_of(wanted, index).level
        return any(decide(without, request).level < level for request in decided)

    @cached_property
    def _beating(self) -> dict[Attributes, int | None]:
        """The rule that decides on each heartbeat."""
        return {request: decide(self._wanted, request).rule for request in _BEATING}


def _as_it_is(static: Policy, wanted: Policy, gap: Gap) -> Gap:
    """The gap in the words of the real static policy, which has other rules than the eased one."""
    if gap.request is None:
        return gap
    rule = decide(static, gap.request).rule
    reason = shortfall(effect_of(static, rule), effect_of(wanted, gap.rule))
    return gap._replace(decided_by=rule, reason=reason)


def _eased(static: Policy, allowed: Set[str]) -> Policy:
    """The static policy as if it emitted the exceptions."""
    rules = [_PROBES] if "probes" in allowed else []
    rules += _HEARTBEATS if "heartbeats" in allowed else ()
    for index, rule in enumerate(static.rules):
        recorded = effect_of(static, index).level >= Level.METADATA
        full = replace(rule, level="RequestResponse", omit_managed_fields=False)
        verbs = [verb for verb in READS if not rule.verbs or verb in rule.verbs]
        if recorded and "kubeEvents" in allowed and _about_events(rule):
            rules.append(full)
        elif recorded and "reads" in allowed and verbs and not rule.non_resource_urls:
            rules += [replace(full, verbs=tuple(verbs)), rule]
        else:
            rules.append(rule)
    return replace(static, rules=tuple(rules))


def _about_events(rule: Rule) -> bool:
    return bool(rule.resources) and all(
        entry.group in ("", "events.k8s.io") and entry.resources == ("events",) for entry in rule.resources
    )


def _without_received(wanted: Policy) -> Policy:
    rules = (
        rule
        if "ResponseComplete" in effect_of(wanted, index).omit_stages
        else replace(rule, omit_stages=tuple(dict.fromkeys((*rule.omit_stages, "RequestReceived"))))
        for index, rule in enumerate(wanted.rules)
    )
    return replace(wanted, rules=tuple(rules))

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

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from msgspec.structs import replace

from auditpipeline.core.covers import Gap, gaps
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


def coverage(static: Policy, wanted: Policy) -> Coverage:
    """How far `static` emits what `wanted` asks for."""
    strict = [gap.rule for gap in gaps(static, wanted, range(len(wanted.rules)))]
    found = tuple(islice(_left(static, wanted, strict), SHOWN))
    return Coverage(found, tuple(_needed(static, wanted, strict)) if strict and not found else ())


def _left(static: Policy, wanted: Policy, rules: Iterable[int]) -> Iterator[Gap]:
    """The gaps that remain with every exception."""
    for index in rules:
        yield from _with(static, wanted, index, EXCEPTIONS.keys() - _named(wanted, index))


def _needed(static: Policy, wanted: Policy, rules: list[int]) -> Iterator[str]:
    """The exceptions that make a difference to one of the rules."""
    for kind in EXCEPTIONS:
        others = EXCEPTIONS.keys() - {kind}
        if any(list(_with(static, wanted, index, others - _named(wanted, index))) for index in rules):
            yield kind


def _with(static: Policy, wanted: Policy, index: int, kinds: Iterable[str]) -> Iterator[Gap]:
    allowed = set(kinds)
    if "requestReceived" in allowed:
        wanted = _without_received(wanted)
    for gap in gaps(_eased(static, allowed), wanted, [index]):
        yield _as_it_is(static, wanted, gap)


def _as_it_is(static: Policy, wanted: Policy, gap: Gap) -> Gap:
    """The gap in the words of the real static policy, which has other rules than the eased one."""
    if gap.request is None:
        return gap
    rule = decide(static, gap.request).rule
    reason = shortfall(effect_of(static, rule), effect_of(wanted, gap.rule))
    return gap._replace(decided_by=rule, reason=reason)


def _named(wanted: Policy, index: int) -> set[str]:
    """What the rule asks for by name."""
    rule = wanted.rules[index]
    entries = [(entry.group, resource) for entry in rule.resources for resource in entry.resources or ("",)]
    return {
        *(["probes"] if any(url != "*" for url in rule.non_resource_urls) else ()),
        *(["heartbeats"] if any(g == "coordination.k8s.io" for g, _ in entries) and _adds(wanted, index) else ()),
        *(["reads"] if set(rule.verbs) & set(READS) else ()),
        *(["kubeEvents"] if any(group == "events.k8s.io" or name == "events" for group, name in entries) else ()),
    }


def _adds(wanted: Policy, index: int) -> bool:
    """Whether heartbeats would be recorded at a lower level without the rule; also where it decides on none of them."""
    without = replace(wanted, rules=wanted.rules[:index] + wanted.rules[index + 1 :])
    level = effect_of(wanted, index).level
    decided = [request for request in _BEATING if decide(wanted, request).rule == index]
    return not decided or any(decide(without, request).level < level for request in decided)


def _eased(static: Policy, allowed: set[str]) -> Policy:
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

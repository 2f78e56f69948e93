"""What an operator is told at its start: immutable values; the cli alone reads arguments and environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GatewayKind = Literal["DaemonSet", "StatefulSet"]
"""What makes the gateway's Pods: on the control-plane nodes, or behind a Service."""
OptOut = Literal["allow", "refuse"]


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process.

    `resync` and `status_interval` are seconds: the longest time between two looks at an unchanged pipeline, and that
    between two looks at settled Pods, by which `pace` counts how soon a status is written. `canary_interval` is that
    between canaries, and between readings of the API servers' metrics. `egress_allow` are networks and ports that
    outputs may connect to although core/egress.py refuses them. `listen` is `host:port`; port 0 takes a free
    one. `identity` names this process in the Lease and has to be unique among the replicas.

    Receivers live in `receivers_namespace`, or in `namespace` if there is none. With `legacy_receivers` those that an
    earlier release made in `namespace` are looked after too.

    NetworkPolicies of receivers let in `node_cidrs` (and, to /metrics, `scraper_cidrs`) alone; if there are none,
    anybody. With `restrict_egress` they bound what receivers reach: DNS, the ports of their outputs and
    `egress_ports`. `metrics_token_file` has the token that reads every /metrics; without it everybody may.

    `redaction_opt_out` says what becomes of AuditPipelines and AuditSinks that keep secrets in their events. `allow` is
    right only if something else decides who may write such an object.
    """

    namespace: str = "auditpipeline-system"
    receivers_namespace: str | None = None
    legacy_receivers: bool = False
    watch_namespaces: tuple[str, ...] = ()
    image: str = "auditpipeline:latest"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    service_port: int = 443
    gateway: bool = True
    gateway_kind: GatewayKind = "DaemonSet"
    gateway_spool_bytes: int = 4 * 2**30
    egress_allow: tuple[str, ...] = ()
    node_cidrs: tuple[str, ...] = ()
    scraper_cidrs: tuple[str, ...] = ()
    restrict_egress: bool = False
    egress_ports: tuple[int, ...] = ()
    redaction_opt_out: OptOut = "refuse"
    listen: str = "0.0.0.0:8080"
    metrics_token_file: Path | None = None
    resync: float = 60.0
    status_interval: float = 10.0
    canary_interval: float = 30.0
    workers: int = 16
    leader_elect: bool = True
    identity: str = "auditpipeline"

    @property
    def home(self) -> str:
        """The namespace of receivers whose pipeline names none."""
        return self.receivers_namespace or self.namespace

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Every namespace that is watched, the operator's own first."""
        return tuple(dict.fromkeys((self.namespace, self.home, *self.watch_namespaces)))

    @property
    def served(self) -> tuple[str, ...]:
        """Every namespace that receivers may live in."""
        legacy = (self.namespace,) if self.legacy_receivers else ()
        return tuple(dict.fromkeys((self.home, *self.watch_namespaces, *legacy)))

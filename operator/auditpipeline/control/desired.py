"""What a pipeline should consist of: a pure function from the parsed object to manifests.

    Pipeline + Settings + Features + certificate  -->  ServiceAccount, Secrets, Service, NetworkPolicy, budget,
                                                       StatefulSet, and the AuditSink unless it is suspended

The same values give the same manifests, byte for byte; there is no clock and no randomness here. Golden files of the
rendering are in tests/golden.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from auditpipeline.control import desired_network, desired_pod, names
from auditpipeline.control.certificates import Pair
from auditpipeline.control.desired_pod import metadata
from auditpipeline.control.resources import Features
from auditpipeline.control.settings import Settings
from auditpipeline.core import config, packing
from auditpipeline.core.conditions.model import Condition, MatchCondition
from auditpipeline.core.destination import File, Http, basic_keys, ca_text, certificate_keys
from auditpipeline.core.floor import level_without_rules
from auditpipeline.core.policy import Policy, Rule, wanted_stages
from auditpipeline.core.quantity import parse_bytes, parse_seconds
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.spec import LEAST_SPOOL, Output, Pipeline, PipelineSpec, file_bytes

Manifest = dict[str, Any]
SPOOL_SHARE, LEFT_SHARE = 0.8, 0.95


@dataclass(frozen=True)
class Certified:
    """A serving certificate and the bundle of authorities that verifies it and its clients; `token` is what a client
    without certificate shows, or ""."""

    leaf: Pair
    bundle: str
    token: str = ""


def children(
    pipeline: Pipeline,
    namespace: str,
    body: bytes,
    tls: Certified,
    settings: Settings,
    features: Features,
    beside: Mapping[str, bytes] | None = None,
) -> list[Manifest]:
    """Every child in `namespace`, in the order to apply them; `body` is the rendered configuration, and `beside` holds
    further files for its folder."""
    name = pipeline.metadata.name
    return [
        account(pipeline, namespace),
        secret(metadata(pipeline, names.config_secret(name), namespace), packing.packed(body) | dict(beside or {})),
        tls_secret(metadata(pipeline, names.tls_secret(name), namespace), tls),
        service(pipeline, namespace, settings),
        desired_network.network_policy(pipeline, namespace, settings),
        budget(pipeline, namespace, features),
        desired_pod.statefulset(pipeline, namespace, settings, features),
    ]


def receiver_config(
    pipeline: Pipeline,
    *,
    token: bool = False,
    canary_user: str = "",
    egress: config.Egress | None = None,
    volume: int | None = None,
    metrics_token: str = "",
    redaction_key_file: str | None = None,
) -> config.Config:
    """The configuration of the pipeline's receivers: one route for each output. `volume` is the bytes of the smallest
    volume that there is, if that is known. `canary_user` is the operator's own, and `egress` what the outputs may
    connect to (None: everything). `redaction_key_file` holds the key of hashes; without one, values are masked.

    With `token`, that of the Pods' TLS folder lets in too: kube-apiserver's own dynamic backend has no certificate.
    """
    tls = config.Tls(f"{names.TLS_FOLDER}/tls.crt", f"{names.TLS_FOLDER}/tls.key", f"{names.TLS_FOLDER}/ca.crt")
    redaction = pipeline.spec.redaction
    if redaction and redaction.hashes and redaction_key_file is None:
        redaction = redaction.masked
    return config.Config(
        plane="receiver",
        name=pipeline.metadata.name,
        listen=config.Listen(
            audit=f"0.0.0.0:{names.AUDIT_PORT}",
            ops=f"0.0.0.0:{names.OPS_PORT}",
            audit_tls=tls,
            ops_tls=tls,
            audit_token_file=f"{names.TLS_FOLDER}/{names.TOKEN_KEY}" if token else None,
        ),
        spool=_spool(pipeline, volume),
        routes=tuple(_route(pipeline.spec, output, redaction) for output in pipeline.spec.outputs),
        canary_user=canary_user,
        egress=egress,
        metrics_token=metrics_token,
        redaction_key_file=redaction_key_file,
    )


def _spool(pipeline: Pipeline, volume: int | None) -> config.Spool:
    webhook = pipeline.spec.webhook
    size = parse_bytes(webhook.storage.size, "spec.webhook.storage.size")
    size = size if volume is None else min(size, volume)
    age = webhook.spool.max_age
    return config.Spool(
        path=f"{names.DATA_FOLDER}/spool.sqlite",
        max_bytes=_spool_bytes(size, file_bytes(pipeline.spec)),
        backpressure=webhook.spool.backpressure,
        max_age=None if age is None else parse_seconds(age, "spec.webhook.spool.maxAge"),
        dead_letters=webhook.spool.dead_letters or "digest",
    )


def spool_share(size: str, path: str) -> int:
    """The bytes that a spool may take of a volume of this size; Invalid, naming `path`, where that is none."""
    return max(2**20, int(parse_bytes(size, path) * SPOOL_SHARE))


def _spool_bytes(size: int, files: int) -> int:
    """Four fifths of the volume, or nearly all that the files of the outputs leave: they fill up, and stay."""
    return max(2**20, int(min(size * SPOOL_SHARE, max(LEAST_SPOOL, (size - files) * LEFT_SHARE))))


def _route(spec: PipelineSpec, output: Output, redaction: Redaction | None) -> config.Route:
    policy = spec.policy.effective
    return config.Route(
        output.name,
        (policy, output.policy.effective) if output.policy else (policy,),
        _destination(output),
        delivery=output.delivery,
        redaction=redaction,
        conditions=(*_conditions(spec.match_conditions), *_conditions(output.match_conditions, output.name)),
    )


def _conditions(conditions: Sequence[MatchCondition], output: str = "") -> Iterator[Condition]:
    for condition in conditions:
        yield Condition(condition.name, condition.expression, output)


def _destination(output: Output) -> config.StdoutOutput | config.FileOutput | config.HttpOutput:
    if output.file:
        return _file(output.file)
    if output.http:
        return _http(output.http)
    return config.StdoutOutput()


def _file(file: File) -> config.FileOutput:
    return config.FileOutput(
        path=file.path,
        max_bytes=parse_bytes(file.max_size, "maxSize"),
        keep=file.keep,
        max_age=None if file.max_age is None else parse_seconds(file.max_age, "maxAge"),
        compression=file.compression,
        fsync=file.fsync,
    )


def _http(http: Http) -> config.HttpOutput:
    token, ca = http.bearer_token_secret_ref, http.ca_secret_ref
    basic, certificate = http.basic_auth_secret_ref, http.client_certificate_secret_ref
    path = desired_pod.secret_path
    return config.HttpOutput(
        url=http.url,
        format=http.format,
        ca=ca_text(http),
        ca_file=path(ca) if ca else None,
        client_tls=config.Tls(*map(path, certificate_keys(certificate))) if certificate else None,
        bearer_token_file=path(token) if token else None,
        basic=config.Basic(*map(path, basic_keys(basic))) if basic else None,
        server_name=http.server_name,
        proxy=http.proxy,
        headers=tuple((header.name, header.value) for header in http.headers),
        compression=http.compression,
        timeout=parse_seconds(http.timeout, "timeout"),
        batch_max_wait=parse_seconds(http.batch_max_wait, "batchMaxWait") or None,
    )


def audit_sink(
    pipeline: Pipeline, namespace: str, bundle: str, settings: Settings, features: Features, token: str = ""
) -> Manifest:
    """The AuditSink: the level and the stages that the policy needs; its rules if the cluster has them. The receivers'
    Service is in `namespace`. An annotation says what the gateway leaves in the events, or hashes."""
    policy, name = pipeline.spec.policy.effective, pipeline.metadata.name
    wanted: Manifest = {"level": level_without_rules(policy).title, "stages": list(wanted_stages(policy))}
    if features.sinks == "crd" and features.sink_rules:
        wanted["rules"] = [msgspec.to_builtins(rule) for rule in _sink_rules(policy)]
    reference = {
        "namespace": namespace,
        "name": names.child(name),
        "path": f"/audit/{token}" if token else "/audit",
        "port": settings.service_port,
    }
    return {
        "apiVersion": names.SINK_API_VERSION,
        "kind": "AuditSink",
        "metadata": metadata(pipeline, names.child(name), None) | _annotations(pipeline.spec.redaction),
        "spec": {
            "policy": wanted,
            "webhook": {
                "throttle": {"qps": pipeline.spec.throttle.qps, "burst": pipeline.spec.throttle.burst},
                "clientConfig": {"service": reference, "caBundle": base64.b64encode(bundle.encode()).decode()},
            },
        },
    }


def _annotations(redaction: Redaction | None) -> Manifest:
    """Rules are not in it: the receivers apply them, and the gateway the default list alone."""
    if redaction is None or (redaction.default and redaction.method == "mask"):
        return {}
    return {"annotations": {names.REDACTION: "hash" if redaction.default else "none"}}


def _sink_rules(policy: Policy) -> list[Rule]:
    """The policy's rules, each saying for itself what the policy says for all: a sink has no omitManagedFields."""
    if not policy.omit_managed_fields:
        return list(policy.rules)
    return [
        msgspec.structs.replace(rule, omit_managed_fields=True) if rule.omit_managed_fields is None else rule
        for rule in policy.rules
    ]


def account(pipeline: Pipeline, namespace: str) -> Manifest:
    """The receivers' ServiceAccount: it has no permission and no token is mounted."""
    meta = metadata(pipeline, names.child(pipeline.metadata.name), namespace)
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False}


def service(pipeline: Pipeline, namespace: str, settings: Settings) -> Manifest:
    """The Service in front of the receivers."""
    name = pipeline.metadata.name
    port = {"name": "audit", "port": settings.service_port, "targetPort": "audit", "protocol": "TCP"}
    selector = {names.PIPELINE: name, names.APP: names.RECEIVER}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(pipeline, names.child(name), namespace),
        "spec": {"type": "ClusterIP", "selector": selector, "ports": [port]},
    }


def budget(pipeline: Pipeline, namespace: str, features: Features) -> Manifest:
    """One Pod at a time may be evicted; a single one too, so that a drain never hangs (the gateway keeps events)."""
    name = pipeline.metadata.name
    return {
        "apiVersion": features.budgets.api_version,
        "kind": "PodDisruptionBudget",
        "metadata": metadata(pipeline, names.child(name), namespace),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {names.PIPELINE: name, names.APP: names.RECEIVER}},
        },
    }


def secret(meta: Manifest, data: dict[str, bytes], kind: str = "Opaque") -> Manifest:
    """A Secret with `data`."""
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": kind, "data": encoded}


def tls_secret(meta: Manifest, tls: Certified) -> Manifest:
    """A Secret of type kubernetes.io/tls with the bundle as ca.crt."""
    data = {"tls.crt": tls.leaf.certificate, "tls.key": tls.leaf.key, "ca.crt": tls.bundle}
    if tls.token:
        data[names.TOKEN_KEY] = tls.token
    return secret(meta, {key: value.encode() for key, value in data.items()}, "kubernetes.io/tls")


def digest(manifest: Manifest) -> str:
    """The name of a manifest's content."""
    return hashlib.blake2b(msgspec.json.encode(manifest, order="deterministic"), digest_size=12).hexdigest()


def mounted(parts: Sequence[str]) -> str:
    """The value of the Pods' annotation: changes with anything that is mounted."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def reissued(tls: Certified, leaf: Pair) -> Certified:
    """The same trust with another leaf."""
    return replace(tls, leaf=leaf)

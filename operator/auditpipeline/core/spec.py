"""The AuditPipeline and the AuditSink as typed values: parsed once, and never a dict after that.

`parse_pipeline` and `parse_sink` take the object as the API server stores it and raise Invalid with the field's path.
The CRDs refuse most of what is refused here; what they cannot say in a schema is said here, and a pipeline that runs
without Kubernetes has only this. Shapes: crds/auditpipelines.yaml and crds/auditsinks.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec

from auditpipeline.core import policy as audit_policy
from auditpipeline.core.errors import Invalid
from auditpipeline.core.policy import Policy, Rule
from auditpipeline.core.quantity import parse_bytes, parse_seconds

Label = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
# Children are called audit-<name>, and a StatefulSet adds eleven characters to that for its Pods' labels.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
# "", "/", or segments that are each a DNS subdomain: k8s.io/apiserver/pkg/util/webhook/validation.go.
SERVICE_PATH = r"^(/|(/[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)+/?)?$"
OWN_SECRETS = re.compile(r"auditpipeline-.*|audit-.*-(config|tls)")
# Below these, a spool could not keep its reserve, and a file would rotate with every batch.
LEAST_STORAGE, LEAST_FILE = 64 * 2**20, 2**20
Format = Literal["json-lines", "json-array", "event-list"]


class _Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A value of the spec: immutable, camelCase outside, nothing unknown accepted."""


class SecretKey(_Value, frozen=True):
    """One key of a Secret in the pipeline's target namespace."""

    # Both become parts of paths in the Pod: the patterns are those of Kubernetes, and know no slash and no "..".
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=SUBDOMAIN)]
    key: Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$")]


class Stdout(_Value, frozen=True):
    """JSON lines on the Pod's standard output."""


class File(_Value, frozen=True):
    """JSON lines in a file that rotates at `maxSize`; `keep` older files stay."""

    path: Annotated[str, msgspec.Meta(max_length=255)]
    max_size: str = "100Mi"
    keep: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10


class Http(_Value, frozen=True):
    """HTTP POST of batches."""

    url: Annotated[str, msgspec.Meta(max_length=2048, pattern=r"^https?://[^/\s]+")]
    format: Format = "json-lines"
    bearer_token_secret_ref: SecretKey | None = None
    ca_secret_ref: SecretKey | None = None


class Output(_Value, frozen=True):
    """One destination; exactly one of `stdout`, `file` and `http`."""

    name: Label
    stdout: Stdout | None = None
    file: File | None = None
    http: Http | None = None
    policy: Policy | None = None
    delivery: Literal["Guaranteed", "BestEffort"] = "Guaranteed"


class Storage(_Value, frozen=True):
    """Where a Pod keeps its spool: a claim of `size`, or with `ephemeral` a volume that goes with the Pod."""

    size: str = "10Gi"
    storage_class_name: str | None = None
    ephemeral: bool = False


class Webhook(_Value, frozen=True):
    """The Pods that receive; `resources` and `tolerations` are the Pod's own fields."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=10)] = 2
    storage: Storage = Storage()
    resources: dict[str, Any] | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class Throttle(_Value, frozen=True):
    """Batches a second, and how many may go at once before that counts. Defaults: those of AuditSink in 1.18."""

    qps: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 10
    burst: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 15


class PipelineSpec(_Value, frozen=True):
    """`spec` of an AuditPipeline."""

    policy: Policy
    outputs: Annotated[tuple[Output, ...], msgspec.Meta(min_length=1, max_length=16)]
    target_namespace: Label | None = None
    webhook: Webhook = Webhook()
    throttle: Throttle = Throttle()
    expire_after: str | None = None
    suspend: bool = False


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What is needed of an object's metadata."""

    name: str
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""


class Pipeline(msgspec.Struct, frozen=True):
    """A whole AuditPipeline."""

    metadata: Meta
    spec: PipelineSpec


class SinkPolicy(_Value, frozen=True):
    """What a sink wants: `level` and `stages` as in 1.18, or full `rules` where our CRD serves AuditSink."""

    level: str
    stages: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


class ServiceReference(_Value, frozen=True):
    """A Service; its TLS name is `<name>.<namespace>.svc`."""

    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    path: Annotated[str, msgspec.Meta(max_length=1024, pattern=SERVICE_PATH)] = ""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 443


class ClientConfig(_Value, frozen=True):
    """Where a sink is: exactly one of `url` and `service`. `ca_bundle` is base64 of PEM."""

    url: str | None = None
    service: ServiceReference | None = None
    ca_bundle: str | None = None


class SinkWebhook(_Value, frozen=True):
    """How a sink is called."""

    client_config: ClientConfig
    throttle: Throttle = Throttle()


class SinkSpec(_Value, frozen=True):
    """`spec` of an AuditSink (auditregistration.k8s.io/v1alpha1)."""

    policy: SinkPolicy
    webhook: SinkWebhook


class Sink(msgspec.Struct, frozen=True):
    """A whole AuditSink."""

    metadata: Meta
    spec: SinkSpec


T = TypeVar("T")


def parse_pipeline(obj: Mapping[str, Any]) -> Pipeline:
    """The AuditPipeline in `obj`, checked; Invalid says which field to mend and how."""
    pipeline = _convert(obj, Pipeline)
    problems = [problem for problem in _pipeline_problems(pipeline.spec) if problem]
    if not _fits(pipeline.metadata.name, Name):
        raise Invalid("metadata.name", "must be a DNS label of at most 40 characters")
    if problems:
        raise problems[0]
    return pipeline


def parse_sink(obj: Mapping[str, Any]) -> Sink:
    """The AuditSink in `obj`, checked as kube-apiserver 1.18 checked it (pkg/apis/auditregistration/validation)."""
    sink = _convert(obj, Sink)
    problems = _sink_problems(sink.spec)
    if problems:
        raise problems[0]
    return sink


def sink_policy(policy: SinkPolicy) -> Policy:
    """The audit policy that a sink stands for: its rules, or one rule of its level; other stages are omitted."""
    omitted = tuple(stage for stage in audit_policy.STAGES if stage not in policy.stages)
    return Policy(rules=policy.rules or (Rule(level=policy.level),), omit_stages=omitted)


def _convert(obj: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert({"metadata": obj.get("metadata", {}), "spec": obj.get("spec", {})}, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise Invalid(path.rstrip("`").lstrip("."), message[:1].lower() + message[1:]) from None


def _fits(value: str, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _pipeline_problems(spec: PipelineSpec) -> list[Invalid]:
    problems = _policy_problems(spec.policy, "spec.policy")
    names: set[str] = set()
    paths: set[str] = set()
    for index, output in enumerate(spec.outputs):
        where = f"spec.outputs[{index}]"
        problems += _output_problems(output, where)
        if output.name in names:
            problems.append(Invalid(f"{where}.name", f"{output.name!r} is taken by another output: names are unique"))
        names.add(output.name)
        if output.file:
            if output.file.path in paths:
                problems.append(Invalid(f"{where}.file.path", "another output writes this file: give each its own"))
            paths.add(output.file.path)
    parse_bytes(spec.webhook.storage.size, "spec.webhook.storage.size", LEAST_STORAGE)
    if spec.expire_after is not None:
        parse_seconds(spec.expire_after, "spec.expireAfter")
    return problems


def _policy_problems(policy: Policy, path: str) -> list[Invalid]:
    if not policy.rules:
        return [Invalid(f"{path}.rules", "at least one rule is needed: an empty policy records nothing")]
    return audit_policy.validate(policy, path)


def _output_problems(output: Output, where: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if sum(kind is not None for kind in (output.stdout, output.file, output.http)) != 1:
        problems.append(Invalid(where, "exactly one of stdout, file and http is needed"))
    if output.file:
        problems += _file_problems(output.file, f"{where}.file")
    if output.http:
        problems += _url_problems(output.http.url, f"{where}.http.url")
        problems += _secret_problems(output.http, f"{where}.http")
    if output.policy:
        problems += _policy_problems(output.policy, f"{where}.policy")
    return problems


def _secret_problems(http: Http, where: str) -> list[Invalid]:
    """The operator's own Secrets hold private keys: no output may send one away."""
    references = {"bearerTokenSecretRef": http.bearer_token_secret_ref, "caSecretRef": http.ca_secret_ref}
    return [
        Invalid(
            f"{where}.{field}.name", f"{reference.name!r} is a Secret of auditpipeline itself: make one of your own"
        )
        for field, reference in references.items()
        if reference and OWN_SECRETS.fullmatch(reference.name)
    ]


def _file_problems(file: File, where: str) -> list[Invalid]:
    parse_bytes(file.max_size, f"{where}.maxSize", LEAST_FILE)
    if not re.fullmatch(r"/var/log(/[A-Za-z0-9_][-A-Za-z0-9._]*){2,}", file.path):
        return [
            Invalid(f"{where}.path", "must be a file in a folder below /var/log, such as /var/log/audit/events.jsonl")
        ]
    return []


def _sink_problems(spec: SinkSpec) -> list[Invalid]:
    policy, config = spec.policy, spec.webhook.client_config
    problems = audit_policy.validate(Policy(rules=(Rule(level=policy.level), *policy.rules)), "spec.policy")
    problems += [
        Invalid(f"spec.policy.stages[{index}]", f"{stage!r}: allowed stages are {', '.join(audit_policy.STAGES)}")
        for index, stage in enumerate(policy.stages)
        if stage not in audit_policy.STAGES
    ]
    if policy.level != "None" and not policy.stages:
        problems.append(Invalid("spec.policy.stages", "at least one stage is needed for a level other than None"))
    if (config.url is None) == (config.service is None):
        problems.append(Invalid("spec.webhook.clientConfig", "exactly one of url or service is required"))
    if config.url is not None:
        problems += _url_problems(config.url, "spec.webhook.clientConfig.url")
    return problems


def _url_problems(url: str, path: str) -> list[Invalid]:
    """Source: k8s.io/apiserver/pkg/util/webhook/validation.go (a URL may carry a credential, so none is repeated)."""
    parts = _split_url(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return [Invalid(path, "host must be specified; desired format: https://host[/path]")]
    if parts.username is not None or parts.password is not None:
        return [Invalid(path, "user information is not permitted in the URL")]
    if parts.fragment or parts.query:
        return [Invalid(path, "fragments and query parameters are not permitted in the URL")]
    return []


def _split_url(url: str) -> SplitResult | None:
    """The parts of the URL; None where there is no address or no port in it, or a space (which urlsplit would drop)."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if re.search(r"[\s\x00-\x1f\x7f]", url) else parts

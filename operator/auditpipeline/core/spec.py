"""The AuditPipeline and the AuditSink as typed values: parsed once, and never a dict after that.

`parse_pipeline` and `parse_sink` take the object as somebody wrote it and raise Invalid with the field's path. The CRDs
refuse most of what is refused here; what they cannot say in a schema is said here, and a pipeline that runs without
Kubernetes has only this. Shapes: crds/auditpipelines.yaml and crds/auditsinks.yaml.

`stored_pipeline` and `stored_sink` take what an API server stores, whose CRDs may be newer than this release: fields
that are not known here are ignored (`unknown.py`), and all others are judged in the same way. One exception is
`spec.redaction`: without one of its fields, less might be taken from events than its author asked for, so that an
unknown field there is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from auditpipeline.core import policy as audit_policy
from auditpipeline.core.conditions.model import MatchCondition
from auditpipeline.core.destination import File, Http, Stdout, file_problems, http_problems, url_problems
from auditpipeline.core.errors import Invalid
from auditpipeline.core.floor import with_floor
from auditpipeline.core.policy import Policy, Rule, Text
from auditpipeline.core.presets import PresetName, preset
from auditpipeline.core.quantity import parse_bytes, parse_seconds
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.redaction.paths import problems as redaction_problems
from auditpipeline.core.unknown import known, paths

Label = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
# What Kubernetes takes for the name of a Namespace, and of a Service (ones that begin with a digit since 1.34).
ServiceLabel = Annotated[str, msgspec.Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
# Children are called audit-<name>, and a StatefulSet adds eleven characters to that for its Pods' labels.
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
# "", "/", or segments that are each a DNS subdomain: k8s.io/apiserver/pkg/util/webhook/validation.go.
SERVICE_PATH = r"^(/|(/[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)+/?)?$"
MAX_REPLICAS = 10
LEAST_WAIT = 60.0
"""Seconds that an event may wait at least: less would lose events whenever an output is started anew."""
LEAST_STORAGE = 64 * 2**20
"""Below this a spool could not keep its reserve."""
LEAST_SPOOL = 32 * 2**20
"""What the files of the outputs have to leave to the spool."""
UNSYNCED = "a power cut could take what a Guaranteed output has written: leave fsync out, or say delivery: BestEffort"


class _Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A value of the spec: immutable, camelCase outside, nothing unknown accepted."""


class PipelinePolicy(_Value, frozen=True):
    """What is recorded, as it is written: rules, as in `audit.k8s.io/v1`, or a preset by name."""

    preset: PresetName | None = None
    rules: tuple[Rule, ...] = ()
    omit_stages: tuple[Text, ...] = ()
    omit_managed_fields: bool | None = None

    @property
    def written(self) -> Policy:
        """The rules that are meant."""
        if self.preset:
            return preset(self.preset)
        return Policy(self.rules, self.omit_stages, bool(self.omit_managed_fields))

    @property
    def effective(self) -> Policy:
        """What decides: the rules that are meant, behind the floor."""
        return with_floor(self.written)


class Output(_Value, frozen=True):
    """One destination; exactly one of `stdout`, `file` and `http`."""

    name: Label
    stdout: Stdout | None = None
    file: File | None = None
    http: Http | None = None
    policy: PipelinePolicy | None = None
    match_conditions: tuple[MatchCondition, ...] = ()
    delivery: Literal["Guaranteed", "BestEffort"] = "Guaranteed"


class Storage(_Value, frozen=True):
    """Where a Pod keeps its spool: a claim of `size`, or with `ephemeral` a volume that goes with the Pod."""

    size: str = "10Gi"
    storage_class_name: str | None = None
    ephemeral: bool = False


class Spool(_Value, frozen=True):
    """What becomes of events that wait: `backpressure` when the spool is full, `max_age` (a duration) in any case; and
    what is kept of a body that cannot be read (None: its digest)."""

    backpressure: Literal["reject", "dropOldest"] = "reject"
    max_age: str | None = None
    dead_letters: Literal["whole", "digest"] | None = None


class Webhook(_Value, frozen=True):
    """The Pods that receive; `resources` and `tolerations` are the Pod's own fields."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=MAX_REPLICAS)] = 2
    storage: Storage = Storage()
    spool: Spool = Spool()
    resources: dict[str, Any] | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()


class Throttle(_Value, frozen=True):
    """Batches a second, and how many may go at once before that counts. Defaults: those of AuditSink in 1.18."""

    qps: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 10
    burst: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 15


class PipelineSpec(_Value, frozen=True):
    """`spec` of an AuditPipeline."""

    policy: PipelinePolicy
    outputs: Annotated[tuple[Output, ...], msgspec.Meta(min_length=1, max_length=16)]
    match_conditions: tuple[MatchCondition, ...] = ()
    target_namespace: Label | None = None
    webhook: Webhook = Webhook()
    throttle: Throttle = Throttle()
    redaction: Redaction | None = None
    expire_after: str | None = None
    suspend: bool = False

    @property
    def opts_out(self) -> bool:
        """Whether secrets of the default list stay in the events."""
        return self.redaction is not None and not self.redaction.default

    @property
    def is_conditional(self) -> bool:
        """Whether the pipeline or an output has conditions."""
        return bool(self.match_conditions) or any(output.match_conditions for output in self.outputs)


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What is needed of an object's metadata."""

    name: str
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""


class Pipeline(msgspec.Struct, frozen=True):
    """A whole AuditPipeline; `ignored` are the paths of stored fields that this release does not know."""

    metadata: Meta
    spec: PipelineSpec
    ignored: tuple[str, ...] = ()


class SinkPolicy(_Value, frozen=True):
    """What a sink wants: `level` and `stages` as in 1.18, or full `rules` where our CRD serves AuditSink."""

    level: str
    stages: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


class ServiceReference(_Value, frozen=True):
    """A Service; its TLS name is `<name>.<namespace>.svc`."""

    namespace: ServiceLabel
    name: ServiceLabel
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
    """A whole AuditSink; `ignored` as in Pipeline."""

    metadata: Meta
    spec: SinkSpec
    ignored: tuple[str, ...] = ()


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


def stored_pipeline(obj: Mapping[str, Any]) -> Pipeline:
    """The AuditPipeline that an API server stores: checked as a written one, but for fields that are not known."""
    spec, ignored = known(obj.get("spec", {}), PipelineSpec, "spec")
    _refuse_unknown_redaction(ignored)
    try:
        return msgspec.structs.replace(parse_pipeline({**obj, "spec": spec}), ignored=ignored)
    except Invalid as error:
        raise _beside(ignored, error) from None


def stored_sink(obj: Mapping[str, Any]) -> Sink:
    """The AuditSink that an API server stores; as `stored_pipeline`."""
    spec, ignored = known(obj.get("spec", {}), SinkSpec, "spec")
    try:
        return msgspec.structs.replace(parse_sink({**obj, "spec": spec}), ignored=ignored)
    except Invalid as error:
        raise _beside(ignored, error) from None


def _refuse_unknown_redaction(ignored: tuple[str, ...]) -> None:
    for path in ignored:
        if path.startswith("spec.redaction."):
            why = "without it, less could be taken from events than it asks for"
            raise Invalid(path, f"this release does not know this field, and {why}: upgrade the operator")


def _beside(ignored: tuple[str, ...], error: Invalid) -> Invalid:
    """The error, and what may have caused it: an output of a kind that came later has none of the kinds of today."""
    if not ignored:
        return error
    return Invalid(error.path, f"{error.message} (this release does not know {paths(ignored)}: upgrade the operator)")


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
    problems += _condition_problems(spec.match_conditions, "spec.matchConditions")
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
    size = parse_bytes(spec.webhook.storage.size, "spec.webhook.storage.size", LEAST_STORAGE)
    problems += _storage_problems(spec.webhook.storage.size, size, file_bytes(spec))
    age = spec.webhook.spool.max_age
    if age is not None and parse_seconds(age, "spec.webhook.spool.maxAge") < LEAST_WAIT:
        problems.append(Invalid("spec.webhook.spool.maxAge", f"{age!r} is too short: at least 1m is needed"))
    if spec.expire_after is not None:
        parse_seconds(spec.expire_after, "spec.expireAfter")
    if spec.redaction is not None:
        problems += redaction_problems(spec.redaction, "spec.redaction")
    return problems


def file_bytes(spec: PipelineSpec) -> int:
    """What the files of the outputs may take together; compressed ones count half, as they are surely smaller."""
    total = 0
    for file in (output.file for output in spec.outputs if output.file):
        rotated = file.keep if file.compression == "none" else file.keep / 2
        total += int(parse_bytes(file.max_size, "maxSize") * (1 + rotated))
    return total


def _storage_problems(said: str, size: int, files: int) -> list[Invalid]:
    """A volume that files alone can fill stays full: nothing would be taken in for good, or the Pod be evicted."""
    if files == 0 or size >= files + LEAST_SPOOL:
        return []
    need = -(-(files + LEAST_SPOOL) // 2**20)
    what = f"the files of the outputs may take {files // 2**20}Mi of it (maxSize times keep + 1; compressed ones half)"
    return [
        Invalid(
            "spec.webhook.storage.size",
            f"{said!r} is too small: {what}, and {LEAST_SPOOL // 2**20}Mi are needed for the spool: "
            f"write {need}Mi or more, or lower maxSize or keep",
        )
    ]


def _policy_problems(policy: PipelinePolicy, path: str) -> list[Invalid]:
    if policy.preset:
        return _beside_preset(policy, path)
    if not policy.rules:
        return [Invalid(f"{path}.rules", "at least one rule is needed, or a preset: an empty policy records nothing")]
    return audit_policy.validate(policy.written, path)


def _beside_preset(policy: PipelinePolicy, path: str) -> list[Invalid]:
    """A preset is a whole policy: nothing stands beside it that it would have to be mixed with."""
    beside = {
        "rules": policy.rules,
        "omitStages": policy.omit_stages,
        "omitManagedFields": policy.omit_managed_fields is not None,
    }
    said = f"preset {policy.preset} is a whole policy: leave this out, or copy the preset's rules here and change them"
    return [Invalid(f"{path}.{field}", said) for field, given in beside.items() if given]


def _output_problems(output: Output, where: str) -> list[Invalid]:
    problems: list[Invalid] = []
    if sum(kind is not None for kind in (output.stdout, output.file, output.http)) != 1:
        problems.append(Invalid(where, "exactly one of stdout, file and http is needed"))
    if output.file:
        problems += file_problems(output.file, f"{where}.file")
        if output.file.fsync != "batch" and output.delivery == "Guaranteed":
            problems.append(Invalid(f"{where}.file.fsync", UNSYNCED))
    if output.http:
        problems += http_problems(output.http, f"{where}.http")
    if output.policy:
        problems += _policy_problems(output.policy, f"{where}.policy")
    return problems + _condition_problems(output.match_conditions, f"{where}.matchConditions")


def _condition_problems(conditions: tuple[MatchCondition, ...], where: str) -> list[Invalid]:
    """A spec without conditions loads no CEL library."""
    if not conditions:
        return []
    from auditpipeline.core.conditions.check import problems

    return problems(conditions, where)


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
        problems += url_problems(config.url, "spec.webhook.clientConfig.url")
    if config.service is not None:
        problems += _service_problems(config.service, "spec.webhook.clientConfig.service")
    return problems


def _service_problems(service: ServiceReference, where: str) -> list[Invalid]:
    """Python's `$` lets a last line break pass, the CRD's does not."""
    fields = {"namespace": service.namespace, "name": service.name, "path": service.path}
    return [
        Invalid(f"{where}.{field}", "must not end in a line break") for field, text in fields.items() if "\n" in text
    ]

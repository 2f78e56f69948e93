"""crds/ and core/spec.py say the same: every field, default, enum, pattern and bound. Needs no cluster.

Where a bound is in the schema alone it is one of size (maxLength, maxItems, maxProperties), which the API server needs
to bound the cost of its checks, and which a pipeline that runs without Kubernetes does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
import yaml

from auditpipeline.core import policy, report, spec
from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction import model as redaction
from tests.manifests.objects import (
    BAD_PIPELINES,
    BAD_SINKS,
    GOOD_SINKS,
    PIPELINE,
    ROOT,
    SERVICE,
    SINK,
    Bad,
    Good,
    changed,
    named,
)

Schema = dict[str, Any]
REFUSED_EMPTY = {(policy.Rule, "level")}
"""Fields whose default in core is empty, which core's checks then refuse: as good as required."""
UNSAID = {(redaction.Redaction, "default"), (redaction.Redaction, "method"), (redaction.Rule, "action")}
"""Fields whose default the CRD leaves out, since the release before does not know them (test_before.py)."""
BOUNDS: dict[type, dict[str, str]] = {
    msgspec.inspect.StrType: {"min_length": "minLength", "max_length": "maxLength", "pattern": "pattern"},
    msgspec.inspect.IntType: {"ge": "minimum", "le": "maximum"},
    msgspec.inspect.VarTupleType: {"min_length": "minItems", "max_length": "maxItems"},
}
TYPES: dict[type, str] = {
    msgspec.inspect.StrType: "string",
    msgspec.inspect.IntType: "integer",
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.VarTupleType: "array",
    msgspec.inspect.DictType: "object",
    msgspec.inspect.StructType: "object",
    msgspec.inspect.LiteralType: "string",
}


def schema_of(name: str, *path: str) -> Schema:
    """The schema of a CRD in crds/, or the part of it at `path` (`items` steps into a list)."""
    crd = yaml.safe_load((ROOT / "crds" / name).read_text())
    node: Schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for step in path:
        node = node["items"] if step == "items" else node["properties"][step]
    return node


PIPELINE_SCHEMA, SINK_SCHEMA = schema_of("auditpipelines.yaml"), schema_of("auditsinks.yaml")


def differences(schema: Schema, kind: Any, path: str) -> Iterator[str]:
    """Every difference between a schema and a type of core/, as a sentence."""
    if isinstance(kind, msgspec.inspect.UnionType):  # only `T | None`: absent is None
        (kind,) = (member for member in kind.types if not isinstance(member, msgspec.inspect.NoneType))
    if isinstance(kind, msgspec.inspect.AnyType):
        return
    if schema.get("type") != TYPES[type(kind)]:
        yield f"{path}: type {schema.get('type')} is {TYPES[type(kind)]} in core"
    yield from _bounds(schema, kind, path)
    if isinstance(kind, msgspec.inspect.LiteralType) and set(schema.get("enum", ())) != set(kind.values):
        yield f"{path}: enum {schema.get('enum')} is {kind.values} in core"
    if isinstance(kind, msgspec.inspect.StructType):
        yield from _fields(schema, kind, path)
    if isinstance(kind, msgspec.inspect.VarTupleType) and not isinstance(kind.item_type, msgspec.inspect.DictType):
        yield from differences(schema["items"], kind.item_type, f"{path}[]")


def _bounds(schema: Schema, kind: Any, path: str) -> Iterator[str]:
    for ours, theirs in BOUNDS.get(type(kind), {}).items():
        bound = getattr(kind, ours)
        # An enum bounds its values' length by itself.
        if bound is not None and schema.get(theirs) != bound and "enum" not in schema:
            yield f"{path}: {theirs} {schema.get(theirs)} is {bound} in core"


def _fields(schema: Schema, kind: msgspec.inspect.StructType, path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    fields = {field.encode_name: field for field in kind.fields}
    for name in sorted(properties.keys() ^ fields.keys()):
        yield f"{path}.{name}: only in {'the CRD' if name in properties else 'core'}"
    for name in sorted(properties.keys() & fields.keys()):
        field, where = fields[name], f"{path}.{name}"
        if (field.required or (kind.cls, name) in REFUSED_EMPTY) != (name in schema.get("required", ())):
            yield f"{where}: required is {field.required} in core"
        if (kind.cls, name) not in UNSAID:
            yield from _default(properties[name], field, where)
        yield from differences(properties[name], field.type, where)


def _default(schema: Schema, field: msgspec.inspect.Field, path: str) -> Iterator[str]:
    """A default that says nothing (none, "", false, an empty list) may be left out of a schema, and no other."""
    ours = None if field.default is msgspec.NODEFAULT else field.default
    if isinstance(ours, msgspec.Struct):
        ours = {} if "default" in schema else "a default of its own, so that its fields' defaults hold"
    if (ours or schema.get("default")) and schema.get("default") != ours:
        yield f"{path}: default {schema.get('default')!r} is {ours!r} in core"


@pytest.mark.parametrize(
    ("schema", "kind"),
    [(PIPELINE_SCHEMA, spec.PipelineSpec), (SINK_SCHEMA, spec.SinkSpec)],
    ids=["AuditPipeline", "AuditSink"],
)
def test_crd_and_core_have_the_same_fields_defaults_enums_and_bounds(schema: Schema, kind: type) -> None:
    """Walk both side by side."""
    assert list(differences(schema["properties"]["spec"], msgspec.inspect.type_info(kind), "spec")) == []


def test_a_difference_would_be_found() -> None:
    """The walk itself is tried: another bound, another default, a field too many."""
    schema = {
        "type": "object",
        "properties": {"qps": {"type": "integer", "minimum": 0, "maximum": 10000, "default": 9}, "more": {}},
    }
    found = list(differences(schema, msgspec.inspect.type_info(spec.Throttle), "throttle"))
    assert found == [
        "throttle.burst: only in core",
        "throttle.more: only in the CRD",
        "throttle.qps: default 9 is 10 in core",
        "throttle.qps: minimum 0 is 1 in core",
    ]


RULES = [
    schema_of("auditpipelines.yaml", "spec", "policy", "rules", "items"),
    schema_of("auditpipelines.yaml", "spec", "outputs", "items", "policy", "rules", "items"),
    schema_of("auditsinks.yaml", "spec", "policy", "rules", "items"),
]


def test_a_rule_is_the_same_wherever_rules_stand() -> None:
    """Pipeline, output and sink take rules of one schema, descriptions and checks included."""
    assert RULES[0] == RULES[1] == RULES[2]


def test_levels_and_stages_are_those_of_the_policy() -> None:
    """Enums of fields that are plain strings in core, which checks them with words of its own."""
    levels, stages = [level.title for level in policy.Level], list(policy.STAGES)
    properties = RULES[0]["properties"]
    sink = SINK_SCHEMA["properties"]["spec"]["properties"]["policy"]["properties"]
    assert properties["level"]["enum"] == sink["level"]["enum"] == levels
    assert properties["omitStages"]["items"]["enum"] == sink["stages"]["items"]["enum"] == stages


def test_the_status_has_the_words_of_the_report() -> None:
    """What the data plane reports is what the status can hold."""
    status = PIPELINE_SCHEMA["properties"]["status"]
    output = status["properties"]["outputs"]["items"]["properties"]
    reported = {field.encode_name for field in msgspec.structs.fields(report.OutputReport)}
    counted = {field.encode_name for field in msgspec.structs.fields(report.Events)}
    assert output["state"]["enum"] == list(get_args(report.State))
    assert output.keys() <= reported
    assert status["properties"]["events"]["properties"].keys() == counted
    assert status["default"] == {"observedGeneration": -1}


def nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every node of a schema below its root."""
    for name, child in schema.get("properties", {}).items():
        yield from ((f"{path}.{name}", child), *nodes(child, f"{path}.{name}"))
    for step in ("items", "additionalProperties"):
        if step in schema:
            yield from ((f"{path}[]", schema[step]), *nodes(schema[step], f"{path}[]"))


NODES = [
    (path, node)
    for schema in (PIPELINE_SCHEMA, SINK_SCHEMA)
    for part in ("spec", "status")
    if part in schema["properties"]
    for path, node in nodes(schema["properties"][part], part)
]


def test_every_field_is_described() -> None:
    """The descriptions are what `kubectl explain` shows."""
    assert [path for path, node in NODES if not node.get("description")] == []


def test_everything_has_a_size() -> None:
    """Nothing may grow without bound: strings, lists and maps."""
    unbounded = [
        path
        for path, node in NODES
        if (node.get("type") == "string" and not {"maxLength", "enum", "format"} & node.keys())
        or (node.get("type") == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]
    assert unbounded == []


def test_every_check_says_what_to_do() -> None:
    """A CEL rule without a message would show its own source to the user."""
    checks = [check for _, node in NODES for check in node.get("x-kubernetes-validations", ())]
    assert checks
    assert [check["rule"] for check in checks if not check.get("message")] == []


SIZE = PIPELINE_SCHEMA["properties"]["spec"]["properties"]["webhook"]["properties"]["storage"]["properties"]["size"]
EXPIRE = PIPELINE_SCHEMA["properties"]["spec"]["properties"]["expireAfter"]
GROUP = RULES[0]["properties"]["resources"]["items"]["properties"]["group"]
PATH = RULES[0]["properties"]["nonResourceURLs"]["items"]

TAKEN = PIPELINE_SCHEMA["properties"]["spec"]["properties"]["redaction"]["properties"]["rules"]["items"]["properties"]
SELECTED = TAKEN["resources"]["items"]["properties"]


@pytest.mark.parametrize(
    ("schema", "path", "values"),
    [
        (
            SIZE,
            "spec.webhook.storage.size",
            ["67108864000", "50.5Gi", "50G", "99999999k", "", "-1", "1Pi", "1.", ".5Gi", "1e3", " 1"],
        ),
        (EXPIRE, "spec.expireAfter", ["2h", "1h30m", "0.5h", "100ms", "5", "h", "-1h", "1d", "1h ", "1us"]),
        (
            GROUP,
            "spec.policy.rules.1.resources.1.group",
            ["", "*", "apps", "a.b-c", "A", "a..b", "-a", "apps/v1", "a*"],
        ),
        (PATH, "spec.policy.rules.0.nonResourceURLs.0", ["*", "/", "/*", "/a/b*", "", "a", "/a*b", "/**", "**"]),
        (
            TAKEN["paths"]["items"],
            "spec.redaction.rules.0.paths.0",
            [
                *("a", "a.b", "*", "**.a", "a.**", 'a["b"]', '["a.b"].c', 'a["\\""].b', 'a["\\\\"]'),
                *("", ".a", "a.", "a..b", "***", "a*", "a b", "a[b]", "a[0]", 'a["b]', 'a["b"]c', '["\\n"]', "ä"),
            ],
        ),
        (
            SELECTED["group"],
            "spec.redaction.rules.0.resources.0.group",
            ["", "*", "apps", "a.b-c", "A", "-a", "apps/v1", "a*", "a-"],
        ),
        (
            SELECTED["resources"]["items"],
            "spec.redaction.rules.0.resources.0.resources.0",
            ["*", "secrets", "pods/exec", "pods/*", "Secrets", "", "*/scale", "a/", "/a", "a/b/c", "a*"],
        ),
    ],
    ids=["size", "duration", "group", "path", "redaction path", "redaction group", "redaction resource"],
)
def test_patterns_accept_what_core_accepts(schema: Schema, path: str, values: list[str]) -> None:
    """Forms that core checks by functions and the CRD by patterns."""
    for value in values:
        assert bool(re.search(schema["pattern"], value)) == accepted(changed(PIPELINE, path, value)), value


def accepted(obj: dict[str, Any]) -> bool:
    """Whether core/spec.py takes the AuditPipeline."""
    try:
        spec.parse_pipeline(obj)
    except Invalid:
        return False
    return True


def test_the_good_objects_are_good_for_core() -> None:
    """What the tests start from parses."""
    spec.parse_pipeline(PIPELINE)
    spec.parse_sink(SINK)
    spec.parse_sink(changed(SINK, "spec.webhook.clientConfig", {"service": SERVICE | {"path": "/", "port": 8443}}))


@pytest.mark.parametrize("case", [case for case in BAD_PIPELINES if case.parser], ids=named)
def test_core_refuses_the_bad_pipelines_too(case: Bad) -> None:
    """The same table as on the API server: tests/manifests/test_crds.py."""
    with pytest.raises(Invalid):
        spec.parse_pipeline(changed(PIPELINE, case.path, case.value))


@pytest.mark.parametrize("case", [case for case in BAD_SINKS if case.parser], ids=named)
def test_core_refuses_the_bad_sinks_too(case: Bad) -> None:
    """The same table as on the API server."""
    with pytest.raises(Invalid):
        spec.parse_sink(changed(SINK, case.path, case.value))


@pytest.mark.parametrize("case", GOOD_SINKS, ids=named)
def test_core_takes_the_good_sinks_with_the_same_defaults(case: Good) -> None:
    """The same table as on the API server."""
    found = spec.parse_sink(changed(SINK, case.path, case.value))
    assert found == spec.parse_sink(changed(SINK, case.path, case.value if case.stored is None else case.stored))
    assert spec.Throttle() == spec.Throttle(qps=10, burst=15)
    assert spec.ServiceReference(namespace="a", name="b").port == 443

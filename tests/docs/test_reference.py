"""docs/reference.md and the code say the same, in both directions: nothing is missing, and nothing is stale.

A table of the reference is known by its heading; the names in it are code spans in the first column. What is compared
with them is walked from the CRDs and the command line, read from registries and routers, or found in the source:
reasons are the literals that are given to Verdict, Problem and Halt.
"""

from __future__ import annotations

import ast
import itertools
import re
import ssl
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import click
import msgspec
import pytest
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry

from auditpipeline.cli.main import cli
from auditpipeline.control import bootstrap, health, names
from auditpipeline.control.bootstrap_embedded import TALOS_VERSIONS
from auditpipeline.control.bootstrap_kubeadm import KUBEADM_VERSIONS
from auditpipeline.control.facts import Facts, Losses, Problem, Verdict
from auditpipeline.control.published import Condition, Truth
from auditpipeline.control.recorder import TOLD, transitions
from auditpipeline.control.redacted import Asked
from auditpipeline.control.sink_status import sink_conditions
from auditpipeline.control.status import conditions
from auditpipeline.control.trouble import REASONS
from auditpipeline.core.report import (
    Canary,
    ConditionReport,
    Events,
    OutputReport,
    Report,
    RouteReport,
    SourceReport,
    StaticPolicy,
    Taken,
)
from auditpipeline.dataplane import metrics as plane_metrics
from auditpipeline.dataplane.descriptors import shares
from auditpipeline.dataplane.gate import Closing
from auditpipeline.dataplane.gate import Counts as GateCounts
from auditpipeline.dataplane.intake import Intake
from auditpipeline.dataplane.route import Counts
from auditpipeline.dataplane.server import audit_app, ops_app
from auditpipeline.dataplane.store import Figures

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "operator" / "auditpipeline"
Rows = list[list[str]]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def tables(path: Path) -> dict[str, list[Rows]]:
    """The tables below each heading, without their heads."""
    found: dict[str, list[Rows]] = {}
    heading, before = "", ""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("`", "")
            assert heading not in found, f"two headings {heading}"
            found[heading] = []
        elif re.fullmatch(r"[|\-]+", line):
            found[heading].append([])
        elif line.startswith("|") and before.startswith("|"):
            found[heading][-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return found


REFERENCE = tables(ROOT / "docs" / "reference.md")


def rows(*headings: str) -> Rows:
    """The rows of every table below these headings."""
    return [row for heading in headings for table in REFERENCE[heading] for row in table]


def codes(cell: str) -> list[str]:
    """The code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def documented(*headings: str) -> dict[str, list[str]]:
    """The row of each name that stands in the first column; no name stands there twice."""
    found: dict[str, list[str]] = {}
    for row in rows(*headings):
        for name in codes(row[0]):
            assert name not in found, f"{name} stands twice below {headings}"
            found[name] = row
    return found


class Field(NamedTuple):
    """A field of a CRD: its schema, and whether the object that holds it requires it."""

    schema: dict[str, Any]
    required: bool


def crd_fields(name: str, part: str) -> dict[str, Field]:
    """The fields below `spec` or `status` of a CRD, by path."""
    crd = yaml.safe_load((ROOT / "crds" / name).read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].get(part, {})
    return dict(_fields(schema, part))


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, Field]]:
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        yield where, Field(child, name in schema.get("required", ()))
        yield from _fields(child.get("items", child), f"{where}[]" if "items" in child else where)


def _default(field: Field) -> str:
    default = field.schema.get("default")
    if field.required:
        return "required"
    return "" if default in (None, {}) else f"`{yaml.safe_load(str(default))}`".replace("False", "false")


def _bounds(schema: dict[str, Any]) -> list[str]:
    """What a row has to say of a field's values."""
    inner = schema.get("items", schema)
    said = [f"`{value}`" for value in inner.get("enum", ())]
    if "minimum" in schema and "maximum" in schema:
        said.append(f"{schema['minimum']} to {schema['maximum']}")
    return said


SPECS = [
    ("auditpipelines.yaml", ("AuditPipeline: spec", "Policies", "Outputs", "Pods", "Redaction")),
    ("auditsinks.yaml", ("AuditSink: spec",)),
]


@pytest.mark.parametrize(("crd", "headings"), SPECS)
def test_every_field_of_a_spec_is_documented_with_its_default_and_bounds(crd: str, headings: tuple[str, ...]) -> None:
    """Walked from the schema; rows for several fields speak for each of them."""
    fields, written = crd_fields(crd, "spec"), documented(*headings)
    assert written.keys() == fields.keys()
    assert {path: row[1] for path, row in written.items()} == {path: _default(field) for path, field in fields.items()}
    # A row that refers to the fields of an AuditPipeline need not repeat them.
    silent = [
        (path, said)
        for path, field in fields.items()
        for said in _bounds(field.schema)
        if said not in written[path][2] and "[policies]" not in written[path][2]
    ]
    assert silent == []


@pytest.mark.parametrize("kind", ["AuditPipeline", "AuditSink"])
def test_every_field_of_a_status_is_documented(kind: str) -> None:
    """With the states that it may have."""
    fields, written = crd_fields(f"{kind.lower()}s.yaml", "status"), documented(f"{kind}: status")
    assert written.keys() == fields.keys()
    assert [
        said for path, field in fields.items() for said in _bounds(field.schema) if said not in written[path][1]
    ] == []


# Conditions. A reason belongs to the conditions of the function that gives it.
PARTS = ("CertificateReady", "WebhookAvailable", "SinkRegistered")
GIVEN_BY = {
    "ready": ("Ready",),
    "_configured": ("Ready",),
    "_proven": ("Ready",),
    "_as_before": ("Ready",),
    "_unseen": (*PARTS, "UpstreamCovers", "Delivering", "ConditionsEvaluated", "Redacted", "AuditLoss"),
    "certificate_ready": ("CertificateReady",),
    "webhook_available": ("WebhookAvailable",),
    "_some_ready": ("WebhookAvailable",),
    "_obstacle": ("WebhookAvailable",),
    "_pod_problem": ("WebhookAvailable",),
    "sink_registered": ("SinkRegistered",),
    "registered": ("SinkRegistered",),
    "sink_status": ("SinkRegistered",),
    "_registration": ("SinkRegistered",),
    "registration": ("SinkRegistered",),
    "_by_pods": ("SinkRegistered",),
    "_registered": ("SinkRegistered",),
    "disabled": ("SinkRegistered",),
    "upstream": ("UpstreamCovers",),
    "verdict": ("UpstreamCovers",),
    "_of": ("UpstreamCovers",),
    "_not_in_force": ("UpstreamCovers",),
    "_met": ("UpstreamCovers",),
    "delivering": ("Delivering",),
    "_arriving": ("Delivering",),
    "conditions_evaluated": ("ConditionsEvaluated",),
    "_ignored": ("ConditionsEvaluated",),
    "_off": ("ConditionsEvaluated",),
    "_evaluated": ("ConditionsEvaluated",),
    "audit_loss": ("AuditLoss",),
    "redacted": ("Redacted",),
    "_receivers": ("Redacted",),
    "_gateway": ("Redacted",),
    "_taken": ("Redacted",),
    "_before": ("Redacted",),
}
WAITING = {"fault", "undisputed"}
STALLING = {"accept", "parse", "opted_out", "_problem", "_anew"}
OF_SINKS = {"sink_ready", "sink_redacted", "_asked"}
Reason = tuple[str, str, str]


def functions(*folders: Path) -> Iterator[FunctionNode]:
    """Every function in the source below the folders."""
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, FunctionNode))


def calls(node: ast.AST, *called: str) -> Iterator[ast.Call]:
    """The calls of functions or methods of these names."""
    for found in ast.walk(node):
        if isinstance(found, ast.Call) and getattr(found.func, "id", getattr(found.func, "attr", "")) in called:
            yield found


def words(node: ast.AST, within: FunctionNode) -> set[str]:
    """The CamelCase literals that an expression may be; a variable is what the function assigns to it."""
    if isinstance(node, ast.Name):
        assigned = [found for found in ast.walk(within) if isinstance(found, ast.Assign)]
        values = [found.value for found in assigned if node.id in {name.id for name in _targets(found)}]
        return {word for value in values for word in words(value, within)}
    literals = (found.value for found in ast.walk(node) if isinstance(found, ast.Constant))
    return {value for value in literals if isinstance(value, str) and re.fullmatch(r"([A-Z][a-z]+)+", value)}


def _targets(assign: ast.Assign) -> Iterator[ast.Name]:
    return (node for target in assign.targets for node in ast.walk(target) if isinstance(node, ast.Name))


def given_reasons() -> set[Reason]:
    """Condition, status and reason of an AuditPipeline, wherever the source gives one."""
    found = {("Stalled" if stalled else "Reconciling", "True", reason) for reason, stalled in REASONS.values()}
    for function in functions(SOURCE / "control"):
        if function.name in OF_SINKS:
            continue
        for call in calls(function, "Verdict", "Problem", "Halt"):
            for kinds, status, expression in _parts(call, function):
                found |= {(kind, status, reason) for kind in kinds for reason in words(expression, function)}
    return found


def _parts(call: ast.Call, function: FunctionNode) -> Iterator[tuple[tuple[str, ...], str, ast.expr]]:
    name, first = getattr(call.func, "id", ""), call.args[0]
    if name == "Halt":
        (stalled,) = (keyword.value for keyword in call.keywords if keyword.arg == "stalled")
        assert isinstance(stalled, ast.Constant)
        yield ("Stalled",) if stalled.value else ("Reconciling",), "True", first
    elif name == "Problem" and function.name in WAITING | STALLING:
        if words(first, function):
            yield ("Reconciling" if function.name in WAITING else "Stalled",), "True", first
    elif name == "Problem":
        if words(first, function):
            yield GIVEN_BY[function.name], "False", first
    elif words(call.args[1], function):
        assert isinstance(first, ast.Constant)
        yield GIVEN_BY[function.name], str(first.value), call.args[1]


def documented_reasons(heading: str = "Reasons") -> list[Reason]:
    """The same, as the reference has it; two statuses are those of two conditions."""
    return [
        (kind, status, reason)
        for kinds, statuses, reasons, *_ in rows(heading)
        for kind, status in zip(codes(kinds), itertools.cycle(statuses.split(", ")), strict=False)
        for reason in codes(reasons)
    ]


def test_every_reason_is_documented_with_its_condition_and_status() -> None:
    """And none that the code does not give."""
    written = documented_reasons()
    assert len(written) == len(set(written))
    assert set(written) == given_reasons()
    assert len(written) > 25


def test_every_condition_and_reason_of_an_auditsink_is_documented() -> None:
    """Whatever is said of its registration, and what its own function adds; from the conditions that it has then."""
    (own,) = (function for function in functions(SOURCE / "control") if function.name == "sink_ready")
    assert {reason for call in calls(own, "Verdict") for reason in words(call.args[1], own)} == {
        "Failing",
        "Registered",
    }
    # A pipeline's sink is not there while the pipeline is suspended or nobody serves AuditSink: not said of a sink.
    by_pipeline = {"Suspended", "AuditSinkNotServed", "Reconciling"}
    found: set[Reason] = set()
    for kind, status, reason in given_reasons():
        if kind == "SinkRegistered" and reason not in by_pipeline:
            for state in ("Failing", "Idle"):
                verdict = Verdict(cast("Any", status), reason, "")
                conditions = sink_conditions(verdict, [OutputReport("a", cast("Any", state))])
                found |= {(kind, said.status, said.reason) for kind, said in conditions.items()}
    good = Verdict("True", "Registered", "")
    asked = [Asked("none"), Asked("none", "allow"), Asked("hash"), Asked("hash", unhashed="no"), Asked("no")]
    for each in (*asked, Asked("hash", unredacting=("a",))):
        said = sink_conditions(good, [], each)["Redacted"]
        found.add(("Redacted", said.status, said.reason))
    written = documented_reasons("Conditions of an AuditSink")
    assert len(written) == len(set(written))
    assert set(written) == found


def test_every_condition_is_documented() -> None:
    """Those of a pipeline that is stalled, and of one that is not."""
    waiting = Facts(
        1,
        datetime(2026, 1, 1, tzinfo=UTC),
        upstream=Verdict("Unknown", "ComparisonPending", ""),
        losses=Losses(),
        conditional=True,
    )
    stalled = Facts(1, waiting.now, stalled=Problem("InvalidSpec", "no"))
    types = conditions(waiting).keys() | conditions(stalled).keys()
    assert documented("Conditions").keys() == types
    assert {kind for kind, _, _ in documented_reasons()} == types


def test_the_reasons_of_the_operations_guide_exist() -> None:
    """In its table of what to do."""
    known = {(kind, reason) for kind, _, reason in documented_reasons()}
    guide = tables(ROOT / "docs" / "operations.md")["When something is not True"][0]
    assert len(guide) > 5
    unknown = [row[:2] for row in guide if (row[0], row[1]) not in known and row[1] != "any"]
    assert unknown == []
    assert {row[0] for row in guide} <= {kind for kind, _ in known}


def test_the_events_are_those_that_the_recorder_writes() -> None:
    """Of conditions, and those with a reason of their own."""
    told = [(codes(about)[0], kind) for owner, about, kind, *_ in rows("Kubernetes Events") if "Pipeline" in owner]
    assert {about for about, _ in told} == set(TOLD)
    assert set(told) <= {(about, kind) for about in TOLD for kind in _event_types(about)}
    own = {reason for owner, _, _, reason, _ in rows("Kubernetes Events") if "Sink" in owner}
    literal = {word for function in functions(SOURCE / "control") for word in _event_reasons(function)}
    assert own == {f"`{reason}`" for reason in literal}


def _event_types(about: str) -> Iterator[str]:
    for now, before in (("True", "False"), ("False", "True")):
        new, old = (Condition(about, cast("Truth", status), status) for status in (now, before))
        yield from ("Warning" if warning else "Normal" for _, _, warning in transitions([new], [old]))


def _event_reasons(function: FunctionNode) -> Iterator[str]:
    for call in calls(function, "event"):
        if len(call.args) > 2 and isinstance(call.args[2], ast.Constant):
            yield str(call.args[2].value)
    for call in calls(function, "_refused"):
        yield from words(call.args[4], function)


# The command line.
def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The command and all below it, by what is typed."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child, name
            yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands(cli, "auditpipeline"))


def flags(command: click.Command) -> dict[str, str]:
    """The flags of a command with what its table says of their defaults; the help flag is the first one's alone."""
    found = {"-h": "", "--help": ""} if command is cli else {}
    for parameter in command.params:
        info = parameter.to_info_dict()
        spelled = [*parameter.opts, *parameter.secondary_opts]
        if isinstance(parameter, click.Argument):
            spelled = [(parameter.name or "").upper()]
        found |= dict.fromkeys(spelled, "required" if parameter.required else _shown(parameter, info["default"]))
    return found


def _shown(parameter: click.Parameter, default: Any) -> str:
    if isinstance(default, bool):
        return f"`{(parameter.opts if default else parameter.secondary_opts)[0]}`" if parameter.secondary_opts else ""
    if default in (None, ()):
        return ""
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_every_command_is_documented() -> None:
    """And none that is gone."""
    assert {heading for heading in REFERENCE if heading.split()[0] == "auditpipeline"} == COMMANDS.keys()


@pytest.mark.parametrize("path", COMMANDS)
def test_every_flag_is_documented_with_its_default(path: str) -> None:
    """Of each command; in the controller's table also the variable and the range."""
    command, table = COMMANDS[path], REFERENCE[path][:1]
    prefix = command.context_settings.get("auto_envvar_prefix")
    column = 2 if prefix else 1
    written = {flag: row for row in (table[0] if table else ()) for flag in codes(row[0])}
    assert {flag: row[column] for flag, row in written.items()} == flags(command)
    for option in (parameter for parameter in command.params if isinstance(parameter, click.Option)):
        row = written[option.opts[0]]
        if prefix:
            assert codes(row[1]) == [option.envvar or f"{prefix}_{str(option.name).upper()}"]
        if isinstance(option.type, click.IntRange | click.FloatRange):
            low, high = option.type.min, option.type.max
            assert (f"at least {low:g}" if high is None else f"{low:g} to {high:g}") in row[-1]


def test_the_files_and_versions_of_bootstrap_are_documented() -> None:
    """With their modes."""
    made = bootstrap.files({}, bootstrap.ADDRESS, datetime.now(UTC))
    table = REFERENCE["auditpipeline bootstrap files"][1]
    assert {codes(row[0])[0]: row[1] for row in table} == {name: f"{file.mode:04o}" for name, file in made.items()}
    for tool, versions in (("kubeadm", KUBEADM_VERSIONS), ("talos", TALOS_VERSIONS)):
        (row,) = (row for row in rows(f"auditpipeline bootstrap {tool}") if "--config-version" in row[0])
        assert tuple(codes(row[-1])) == versions


def test_every_distribution_has_its_section_in_the_guide() -> None:
    """With its command, what restarts, and how to go back."""
    sections = (ROOT / "docs" / "bootstrap.md").read_text().split("\n## ")
    group = COMMANDS["auditpipeline bootstrap"]
    assert isinstance(group, click.Group)
    for command in group.commands.keys() - {"files"}:
        (section,) = (part for part in sections if f"$ auditpipeline bootstrap {command} " in part)
        assert all(f"**{word}**" in section for word in ("Restarts", "Rolls back")), command


# Metrics.
def exposed(registry: CollectorRegistry) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels of every metric of ours, by its name in the exposition."""
    found = {}
    for family in registry.collect():
        if family.name.startswith("auditpipeline_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            (labels, *_) = (tuple(sample.labels) for sample in family.samples if sample.name == name)
            found[name] = (family.type, labels)
    return found


def documented_metrics(heading: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The same, as the reference has it."""
    return {codes(name)[0]: (kind, tuple(codes(labels))) for name, kind, labels, _ in REFERENCE[heading][0]}


def test_every_metric_of_the_data_plane_is_documented() -> None:
    """From the registry, with everything exposed once."""
    metrics = plane_metrics.Metrics()
    metrics.requests.labels(code="200").inc()
    source = SourceReport("/var/log/audit.log", foreign={"component": 1})
    report = Report(
        "receiver",
        "a",
        "",
        Events(),
        (OutputReport("out"),),
        sources=(source,),
        conditions=(ConditionReport("a", "out"),),
    )
    gate = GateCounts({"known": 1}, {"unknown_idle": 1})
    process = plane_metrics.Process({"out": Counts()}, {"audit": 0.0}, 1, 0, 0, 0.0, 0, {"audit": gate}, 0)
    metrics.expose(report, Figures(0, 0, [("out", "refused", 1)], 0, 0, {}, {"out": 1}), process)
    assert documented_metrics("Metrics of the data plane") == exposed(metrics.registry)


def test_every_metric_of_the_controller_is_documented() -> None:
    """With what it reads at each scrape."""
    metrics = health.Metrics()
    metrics.observe(
        lambda: 0, lambda: [(("get", "pods"), 1)], lambda: [("a", True)], lambda: [("a", 0.5)], lambda: [("Dropped", 1)]
    )
    for counter in (metrics.reconciles, metrics.errors):
        counter.labels("pipeline").inc()
    assert documented_metrics("Metrics of the controller") == exposed(metrics.registry)


def test_every_reason_to_close_a_connection_is_documented() -> None:
    """As the gate counts them."""
    limits, reasons = REFERENCE["Connections"]
    assert [codes(row[0]) for row in reasons] == [[reason] for reason in get_args(Closing)]
    for limit, audit, ops in limits:
        places = shares(int(limit.split()[0].replace(",", "")))
        assert [audit, ops] == [f"{sum(found):,}" for found in places]


def test_every_reason_of_a_loss_is_documented() -> None:
    """The literals that are counted, and those that a route counts by."""
    table = REFERENCE["Metrics of the data plane"][1]
    found: set[str] = set()
    for function in functions(SOURCE / "dataplane"):
        for call in calls(function, "count_loss"):
            found |= {word for word in _texts(call.args[2]) if word}
        for assign in (node for node in ast.walk(function) if isinstance(node, ast.Assign)):
            if {target.id for target in _targets(assign)} == {"losses"} and isinstance(assign.value, ast.Dict):
                found |= {word for key in assign.value.keys if key for word in _texts(key)}
    assert {codes(row[0])[0] for row in table} == found


def _texts(node: ast.AST) -> set[str]:
    return {found.value for found in ast.walk(node) if isinstance(found, ast.Constant) and isinstance(found.value, str)}


# HTTP.
def requests(app: web.Application) -> set[str]:
    """What an application answers, as `METHOD path`."""
    routes = ((route.method, route.resource.canonical if route.resource else "") for route in app.router.routes())
    return {f"{method} {path}" for method, path in routes if method != "HEAD"}


def statuses(module: str, *definitions: str) -> set[str]:
    """The HTTP statuses that stand in these functions and classes."""
    tree = ast.parse((SOURCE / module).read_text())
    chosen = [node for node in tree.body if getattr(node, "name", "") in definitions]
    assert len(chosen) == len(definitions)
    numbers = (found.value for node in chosen for found in ast.walk(node) if isinstance(found, ast.Constant))
    return {str(number) for number in numbers if type(number) is int and 200 <= number < 600}


def said(heading: str) -> tuple[set[str], set[str]]:
    """Requests and statuses in the first table below a heading."""
    table = REFERENCE[heading][0]
    return {request for row in table for request in codes(row[0])}, {row[1] for row in table}


def test_the_answers_of_the_audit_listener_are_documented() -> None:
    """Its paths and every status in its source."""
    nothing = cast("Any", None)
    app = audit_app(Intake(nothing, nothing, 1, plane_metrics.Metrics()))
    answers = statuses("dataplane/server.py", "Receiver", "_too_large", "_later", "_unknown", "_unknown_coding")
    assert said("Audit listener") == (requests(app), answers)


def test_the_answers_of_the_operations_listener_are_documented() -> None:
    """Likewise."""
    answers = statuses("dataplane/server.py", "ops_app")
    assert said("Operations listener") == (requests(ops_app(lambda: None)), answers)


async def test_the_answers_of_the_controllers_listener_are_documented() -> None:
    """Likewise, from one that runs."""
    runner, _ = await health.serve(
        "127.0.0.1:0", health.Heartbeat(1), health.Metrics(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    )
    found = requests(runner.app)
    await runner.cleanup()
    assert said("The controller's listener") == (found, statuses("control/health.py", "serve"))


def test_every_field_of_the_report_is_documented() -> None:
    """As JSON names them."""
    nested: dict[str, tuple[str, type[msgspec.Struct]]] = {
        "events": ("events.", Events),
        "outputs": ("outputs[].", OutputReport),
        "taken": ("taken.", Taken),
        "sources": ("sources[].", SourceReport),
        "canaries": ("canaries[].", Canary),
        "routes": ("routes[].", RouteReport),
        "conditions": ("conditions[].", ConditionReport),
        "static_policy": ("staticPolicy.", StaticPolicy),
    }
    fields: set[str] = set()
    for field in msgspec.structs.fields(Report):
        prefix, kind = nested.get(field.name, ("", None))
        fields |= {f"{prefix}{name}" for name in _encoded(kind)} if kind else {field.encode_name}
    assert {code for row in REFERENCE["Operations listener"][1] for code in codes(row[0])} == fields


def _encoded(kind: type[msgspec.Struct]) -> Iterable[str]:
    return (field.encode_name for field in msgspec.structs.fields(kind))


# Labels, links.
def test_every_label_and_annotation_is_documented() -> None:
    """Those that the controller sets, and those of the chart and the manifests."""
    ours = {names.MANAGED_BY, names.APP, names.INSTANCE, names.PIPELINE, names.CONFIG, names.ACKNOWLEDGED}
    ours |= {names.RELEASE, names.SHAPE, names.REDACTION}
    declared = {value for value in vars(names).values() if isinstance(value, str) and _is_label(value)}
    assert declared == ours
    texts = [path.read_text() for path in sorted((ROOT / "manifests" / "chart" / "templates").iterdir())]
    chart = set(re.findall(r"(?:app\.kubernetes\.io|helm\.sh)/[a-z-]+", "\n".join(texts)))
    manifests = [*(ROOT / "manifests" / "install").glob("*.yaml"), *(ROOT / "crds").glob("*.yaml")]
    installed = {key for path in manifests for body in yaml.safe_load_all(path.read_text()) for key in _keys(body)}
    assert documented("Labels and annotations").keys() == ours | chart | installed


def _is_label(value: str) -> bool:
    return bool(re.fullmatch(r"[a-z.]+\.[a-z]+/[a-z-]+", value))


def _keys(node: Any) -> Iterator[str]:
    """The keys of labels and annotations in every metadata of an object."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _keys(child)
    meta = node.get("metadata") if isinstance(node, dict) else None
    if isinstance(meta, dict):
        yield from (*(meta.get("labels") or ()), *(meta.get("annotations") or ()))


def test_links_lead_somewhere() -> None:
    """To files that are there, and to headings of the reference."""
    text = (ROOT / "docs" / "reference.md").read_text()
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in REFERENCE}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link[1:] in anchors if link.startswith("#") else (ROOT / "docs" / link).exists(), link

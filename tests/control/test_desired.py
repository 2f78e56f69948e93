"""What a pipeline is rendered to: golden files, validated against the Kubernetes schemas.

Set UPDATE_GOLDEN=1 to write the golden files again, and read the difference.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from auditpipeline.control import desired, desired_pod, names
from auditpipeline.control.certificates import Pair, authority
from auditpipeline.control.hash_key import NO_KEY, HashKey
from auditpipeline.control.placing import namespace_of
from auditpipeline.control.resources import BUDGETS, Features
from auditpipeline.control.seen import Seen
from auditpipeline.control.settings import Settings
from auditpipeline.core import config
from auditpipeline.core.quantity import parse_bytes
from auditpipeline.core.spec import parse_sink
from tests.control import bodies

GOLDEN = Path(__file__).parent.parent / "golden" / "control"
TLS = desired.Certified(Pair("the certificate\n", "the key\n"), "the bundle\n")
SETTINGS = Settings(namespace="auditpipeline-system", watch_namespaces=("audit",), image="auditpipeline:1.2.3")
OLD = Features(
    sinks="builtin",
    sink_rules=False,
    claim_retention=False,
    seccomp=False,
    budgets=type(BUDGETS)("policy", "v1beta1", "poddisruptionbudgets", "PodDisruptionBudget"),
)
CASES = {
    "quickstart": (bodies.pipeline("quickstart"), Features()),
    "rich": (bodies.rich(), Features()),
    "builtin": (bodies.rich(), OLD),
    "redacted": (bodies.redacted(), Features()),
}
ALL_HASHED = {"method": "hash", "rules": [{"paths": ["a"], "action": "hash"}, {"paths": ["b"], "action": "remove"}]}
KEY = HashKey(b"not a random key of 32 bytes ...", "u1/5")


def rendered(case: str) -> list[dict[str, Any]]:
    """Every object of a case."""
    body, features = CASES[case]
    value = bodies.parsed(body)
    builtin = features.sinks == "builtin"
    key = KEY if value.spec.redaction else NO_KEY
    encoded = config.encode(desired.receiver_config(value, token=builtin, redaction_key_file=key.file))
    tls = replace(TLS, token="t0k3n" if builtin else "")
    place = namespace_of(value, SETTINGS, Seen())
    return [
        *desired.children(value, place, encoded, tls, SETTINGS, features, key.data),
        desired.audit_sink(value, place, TLS.bundle, SETTINGS, features, tls.token),
    ]


@pytest.mark.parametrize("case", CASES)
def test_the_objects_are_the_golden_ones(case: str) -> None:
    """A difference is either a mistake or worth a look."""
    text = yaml.safe_dump_all(readable(rendered(case)), sort_keys=False, width=120)
    path = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("case", ["quickstart", "rich"])
def test_every_object_is_valid_by_the_schema_of_kubernetes(case: str) -> None:
    """Strictly: a field that no schema knows is a mistake."""
    for manifest in rendered(case):
        if manifest["kind"] != "AuditSink":
            kubernetes_validate.validate(manifest, "1.37.0", strict=True)


@pytest.mark.parametrize("body", [bodies.pipeline(), bodies.rich()], ids=["small", "rich"])
def test_a_pipeline_that_says_nothing_of_redaction_renders_to_the_bytes_of_before(body: dict[str, Any]) -> None:
    """So that an upgrade to a release that redacts writes nothing."""
    value = bodies.parsed(body)
    sink = desired.audit_sink(value, "audit", TLS.bundle, SETTINGS, Features())
    assert b"redaction" not in config.encode(desired.receiver_config(value))
    assert "annotations" not in sink["metadata"]


@pytest.mark.parametrize(
    ("redaction", "annotation"),
    [
        ({}, None),
        ({"default": True, "method": "mask"}, None),
        ({"rules": [{"paths": ["a"], "action": "hash"}]}, None),
        ({"method": "hash"}, "hash"),
        ({"default": False}, "none"),
        ({"default": False, "method": "hash"}, "none"),
    ],
    ids=str,
)
def test_the_sink_says_what_the_gateway_leaves_in_or_hashes(redaction: dict[str, Any], annotation: str | None) -> None:
    """Rules are for the receivers: each of their routes has the whole redaction."""
    value = bodies.parsed(bodies.pipeline(redaction=redaction))
    sink = desired.audit_sink(value, "audit", TLS.bundle, SETTINGS, Features())
    assert sink["metadata"].get("annotations", {}).get("auditpipeline.dev/redaction") == annotation
    made = desired.receiver_config(value, redaction_key_file=KEY.file)
    assert {route.redaction for route in made.routes} == {value.spec.redaction}


def test_without_a_key_the_receivers_are_told_to_mask() -> None:
    """So that what they report is what they do."""
    made = desired.receiver_config(bodies.parsed(bodies.pipeline(redaction=ALL_HASHED)))
    (redaction,) = {route.redaction for route in made.routes}
    assert redaction is not None
    assert not redaction.hashes
    assert [rule.action for rule in redaction.rules] == ["mask", "remove"]


def test_another_redaction_and_its_key_restart_no_pod() -> None:
    """Both lie in the Secret that is mounted already, as a whole."""
    before, after = bodies.parsed(), bodies.parsed(bodies.redacted())
    pods = [desired_pod.statefulset(value, "audit", SETTINGS, Features()) for value in (before, after)]
    assert pods[0] == pods[1]
    (mounted,) = (entry for entry in pods[0]["spec"]["template"]["spec"]["volumes"] if entry["name"] == "config")
    assert mounted["secret"] == {"secretName": "audit-security-config"}


def test_the_same_pipeline_renders_to_the_same_bytes() -> None:
    """Otherwise each resync would write."""
    assert rendered("rich") == rendered("rich")


def test_a_changed_policy_restarts_no_pod() -> None:
    """The StatefulSet does not depend on it; only the configuration and the AuditSink do."""
    before, after = bodies.parsed(), bodies.parsed(bodies.pipeline(policy={"rules": [{"level": "Request"}]}))
    pods = [desired_pod.statefulset(value, "audit", SETTINGS, Features()) for value in (before, after)]
    assert pods[0] == pods[1]
    assert desired.receiver_config(before) != desired.receiver_config(after)


def test_another_output_folder_changes_the_pods() -> None:
    """A folder is a mount, so this one has to restart them."""
    other = [{"name": "archive", "file": {"path": "/var/log/other/events.jsonl"}}]
    pods = [
        desired_pod.statefulset(bodies.parsed(body), "audit", SETTINGS, Features())
        for body in (bodies.pipeline(), bodies.pipeline(outputs=other))
    ]
    assert pods[0] != pods[1]


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_is_one_that_the_data_plane_reads(case: str) -> None:
    """The contract between the planes, from one end to the other."""
    secret = next(item for item in rendered(case) if item["metadata"]["name"].endswith("-config"))
    read = config.decode(base64.b64decode(secret["data"]["config.json"]))
    assert [route.name for route in read.routes] == [entry["name"] for entry in CASES[case][0]["spec"]["outputs"]]


def test_the_token_of_metrics_is_told_by_its_digest_and_only_if_there_is_one() -> None:
    """Without one the bytes are those that the release before made."""
    value = bodies.parsed(bodies.rich())
    assert b"metricsToken" not in config.encode(desired.receiver_config(value))
    assert desired.receiver_config(value, metrics_token="abc").metrics_token == "abc"


def test_an_output_narrows_the_policy_of_its_pipeline() -> None:
    """Both have to want an event."""
    routes = desired.receiver_config(bodies.parsed(bodies.rich())).routes
    assert [len(route.policies) for route in routes] == [1, 2, 1, 1, 1]


def test_no_secret_stands_in_the_configuration() -> None:
    """Credentials are files that it names."""
    siem = desired.receiver_config(bodies.parsed(bodies.rich())).routes[1].output
    assert isinstance(siem, config.HttpOutput)
    assert siem.bearer_token_file == "/etc/auditpipeline/secrets/siem/token"
    assert siem.ca_file == "/etc/auditpipeline/secrets/siem/ca.crt"


def test_every_way_to_authenticate_names_its_files_and_mounts_them() -> None:
    """One volume a Secret, with every key that some output needs of it and no other."""
    pipeline = bodies.parsed(bodies.rich())
    basic, mutual = (route.output for route in desired.receiver_config(pipeline).routes[3:])
    assert isinstance(basic, config.HttpOutput)
    assert isinstance(mutual, config.HttpOutput)
    folder = "/etc/auditpipeline/secrets"
    assert basic.basic == config.Basic(f"{folder}/logs/username", f"{folder}/logs/password")
    assert mutual.client_tls == config.Tls(f"{folder}/siem/tls.crt", f"{folder}/siem/tls.key")
    pod = desired_pod.statefulset(pipeline, "audit", SETTINGS, Features())["spec"]["template"]["spec"]
    secrets = {
        volume["secret"]["secretName"]: [item["key"] for item in volume["secret"]["items"]]
        for volume in pod["volumes"]
        if volume["name"].startswith("secret-")
    }
    assert secrets == {"logs": ["password", "username"], "siem": ["ca.crt", "tls.crt", "tls.key", "token"]}
    assert {f"{folder}/logs", f"{folder}/siem"} <= {
        mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]
    }


def test_every_field_of_a_destination_reaches_the_data_plane() -> None:
    """As numbers where the object has quantities."""
    archive, _, _, basic, _ = (route.output for route in desired.receiver_config(bodies.parsed(bodies.rich())).routes)
    assert archive == config.FileOutput(
        "/var/log/audit/events.jsonl", max_bytes=10 * 2**20, keep=3, max_age=86400.0, compression="zstd"
    )
    assert isinstance(basic, config.HttpOutput)
    assert (basic.timeout, basic.compression, basic.format) == (5.0, "gzip", "json-array")
    assert (basic.proxy, basic.server_name) == ("http://proxy.example:3128", "collector.example")
    assert basic.headers == (("X-Scope-OrgID", "audit"),)


@pytest.mark.parametrize(("text", "seconds"), [("1500ms", 1.5), ("0s", None)])
def test_a_batchs_wait_reaches_the_data_plane(text: str, seconds: float | None) -> None:
    """Where there is none, the configuration is that of before the field."""
    http = {"url": "https://siem.example", "batchMaxWait": text}
    pipeline = bodies.parsed(bodies.pipeline(outputs=[{"name": "siem", "http": http}]))
    siem = desired.receiver_config(pipeline).routes[0].output
    assert isinstance(siem, config.HttpOutput)
    assert siem.batch_max_wait == seconds


def test_an_inline_ca_bundle_is_handed_over_as_text() -> None:
    """Base64 in the object, as wherever Kubernetes has a caBundle."""
    bundle = authority(datetime(2026, 1, 1, tzinfo=UTC)).certificate
    http = {"url": "https://siem.example", "caBundle": base64.b64encode(bundle.encode()).decode()}
    pipeline = bodies.parsed(bodies.pipeline(outputs=[{"name": "siem", "http": http}]))
    siem = desired.receiver_config(pipeline).routes[0].output
    assert isinstance(siem, config.HttpOutput)
    assert siem.ca == bundle


def test_the_sink_says_in_each_rule_what_the_policy_says_for_all() -> None:
    """A sink has no omitManagedFields of its own; a rule that says it for itself keeps its word."""
    sink = desired.audit_sink(bodies.parsed(bodies.rich()), "audit", TLS.bundle, SETTINGS, Features())
    assert [rule["omitManagedFields"] for rule in sink["spec"]["policy"]["rules"]] == [True, True, True, False]


def test_the_sink_asks_for_the_widest_level_and_the_wanted_stages() -> None:
    """What a cluster that knows no rules sends is enough, and no stage too many."""
    policy = desired.audit_sink(bodies.parsed(bodies.rich()), "audit", TLS.bundle, SETTINGS, OLD)["spec"]["policy"]
    assert policy == {"level": "RequestResponse", "stages": ["ResponseStarted", "ResponseComplete", "Panic"]}


@pytest.mark.parametrize("case", CASES)
def test_the_sink_is_one_that_the_gateway_reads(case: str) -> None:
    """It passes the checks that kube-apiserver 1.18 made."""
    sink = next(item for item in rendered(case) if item["kind"] == "AuditSink")
    assert parse_sink(sink).metadata.name == names.child(CASES[case][0]["metadata"]["name"])


def test_every_child_is_owned_and_blocks_no_deletion() -> None:
    """Owner references do the cleaning when the operator is gone."""
    for manifest in rendered("rich"):
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert owner["controller"] is True
        assert owner["blockOwnerDeletion"] is False
        assert manifest["metadata"]["labels"][names.PIPELINE] == "security"


def readable(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The manifests with Secrets' data decoded, as a reader of golden files wants them."""
    return [
        item | {"data": {key: base64.b64decode(value).decode() for key, value in item["data"].items()}}
        if item["kind"] == "Secret"
        else item
        for item in manifests
    ]


@pytest.mark.parametrize(
    ("size", "spool"),
    [("10Gi", 8 * 2**30), ("2Gi", 943_300_608), ("1132Mi", 32 * 2**20)],
)
def test_the_spool_takes_what_the_files_leave(size: str, spool: int) -> None:
    """1100Mi here; four fifths at most, and never so much that both together do not fit."""
    value = bodies.parsed(bodies.pipeline(webhook={"storage": {"size": size}}))
    found = desired.receiver_config(value).spool.max_bytes
    assert abs(found - spool) <= 2**20
    assert found + 1100 * 2**20 <= parse_bytes(size, "")


def test_conditions_of_the_pipeline_come_before_those_of_the_output() -> None:
    """A route says whose each of them is; without conditions the bytes are those that the release before made."""
    own = {"name": "own", "expression": "event.responseStatus.code == 403"}
    everybody = {"name": "everybody", "expression": "event.verb != 'get'"}
    outputs = [{"name": "a", "stdout": {}, "matchConditions": [own]}, {"name": "b", "stdout": {}}]
    value = bodies.parsed(bodies.pipeline(outputs=outputs, matchConditions=[everybody]))
    made = config.decode(config.encode(desired.receiver_config(value)))
    assert [[(each.name, each.expression, each.output) for each in route.conditions] for route in made.routes] == [
        [("everybody", everybody["expression"], ""), ("own", own["expression"], "a")],
        [("everybody", everybody["expression"], "")],
    ]
    assert b"onditions" not in config.encode(desired.receiver_config(bodies.parsed(bodies.rich())))
    sinks = [
        desired.audit_sink(each, "audit", TLS.bundle, SETTINGS, Features(), "")["spec"]
        for each in (value, bodies.parsed(bodies.pipeline(outputs=outputs[1:])))
    ]
    assert sinks[0] == sinks[1]

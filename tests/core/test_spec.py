"""Custom resources become typed values, or an error that names the field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from auditpipeline.core.errors import Invalid
from auditpipeline.core.policy import Level, widest
from auditpipeline.core.quantity import parse_bytes, parse_seconds
from auditpipeline.core.spec import parse_pipeline, parse_sink, sink_policy
from tests.core.test_policy import CASES

FILE = {"name": "archive", "file": {"path": "/var/log/audit/events.jsonl"}}
SPEC = {"policy": {"rules": [{"level": "Metadata"}]}, "outputs": [FILE]}


def pipeline(**changes: Any) -> dict[str, Any]:
    return {"metadata": {"name": "security", "uid": "u"}, "spec": {**SPEC, **changes}}


def output(**fields: Any) -> dict[str, Any]:
    return {"name": "one", **fields}


def _with_token(secret: str) -> dict[str, Any]:
    return output(http={"url": "https://siem/", "bearerTokenSecretRef": {"name": secret, "key": "tls.key"}})


def test_defaults_are_those_of_the_documentation() -> None:
    """A pipeline with a policy and an output is complete."""
    spec = parse_pipeline(pipeline()).spec
    assert (spec.webhook.replicas, spec.webhook.storage.size, spec.webhook.storage.ephemeral) == (2, "10Gi", False)
    assert (spec.throttle.qps, spec.throttle.burst, spec.suspend) == (10, 15, False)
    assert spec.outputs[0].delivery == "Guaranteed"
    assert spec.outputs[0].file is not None
    assert (spec.outputs[0].file.max_size, spec.outputs[0].file.keep) == ("100Mi", 10)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"policy": {"rules": []}}, "spec.policy.rules"),
        ({"policy": {}}, "spec.policy.rules"),
        ({"policy": {"preset": "paranoid"}}, "spec.policy.preset"),
        ({"policy": {"preset": "debug", "rules": [{"level": "None"}]}}, "spec.policy.rules"),
        ({"policy": {"preset": "debug", "omitStages": ["Panic"]}}, "spec.policy.omitStages"),
        ({"policy": {"preset": "debug", "omitManagedFields": False}}, "spec.policy.omitManagedFields"),
        ({"outputs": [output(stdout={}, policy={"preset": "paranoid"})]}, "spec.outputs[0].policy.preset"),
        ({"policy": {"rules": [{"level": "All"}]}}, "spec.policy.rules[0].level"),
        ({"policy": {"rules": [{"level": "None", "verb": "get"}]}}, "spec.policy.rules[0]"),
        ({"outputs": []}, "spec.outputs"),
        ({"outputs": [output()]}, "spec.outputs[0]"),
        ({"outputs": [output(stdout={}, file=FILE["file"])]}, "spec.outputs[0]"),
        ({"outputs": [output(stdout={}), output(stdout={})]}, "spec.outputs[1].name"),
        ({"outputs": [FILE, {**FILE, "name": "two"}]}, "spec.outputs[1].file.path"),
        ({"outputs": [output(file={"path": "/etc/passwd"})]}, "spec.outputs[0].file.path"),
        ({"outputs": [output(file={"path": "/var/log/../../etc/x"})]}, "spec.outputs[0].file.path"),
        ({"outputs": [output(file={"path": "/var/log/a/b", "maxSize": "big"})]}, "spec.outputs[0].file.maxSize"),
        ({"outputs": [output(http={"url": "ftp://x"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": "https://u:p@x/"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": "https://xn--a/in"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": "https://a\\b/"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": "https://\u200b/"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": "https://a..b/"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": f"https://{'a' * 64}.example/"})]}, "spec.outputs[0].http.url"),
        ({"outputs": [output(http={"url": "https://siem/", "proxy": "http://xn--a:1"})]}, "spec.outputs[0].http.proxy"),
        (
            {"outputs": [output(http={"url": "https://siem/", "batchMaxWait": "61s"})]},
            "spec.outputs[0].http.batchMaxWait",
        ),
        ({"outputs": [output(stdout={}, policy={"rules": []})]}, "spec.outputs[0].policy.rules"),
        ({"webhook": {"replicas": 0}}, "spec.webhook.replicas"),
        ({"webhook": {"storage": {"size": "ten"}}}, "spec.webhook.storage.size"),
        ({"webhook": {"storage": {"size": "1Mi"}}}, "spec.webhook.storage.size"),
        ({"webhook": {"spool": {"backpressure": "drop"}}}, "spec.webhook.spool.backpressure"),
        ({"webhook": {"spool": {"maxAge": "3d"}}}, "spec.webhook.spool.maxAge"),
        ({"webhook": {"spool": {"maxAge": "59s"}}}, "spec.webhook.spool.maxAge"),
        ({"outputs": [output(file={"path": "/var/log/a/b", "maxSize": "0"})]}, "spec.outputs[0].file.maxSize"),
        ({"outputs": [_with_token("auditpipeline-ca")]}, "spec.outputs[0].http.bearerTokenSecretRef.name"),
        ({"outputs": [_with_token("audit-other-tls")]}, "spec.outputs[0].http.bearerTokenSecretRef.name"),
        ({"expireAfter": "soon"}, "spec.expireAfter"),
        ({"unknown": 1}, "spec"),
    ],
)
def test_a_bad_pipeline_names_the_field(changes: dict[str, Any], path: str) -> None:
    """One line a case."""
    with pytest.raises(Invalid) as caught:
        parse_pipeline(pipeline(**changes))
    assert caught.value.path == path


@pytest.mark.parametrize(
    "url",
    ["https://siem/", "https://ü.example:8443/in", "https://xn--tda.example.", "https://a_b/", "https://[::1]:9/"],
)
def test_a_url_whose_host_can_be_looked_up_is_taken(url: str) -> None:
    """Names of every script, underscores (which resolvers take), a dot at the end, addresses."""
    assert parse_pipeline(pipeline(outputs=[output(http={"url": url})]))


@pytest.mark.parametrize(
    ("size", "file", "fits"),
    [
        ("10Gi", {}, True),
        ("1Gi", {}, False),  # 100Mi, and ten more
        ("1132Mi", {}, True),
        ("1131Mi", {}, False),
        ("1Gi", {"keep": 5}, True),
        ("1Gi", {"compression": "zstd"}, True),
        ("1Gi", {"compression": "zstd", "keep": 20}, False),
        ("64Mi", {"maxSize": "1Mi"}, True),
    ],
)
@pytest.mark.parametrize("ephemeral", [True, False])
def test_the_files_of_the_outputs_leave_room_for_the_spool(
    size: str, file: dict[str, Any], fits: bool, ephemeral: bool
) -> None:
    """A claim would be full for good, and of an emptyDir that is too large the Pod is evicted."""
    outputs = [output(file={"path": "/var/log/a/b", **file})]
    body = pipeline(outputs=outputs, webhook={"storage": {"size": size, "ephemeral": ephemeral}})
    if fits:
        assert parse_pipeline(body)
        return
    with pytest.raises(Invalid, match=r"write \d+Mi or more, or lower maxSize or keep") as caught:
        parse_pipeline(body)
    assert caught.value.path == "spec.webhook.storage.size"
    needed = re.search(r"write (\d+Mi) or more", str(caught.value))
    assert needed
    assert parse_pipeline(pipeline(outputs=outputs, webhook={"storage": {"size": needed[1]}}))


def test_a_credential_in_a_url_is_refused_and_not_repeated() -> None:
    """The message goes into the status, where everybody may read it."""
    with pytest.raises(Invalid) as caught:
        parse_pipeline(pipeline(outputs=[output(http={"url": "https://user:hunter2@siem.example/"})]))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("case", CASES.get("auditsink_policy_validation", []), ids=json.dumps)
def test_sink_policies_are_checked_as_in_1_18(case: dict[str, Any]) -> None:
    """Cases taken as data from pkg/apis/auditregistration/validation."""
    sink = {"policy": case["policy"], "webhook": {"clientConfig": {"url": "https://host/path"}}}
    try:
        parse_sink({"metadata": {"name": "s"}, "spec": sink})
        valid = True
    except Invalid:
        valid = False
    assert valid is case["valid"]


@pytest.mark.parametrize("case", CASES.get("auditsink_policy_convert", []), ids=lambda case: case["name"])
def test_a_sinks_level_and_stages_become_a_policy(case: dict[str, Any]) -> None:
    """Stages that are not named are omitted."""
    sink = {"policy": {"stages": ["Panic"], **case["sinkPolicy"]}, "webhook": {"clientConfig": {"url": "https://h/"}}}
    spec = parse_sink({"metadata": {"name": "s"}, "spec": sink}).spec
    policy = sink_policy(spec.policy)
    assert widest(policy) is Level.METADATA
    assert set(policy.omit_stages).isdisjoint(spec.policy.stages)
    assert len(policy.omit_stages) + len(spec.policy.stages) == 4


@pytest.mark.parametrize("name", [".", "..", "../secrets/auditpipeline-ca", "Hook", "a.b", "a/b", "hook\n", "a" * 64])
@pytest.mark.parametrize("field", ["name", "namespace"])
def test_a_strange_service_of_a_sink_is_refused(field: str, name: str) -> None:
    """By core alone where kube-apiserver serves AuditSink itself: 1.18 asks for no more than that it is not empty."""
    service = {"namespace": "audit", "name": "hook"} | {field: name}
    spec = {"policy": {"level": "None"}, "webhook": {"clientConfig": {"service": service}}}
    with pytest.raises(Invalid) as caught:
        parse_sink({"metadata": {"name": "s"}, "spec": spec})
    assert caught.value.path == f"spec.webhook.clientConfig.service.{field}"


def test_quantities_and_durations_are_numbers() -> None:
    """Bytes and seconds."""
    assert parse_bytes("100Mi", "") == 100 * 2**20
    assert parse_bytes("1.5k", "") == 1500
    assert parse_seconds("1h30m", "") == 5400
    assert parse_seconds("500ms", "") == 0.5


def test_no_init_file_makes_the_source_root_shadow_the_standard_library() -> None:
    """`operator/__init__.py` would replace the module `operator` for everybody."""
    assert not (Path(__file__).parents[2] / "operator" / "__init__.py").exists()


def test_a_condition_that_does_not_compile_is_refused_with_its_field() -> None:
    """Of the pipeline and of an output: the API server cannot know."""
    bad, good = {"name": "a", "expression": "event.usr == 'a'"}, {"name": "a", "expression": "event.verb == 'get'"}
    for spec, path in (
        ({"matchConditions": [bad]}, "spec.matchConditions[0].expression"),
        ({"outputs": [output(stdout={}, matchConditions=[bad])]}, "spec.outputs[0].matchConditions[0].expression"),
    ):
        with pytest.raises(Invalid, match="undefined field 'usr' of event") as caught:
            parse_pipeline(pipeline(**spec))
        assert caught.value.path == path
    found = parse_pipeline(pipeline(matchConditions=[good])).spec
    assert (found.is_conditional, found.match_conditions[0].expression) == (True, "event.verb == 'get'")
    assert not parse_pipeline(pipeline()).spec.is_conditional

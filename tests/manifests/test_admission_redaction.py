"""Rights to opt out of redaction: the admission policies, asked of a real API server. The people are those of
test_admission.py, and:

    nadia   may also do everything in the namespace audit, Secrets included
    gert    may also get Secrets in all namespaces, and not list them
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.manifests.objects import REMOVED, Object, changed
from tests.manifests.objects import SINK as URL_SINK
from tests.manifests.test_admission import (
    BODIES,
    BODIES_REFUSED,
    OPERATOR,
    OURS,
    PLAIN,
    SINK,
    SINK_BODIES,
    URL_REFUSED,
    answer,
    bind,
    grant,
    installed,
    kept,
    refused,
)

pytestmark = pytest.mark.controlplane
__all__ = ["installed"]

KEY = "auditpipeline.dev/redaction"
RIGHT = "the right to get and list Secrets in all namespaces"
PIPELINE_REFUSED = f"spec.redaction.default: false keeps secrets in the events, so it needs {RIGHT}: remove the field"
HASH_REFUSED = "hash in spec.redaction lets a reader of the events test guesses"
SINK_REFUSED = f"the annotation {KEY}: none keeps secrets in the events, so it needs {RIGHT}: remove the annotation"
SINK_HASH_REFUSED = f"the annotation {KEY}: hash lets a reader of the events test guesses"
WITHOUT_THE_RIGHT = ("alice", "carol", "dora", "nadia", "gert")


def redacting(redaction: Any, pipeline: Object = PLAIN) -> Object:
    """The pipeline with that redaction."""
    return changed(pipeline, "spec.redaction", redaction)


def annotated(value: str, sink: Object = SINK) -> Object:
    """The sink with that value of the annotation."""
    return changed(sink, "metadata.annotations", {"team": "platform", KEY: value})


OPTED_OUT = redacting({"default": False})
WHOLE = annotated("none")
OWN = changed(OURS, "spec.policy.level", "Metadata")
GENERATED = {"generateName": "sink-", "annotations": {KEY: "none"}}


@pytest.fixture(scope="module")
def people(installed: ControlPlane) -> ControlPlane:
    """The installed policies, and two people more."""
    bind(installed, "writer", "nadia")
    bind(installed, "writer", "gert")
    installed.kubectl("create", "rolebinding", "nadia", "-n", "audit", "--clusterrole=admin", "--user=nadia")
    grant(installed, "secret-getter", "gert", "get", "secrets")
    for person in ("nadia", "gert"):
        installed.wait_for(f"permissions of {person}", partial(taken, installed, person, SINK), 30)
    installed.kubectl("auth", "can-i", "--quiet", "--as", "nadia", "list", "secrets", "-n", "audit")
    installed.kubectl("auth", "can-i", "--quiet", "--as", "gert", "get", "secrets", "-A")
    return installed


@pytest.mark.parametrize("person", WITHOUT_THE_RIGHT)
@pytest.mark.parametrize(
    ("obj", "said"),
    [
        (OPTED_OUT, PIPELINE_REFUSED),
        (redacting({"default": False, "method": "mask", "rules": [{"paths": ["data.*"]}]}), PIPELINE_REFUSED),
        (changed(OPTED_OUT, "spec.suspend", True), PIPELINE_REFUSED),
        (changed(OPTED_OUT, "metadata", {"generateName": "a-"}), PIPELINE_REFUSED),
        (WHOLE, SINK_REFUSED),
        (changed(WHOLE, "spec.policy.level", "None"), SINK_REFUSED),
        (changed(SINK, "metadata", GENERATED), SINK_REFUSED),
        (annotated("none", OWN), SINK_REFUSED),
        (redacting({"method": "hash"}), HASH_REFUSED),
        (redacting({"default": True, "method": "hash"}), HASH_REFUSED),
        (redacting({"rules": [{"paths": ["a"]}, {"paths": ["b"], "action": "hash"}]}), HASH_REFUSED),
        (annotated("hash"), SINK_HASH_REFUSED),
        (annotated("hash", OWN), SINK_HASH_REFUSED),
    ],
    ids=[
        *("pipeline", "with rules", "suspended", "pipeline's generateName"),
        *("sink", "level None", "sink's generateName", "sink like the operator's"),
        *(
            "pipeline's hashes",
            "default with hashes",
            "rule that hashes",
            "sink's hashes",
            "hashes like the operator's",
        ),
    ],
)
def test_an_opt_out_is_for_those_who_may_read_every_secret(
    people: ControlPlane, person: str, obj: Object, said: str
) -> None:
    """Secrets of one namespace are not enough, nor is the right to get those whose names are known."""
    assert said in answer(people, person, obj)
    assert answer(people, "bob", obj) == ""


@pytest.mark.parametrize(
    "obj",
    [
        *(redacting(value) for value in (None, {}, {"default": None}, {"default": True}, {"method": "mask"})),
        redacting({"rules": [{"paths": ["spec.key"], "action": action} for action in ("remove", "mask")]}),
        *(annotated(value) for value in ("", "mask", "None", "NONE", " none", "false", "all", "none,hash")),
        changed(SINK, "metadata.annotations", {f"{KEY}ed": "none", "redaction": "none"}),
        changed(SINK, "metadata.annotations", {}),
        changed(SINK, "metadata.labels", {KEY: "none"}),
    ],
    ids=lambda obj: json.dumps(obj["spec"].get("redaction", obj["metadata"])),
)
def test_what_opens_nothing_is_for_everybody(people: ControlPlane, obj: Object) -> None:
    """Rules take more than the default list, and the operator masks with any other value of the annotation."""
    assert answer(people, "alice", obj) == ""


ELSEWHERE = [{"name": "mine", "http": {"url": "https://alice.example"}}]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.outputs", ELSEWHERE),
        ("spec.outputs", [*PLAIN["spec"]["outputs"], *ELSEWHERE]),
        ("spec.policy.rules", [{"level": "Metadata", "users": ["bob"]}]),
        ("spec.suspend", False),
        ("spec.redaction.rules", [{"paths": ["spec.key"]}]),
        ("spec.redaction.method", "hash"),
    ],
    ids=["another output", "an output more", "other rules", "resumed", "rules of redaction", "method"],
)
def test_nobody_changes_a_pipeline_that_somebody_opted_out(people: ControlPlane, path: str, value: Any) -> None:
    """bob's opt-out counts for what bob wrote: a change is judged whole, by who makes it."""
    suspended = changed(OPTED_OUT, "spec.suspend", True)
    with kept(people, suspended):
        assert PIPELINE_REFUSED in answer(people, "alice", changed(suspended, path, value), "replace")
        assert answer(people, "bob", changed(suspended, path, value), "replace") == ""


def test_anybody_may_end_an_opt_out_of_a_pipeline(people: ControlPlane) -> None:
    """With whatever else changes, since its events are redacted from then on. Bodies are asked about as always."""
    with kept(people, OPTED_OUT):
        for redaction in ({}, {"default": True}, {"rules": [{"paths": ["spec.key"]}]}):
            assert answer(people, "alice", changed(redacting(redaction), "spec.outputs", ELSEWHERE), "replace") == ""
        assert answer(people, "alice", PLAIN, "replace") == ""
        assert answer(people, "alice", changed(OPTED_OUT, "metadata.labels", {"a": "b"}), "replace") == ""
        for value in ("null", "true"):
            assert patched(people, "alice", OPTED_OUT, f'{{"spec": {{"redaction": {{"default": {value}}}}}}}') == ""
    with kept(people, redacting({"default": False}, BODIES)):
        assert BODIES_REFUSED in answer(people, "alice", BODIES, "replace")


@pytest.mark.parametrize("before", [PLAIN, redacting({"default": True})], ids=["absent", "true"])
def test_no_verb_opts_a_pipeline_out(people: ControlPlane, before: Object) -> None:
    """Neither of her own, nor of somebody else."""
    for owner in ("alice", "bob"):
        with kept(people, before, owner):
            assert PIPELINE_REFUSED in answer(people, "alice", OPTED_OUT, "replace")
            assert PIPELINE_REFUSED in patched(people, "alice", before, '{"spec": {"redaction": {"default": false}}}')
            apply = ("apply", "--server-side", "--force-conflicts")
            assert PIPELINE_REFUSED in refused(people, "alice", *apply, obj=OPTED_OUT)
            assert answer(people, "bob", OPTED_OUT, "replace") == ""


TO_MINE = {"service": {"namespace": "audit", "name": "mine"}}
OWNERS = [{"apiVersion": "v1", "kind": "Namespace", "name": "audit", "uid": "1"}]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.webhook.clientConfig", TO_MINE),
        ("spec.webhook.clientConfig.service.path", "/mine"),
        ("spec.webhook.throttle.qps", 11),
        ("spec.policy.stages", ["Panic"]),
    ],
    ids=["another Service", "another path", "throttle", "policy"],
)
def test_nobody_changes_a_sink_that_somebody_opted_out(people: ControlPlane, path: str, value: Any) -> None:
    """Also together with the metadata; dora's right to URLs does not help."""
    with kept(people, WHOLE):
        for obj in (changed(WHOLE, path, value), annotated("none", changed(OWNED, path, value))):
            assert SINK_REFUSED in answer(people, "alice", obj, "replace")
            assert answer(people, "bob", obj, "replace") == ""
        to_url = changed(WHOLE, "spec.webhook.clientConfig", {"url": "https://siem.example/"})
        assert SINK_REFUSED in answer(people, "dora", to_url, "replace")


OWNED = changed(SINK, "metadata.ownerReferences", OWNERS)


@pytest.mark.parametrize(
    "obj",
    [
        changed(WHOLE, "metadata.labels", {"team": "platform"}),
        changed(WHOLE, "metadata.annotations", {KEY: "none"}),
        annotated("none", OWNED),
        changed(WHOLE, "metadata.finalizers", ["example.com/held"]),
        changed(WHOLE, "metadata.annotations", REMOVED),
        changed(WHOLE, "metadata.annotations", {"team": "platform"}),
        annotated("mask"),
        changed(SINK, "spec.webhook.clientConfig", TO_MINE),
    ],
    ids=[
        *("label", "another annotation goes", "owner", "finalizer", "all annotations go", "it goes"),
        *("it means nothing", "it goes, another Service"),
    ],
)
def test_what_keeps_or_ends_an_opt_out_of_a_sink_is_let_through(people: ControlPlane, obj: Object) -> None:
    """The garbage collector's and the operator's changes of metadata, and whoever wants less in the events."""
    with kept(people, WHOLE):
        assert answer(people, "alice", obj, "replace") == ""


def test_an_annotation_comes_later_only_from_those_who_may(people: ControlPlane) -> None:
    """By no verb, on no sink of whosoever, and with no change of the spec beside it."""
    with kept(people, SINK, "alice"):
        for value, said in (("none", SINK_REFUSED), ("hash", SINK_HASH_REFUSED)):
            assert said in answer(people, "alice", annotated(value), "replace")
            assert said in answer(people, "alice", annotated(value, OWNED), "replace")
            assert said in refused(people, "alice", "annotate", "auditsink", name(SINK), f"{KEY}={value}")
            assert said in patched(people, "alice", SINK, json.dumps({"metadata": {"annotations": {KEY: value}}}))
            apply = ("apply", "--server-side", "--force-conflicts")
            assert said in refused(people, "alice", *apply, obj=annotated(value))
            assert answer(people, "bob", annotated(value), "replace") == ""
    with kept(people, annotated("hash")):
        assert SINK_REFUSED in answer(people, "alice", WHOLE, "replace")
    with kept(people, WHOLE):
        assert SINK_HASH_REFUSED in answer(people, "alice", annotated("hash"), "replace")


def test_an_annotation_that_comes_later_is_judged_with_the_spec(people: ControlPlane) -> None:
    """Anybody who opts somebody's sink out needs every right to what it says: it gets more from then on."""
    with kept(people, URL_SINK, "dora"):
        assert URL_REFUSED in answer(people, "bob", annotated("none", URL_SINK), "replace")
        assert answer(people, "bob", changed(URL_SINK, "metadata.labels", {"a": "b"}), "replace") == ""
    with kept(people, SINK_BODIES):
        assert "forbidden" in answer(people, "alice", annotated("none", SINK_BODIES), "replace")
        assert answer(people, "bob", annotated("none", SINK_BODIES), "replace") == ""


def test_an_opt_out_does_not_outlive_its_removal(people: ControlPlane) -> None:
    """Step by step: alice ends bob's opt-out, redirects the sink, and does not get the opt-out back."""
    redirected = changed(SINK, "spec.webhook.clientConfig", TO_MINE)
    with kept(people, WHOLE):
        annotate = ("--as", "alice", "annotate", "auditsink", name(WHOLE))
        people.kubectl(*annotate, f"{KEY}-")
        people.kubectl("--as", "alice", "replace", "-f", "-", input=json.dumps(redirected))
        assert SINK_REFUSED in answer(people, "alice", annotated("none", redirected), "replace")


def test_a_status_changes_no_annotation(people: ControlPlane) -> None:
    """The subresource takes the status alone, also from somebody who may write it."""
    grant(people, "redaction-status", "alice", "get,patch,update", "auditsinks/status")
    with kept(people, SINK, "alice"):
        patch = json.dumps({"metadata": {"annotations": {KEY: "none"}}, "status": {"delivered": 7}})
        command = ("patch", "auditsink", name(SINK), "--type=merge", "-p", patch, "--subresource=status")
        people.wait_for("permission", lambda: not refused(people, "alice", *command), 30)
        people.kubectl("--as", "alice", *command)
        found = json.loads(people.kubectl("get", "auditsink", name(SINK), "-o", "json"))
        assert found["status"]["delivered"] == 7
        assert "annotations" not in found["metadata"]


@pytest.mark.parametrize("value", ["none", "hash"])
def test_the_operator_passes_opt_outs_on_to_its_own_sinks(people: ControlPlane, value: str) -> None:
    """From a pipeline that passed; when the sink is made, and later. Nobody else may, with the same object."""
    assert answer(people, OPERATOR, annotated(value, OWN)) == ""
    with kept(people, PLAIN):
        uid = json.loads(people.kubectl("get", "auditpipeline", name(PLAIN), "-o", "json"))["metadata"]["uid"]
        sink = changed(OWN, "metadata.ownerReferences.0.uid", uid)
        with kept(people, sink, OPERATOR):
            apply = ("apply", "--server-side", "--force-conflicts")
            assert refused(people, OPERATOR, *apply, obj=annotated(value, sink)) == ""
            assert f"{KEY}: {value}" in answer(people, "alice", annotated(value, sink), "replace")


@pytest.mark.parametrize("value", ["none", "hash"])
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("metadata.name", "audit-other"),
        ("metadata.ownerReferences", []),
        ("metadata.ownerReferences.0.kind", "ConfigMap"),
        ("metadata.ownerReferences.0.name", "other"),
        ("spec.webhook.clientConfig.service.name", "other"),
        ("spec.webhook.clientConfig.service.namespace", "audit"),
    ],
)
def test_the_operator_opts_no_other_sink_out(people: ControlPlane, path: str, content: Any, value: str) -> None:
    """Its token alone sends no secrets anywhere else."""
    assert f"{KEY}: {value}" in answer(people, OPERATOR, changed(annotated(value, OWN), path, content))


def taken(cluster: ControlPlane, person: str, obj: Object) -> bool:
    """Whether the API server takes the object from the person."""
    return answer(cluster, person, obj) == ""


def name(obj: Object) -> str:
    """The name of an object."""
    found: str = obj["metadata"]["name"]
    return found


def patched(cluster: ControlPlane, person: str, obj: Object, patch: str) -> str:
    """What the API server says to a merge patch, as a dry run; nothing if it is taken."""
    return refused(cluster, person, "patch", obj["kind"].lower(), name(obj), "--type=merge", "-p", patch)

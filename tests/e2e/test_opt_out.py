"""Opting out of redaction on a real control plane: what an opted-out pipeline or sink gets, and what nobody else does.

mallory may write AuditPipelines and AuditSinks, and read no Secret.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from auditpipeline.core.redaction.model import MASK_BASE64
from tests.cluster.deployment import Deployment
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import Failed
from tests.e2e.traffic import pipeline, recorded, wait_recorded
from tests.e2e.webhooks import Webhook, Webhooks, sink
from tests.redaction import everywhere

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

SECRETS = {
    "level": "RequestResponse",
    "verbs": ["create"],
    "namespaces": ["default"],
    "resources": [{"group": "", "resources": ["secrets"]}],
}
KEY = "auditpipeline.dev/redaction"
MARK = "auditpipeline.dev/redacted"
RIGHT = "so it needs the right to get and list Secrets in all namespaces"
PIPELINE_REFUSED = f"spec.redaction.default: false keeps secrets in the events, {RIGHT}"
SINK_REFUSED = f"the annotation {KEY}: none keeps secrets in the events, {RIGHT}"
KINDS = "auditpipelines.auditpipeline.dev,auditsinks.auditregistration.k8s.io"


class Planted(NamedTuple):
    """A Secret that was made with a password in it."""

    name: str
    password: str

    @property
    def forms(self) -> tuple[bytes, ...]:
        """How it may lie on a disk: as it is, and as the `data` of a Secret has it."""
        return self.password.encode(), base64.b64encode(self.password.encode())

    def within(self, data: bytes) -> bool:
        """Whether somebody who reads this can read the password."""
        return any(form in data for form in self.forms)


def plant(on: Deployment) -> Planted:
    """Make a Secret by `kubectl apply`: its password is in the body, and in an annotation of it."""
    planted = Planted(f"planted-{secrets.token_hex(4)}", secrets.token_hex(12))
    content = {"stringData": {"password": planted.password}}
    on.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": planted.name}, **content})
    return planted


def holding(on: LocalDeployment, planted: Planted) -> set[str]:
    """Every file of every Pod, the gateway's included, in which the password can be read."""
    folder = on.cluster.data / "kubelet"
    return {path.removeprefix(f"{folder}/") for path, data in everywhere.files(folder) if planted.within(data)}


def events_of(on: Deployment, name: str, planted: Planted) -> dict[str, dict[str, Any]]:
    """What a pipeline delivered of the request that made the Secret, by auditID."""
    found = [event for event in on.events(name) if event.get("objectRef", {}).get("name") == planted.name]
    return {event["auditID"]: event for event in found}


def said(on: Deployment, name: str) -> tuple[str, str]:
    """What the condition Redacted of a pipeline says."""
    found = on.condition(name, "Redacted")
    return found.get("status", ""), found.get("reason", "")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    """auditpipeline where kube-apiserver emits the bodies of Secrets, which the static policy of `bootstrap` leaves
    out."""
    static = tmp_path_factory.mktemp("static") / "policy.yaml"
    rules = [{"level": "RequestResponse"}]
    static.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    arguments = ("--resync", "5", "--status-interval", "1", "--canary-interval", "1")
    data = tmp_path_factory.mktemp("local")
    with LocalDeployment(data, operator_args=arguments, static_policy=static) as it:
        yield it


@pytest.fixture(scope="module")
def people(local: LocalDeployment) -> LocalDeployment:
    """The deployment, once mallory's rights and the admission policies are in force."""
    verbs = "--verb=get,list,create,update,patch,delete"
    local.kubectl("create", "clusterrole", "writer", f"--resource={KINDS}", verbs)
    local.kubectl("create", "clusterrolebinding", "mallory", "--clusterrole=writer", "--user=mallory")
    plain = pipeline("probe")
    local.wait_for("mallory's rights", lambda: as_mallory(local, "create", "--dry-run=server", obj=plain) == "")
    bodies = pipeline("probe", SECRETS)
    refused = partial(as_mallory, local, "create", "--dry-run=server", obj=bodies)
    local.wait_for("the admission policies", lambda: "record bodies" in refused())
    return local


def as_mallory(on: LocalDeployment, *command: str, obj: dict[str, Any] | None = None) -> str:
    """What the API server says to a command of mallory's; nothing if it is taken."""
    files, text = (("-f", "-"), json.dumps(obj)) if obj else ((), None)
    try:
        on.kubectl(*command, *files, stdin=text, kubeconfig=on.cluster.user_kubeconfig("mallory"))
    except Failed as error:
        return str(error)
    return ""


def test_with_an_opt_out_only_that_pipelines_events_are_whole(people: LocalDeployment) -> None:
    """From when it is in force until it ends; and no disk of anybody else holds what is in them."""
    on = people
    on.apply(pipeline("masked", SECRETS))
    on.wait_ready("masked")
    on.wait_for("what is said of it", lambda: said(on, "masked") == ("True", "Default"))
    before = plant(on)
    wait_recorded(on, "masked", {before.name})
    assert holding(on, before) == set()

    on.apply(pipeline("whole", SECRETS, redaction={"default": False}))
    on.wait_ready("whole")
    on.wait_for("what is said of it", lambda: said(on, "whole") == ("False", "OptedOut"))
    assert "gateway" in on.condition("whole", "Redacted")["message"]
    during = plant(on)
    for name in ("masked", "whole"):
        wait_recorded(on, name, {during.name})
    masked, whole = events_of(on, "masked", during), events_of(on, "whole", during)
    assert masked.keys() == whole.keys()
    for audit_id, event in whole.items():
        assert event["requestObject"]["data"] == {"password": during.forms[1].decode()}
        assert MARK not in event["annotations"]
        other = masked[audit_id]
        assert other["requestObject"]["data"] == {"password": MASK_BASE64}
        assert int(other["annotations"][MARK]) > 0
    holders = holding(on, during)
    assert [path for path in holders if "audit-whole-" in path]
    assert [path for path in holders if "audit-masked-" in path] == []
    assert not during.within(on.operator.log.read_bytes())
    assert not during.within(on.kubectl("get", "auditpipelines,auditsinks,events", "-A", "-o", "json").encode())

    on.kubectl("patch", "auditpipeline", "whole", "--type=merge", "-p", '{"spec":{"redaction":null}}')
    on.wait_ready("whole")
    on.wait_for("what is said of it", lambda: said(on, "whole") == ("True", "Default"))
    after = plant(on)
    for name in ("masked", "whole"):
        wait_recorded(on, name, {after.name})
    assert holding(on, after) == set()
    assert recorded(on, "masked") >= {before.name, during.name, after.name}


def test_a_user_without_the_right_is_refused_with_the_message(people: LocalDeployment) -> None:
    """A new pipeline, an update of her own, and one of somebody else's opt-out, which stays as it was."""
    on = people
    own = pipeline("mallorys", suspend=True)
    assert PIPELINE_REFUSED in as_mallory(on, "create", obj=pipeline("mallorys", redaction={"default": False}))
    assert as_mallory(on, "create", obj=own) == ""
    opt_out = ("--type=merge", "-p", '{"spec":{"redaction":{"default":false}}}')
    assert PIPELINE_REFUSED in as_mallory(on, "patch", "auditpipeline", "mallorys", *opt_out)
    on.apply(pipeline("admins", redaction={"default": False}, suspend=True))
    outputs = json.dumps({"spec": {"outputs": [{"name": "mine", "http": {"url": "https://mallory.example/"}}]}})
    patch = ("patch", "auditpipeline", "admins", "--type=merge", "-p")
    assert PIPELINE_REFUSED in as_mallory(on, *patch, outputs)
    assert on.get("auditpipeline", "admins")["spec"]["redaction"] == {"default": False}
    assert as_mallory(on, *patch, '{"spec":{"redaction":null}}') == ""
    on.kubectl("delete", "auditpipeline", "mallorys", "admins")


@pytest.fixture
def webhooks(people: LocalDeployment) -> Iterator[tuple[Webhooks, dict[str, Webhook]]]:
    """A webhook for each sink that somebody else wrote, which keeps what it gets."""
    with Webhooks(people.cluster.data / "webhooks") as served:
        found = {name: served.serve() for name in ("plain", "hash", "none")}
        for webhook in found.values():
            webhook.kept = []
        yield served, found
        people.kubectl("delete", "auditsinks", *found, "--ignore-not-found")


def test_a_sink_that_somebody_wrote_gets_secrets_by_its_annotation_alone(
    people: LocalDeployment, webhooks: tuple[Webhooks, dict[str, Webhook]]
) -> None:
    """Set by somebody who may. Without it, or with hashes, nothing is readable."""
    on, (served, hooks) = people, webhooks
    for name, webhook in hooks.items():
        made = sink(name, served.client(webhook))
        made["spec"]["policy"]["rules"] = [SECRETS]
        if name != "plain":
            made["metadata"]["annotations"] = {KEY: name}
        on.apply(made)
    refused = as_mallory(on, "annotate", "auditsink", "plain", f"{KEY}=none")
    assert "record bodies" in refused or SINK_REFUSED in refused
    for name in hooks:
        on.kubectl("wait", "--for=condition=Ready", f"auditsink/{name}", "--timeout=60s")
    planted = plant(on)
    on.wait_for("the event everywhere", lambda: all(planted.name in webhook.names for webhook in hooks.values()))
    got = {name: b"".join(webhook.kept or ()) for name, webhook in hooks.items()}
    assert [name for name, data in got.items() if planted.within(data)] == ["none"]
    assert value_in(hooks["plain"], planted) == MASK_BASE64
    assert value_in(hooks["hash"], planted) not in (MASK_BASE64, planted.forms[1].decode())


def value_in(webhook: Webhook, planted: Planted) -> str:
    """What a webhook got for the password."""
    events = [event for body in webhook.kept or () for event in json.loads(body)["items"]]
    bodies = [
        event["requestObject"]
        for event in events
        if event["objectRef"].get("name") == planted.name and "requestObject" in event
    ]
    (value,) = {body["data"]["password"] for body in bodies}
    return str(value)

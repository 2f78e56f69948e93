"""Who may have bodies recorded, and Secrets sent: the admission policies, installed as users install them.

A control plane of its own, since what is installed here would judge other tests' objects too. The people:

    alice   may write AuditPipelines and AuditSinks, and read no Secret
    bob     may also get and list Secrets in all namespaces
    carol   may also get Secrets in the namespace audit
    dora    may write AuditPipelines and AuditSinks, and use URLs in AuditSinks
    OPERATOR  the operator's ServiceAccount with the permissions of the chart
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.processes import Failed
from tests.manifests.objects import PIPELINE, Object, changed
from tests.manifests.objects import SINK as URL_SINK
from tests.manifests.render import INSTALL, NAMESPACE, OBJECTS, RECEIVERS, documents

pytestmark = pytest.mark.controlplane

OPERATOR = f"system:serviceaccount:{NAMESPACE}:auditpipeline-operator"
BODIES_REFUSED = "use the level Metadata, or have this applied by somebody who may"
SECRET_REFUSED = "an output refers to a Secret in the namespace"
URL_REFUSED = "which only those may ask for who may use auditsinks/url"

PLAIN: Object = PIPELINE | {
    "spec": {"policy": {"rules": [{"level": "Metadata"}]}, "outputs": [{"name": "console", "stdout": {}}]}
}
BODIES = changed(PLAIN, "spec.policy.rules", [{"level": "Metadata", "verbs": ["get"]}, {"level": "Request"}])
SIEM = {"url": "https://siem.example", "bearerTokenSecretRef": {"name": "auditpipeline-ca", "key": "tls.key"}}
REFERENCE = changed(PLAIN, "spec.outputs", [{"name": "siem", "http": SIEM}])
SINK = changed(URL_SINK, "spec.webhook.clientConfig", {"service": {"namespace": "audit", "name": "hook"}})
SINK_BODIES = changed(SINK, "spec.policy.level", "RequestResponse")
OWNER = {"apiVersion": "auditpipeline.dev/v1alpha1", "kind": "AuditPipeline", "name": "security", "uid": "1"}
SERVICE = {"namespace": RECEIVERS, "name": "audit-security", "path": "/audit"}
OURS_METADATA = {"name": "audit-security", "ownerReferences": [OWNER | {"controller": True}]}
OURS: Object = SINK_BODIES | {
    "metadata": OURS_METADATA,
    "spec": {
        "policy": {"level": "RequestResponse", "stages": ["ResponseComplete"]},
        "webhook": {"clientConfig": {"service": SERVICE}},
    },
}


@pytest.fixture(scope="module")
def installed(empty: ControlPlane) -> ControlPlane:
    """A control plane with manifests/install applied, the people made, and the policies in force."""
    empty.kubectl("apply", "--server-side", "-k", str(INSTALL))
    empty.kubectl("create", "namespace", "audit")
    grant(empty, "writer", "alice", "*", "auditpipelines.auditpipeline.dev,auditsinks.auditregistration.k8s.io")
    grant(empty, "secret-reader", "bob", "get,list", "secrets")
    for person in ("bob", "carol", "dora"):
        bind(empty, "writer", person)
    bind(empty, "auditpipeline-sink-urls", "dora")
    empty.kubectl("create", "role", "secrets", "-n", "audit", "--verb=get", "--resource=secrets")
    empty.kubectl("create", "rolebinding", "carol", "-n", "audit", "--role=secrets", "--user=carol")
    for obj in (BODIES, SINK_BODIES):
        empty.wait_for("policies in force", partial(refuses_bodies, empty, obj), 30)
    empty.wait_for("permissions", lambda: not answer(empty, "bob", BODIES), 30)
    empty.wait_for("permission to use URLs", lambda: not answer(empty, "dora", URL_SINK), 30)
    return empty


def grant(cluster: ControlPlane, role: str, person: str, verbs: str, resources: str) -> None:
    """A ClusterRole for a person."""
    cluster.kubectl("create", "clusterrole", role, f"--verb={verbs}", f"--resource={resources}")
    bind(cluster, role, person)


def bind(cluster: ControlPlane, role: str, person: str) -> None:
    """Bind a ClusterRole to a person, in all namespaces."""
    cluster.kubectl("create", "clusterrolebinding", f"{role}-{person}", f"--clusterrole={role}", f"--user={person}")


def answer(cluster: ControlPlane, person: str, obj: Object, verb: str = "create") -> str:
    """What the API server says when the person writes the object, as a dry run; nothing where it is taken."""
    try:
        cluster.kubectl(verb, "--as", person, "--dry-run=server", "-f", "-", input=json.dumps(obj))
    except Failed as refused:
        return str(refused)
    return ""


TO_URL = {"webhook": {"clientConfig": {"url": "http://127.0.0.1:2379/", "service": None}}}
MERGE = ("auditsink", str(URL_SINK["metadata"]["name"]), "--type=merge", "-p")


def refused(cluster: ControlPlane, person: str, *command: str, obj: Object | None = None) -> str:
    """What the API server says to a command of kubectl, as a dry run; nothing if it is taken."""
    files, text = (("-f", "-"), json.dumps(obj)) if obj else ((), None)
    try:
        cluster.kubectl(*command, "--as", person, "--dry-run=server", *files, input=text)
    except Failed as error:
        return str(error)
    return ""


def refuses_bodies(cluster: ControlPlane, obj: Object) -> bool:
    """Whether alice is refused, as she is once the policies are in force."""
    return BODIES_REFUSED in answer(cluster, "alice", obj)


def test_metadata_is_for_everybody_who_may_write_pipelines(installed: ControlPlane) -> None:
    """Without bodies nothing is asked."""
    assert answer(installed, "alice", PLAIN) == ""
    assert answer(installed, "alice", SINK) == ""


GENERATED = changed(changed(URL_SINK, "metadata", {"generateName": "sink-"}), "spec.policy.level", "None")


@pytest.mark.parametrize(
    "obj",
    [
        URL_SINK,
        GENERATED,
        changed(URL_SINK, "spec.webhook.clientConfig.url", "http://10.1.2.3/"),
        changed(URL_SINK, "metadata.labels", {"app.kubernetes.io/managed-by": "auditpipeline"}),
        changed(URL_SINK, "metadata", OURS_METADATA),
    ],
    ids=["a name", "generateName", "an address", "labels of the operator", "owner like the operator's"],
)
@pytest.mark.parametrize("person", ["alice", "bob", "carol", OPERATOR])
def test_a_url_is_for_those_who_may_use_one(installed: ControlPlane, person: str, obj: Object) -> None:
    """The gateway posts to it from the network of the control plane; reading Secrets is another right, and the
    operator itself has no use for a URL."""
    assert URL_REFUSED in answer(installed, person, obj)
    assert answer(installed, "dora", obj) == ""


def test_a_url_that_somebody_else_wrote_cannot_be_used(installed: ControlPlane) -> None:
    """Every change of the spec is judged whole: of the URL, to a URL, and of anything beside it. What is changed in the
    metadata, by whatever verb, sends nothing anywhere."""
    with kept(installed, URL_SINK, "dora"):
        for path, value in (
            ("spec.webhook.clientConfig.url", "https://elsewhere.example/"),
            ("spec.webhook.throttle.qps", 11),
            ("spec.policy.stages", ["Panic"]),
        ):
            assert URL_REFUSED in answer(installed, "alice", changed(URL_SINK, path, value), "replace")
            assert answer(installed, "dora", changed(URL_SINK, path, value), "replace") == ""
        labelled = changed(URL_SINK, "metadata.annotations", {"team": "platform"})
        assert answer(installed, "alice", labelled, "replace") == ""
        assert answer(installed, "alice", SINK, "replace") == ""
    with kept(installed, SINK, "alice"):
        assert URL_REFUSED in answer(installed, "alice", URL_SINK, "replace")
        assert URL_REFUSED in refused(installed, "alice", "patch", *MERGE, json.dumps({"spec": TO_URL}))
    assert URL_REFUSED in refused(installed, "alice", "apply", "--server-side", obj=URL_SINK)


def test_a_status_changes_no_url(installed: ControlPlane) -> None:
    """The subresource takes the status alone, also from whoever may write it."""
    grant(installed, "status-writer", "alice", "get,patch,update", "auditsinks/status")
    with kept(installed, SINK, "alice"):
        patch = json.dumps({"spec": TO_URL, "status": {"delivered": 7}})
        command = ("patch", *MERGE, patch, "--subresource=status")
        installed.wait_for("permission", lambda: not refused(installed, "alice", *command), 30)
        installed.kubectl("--as", "alice", *command)
        found = json.loads(installed.kubectl("get", "auditsink", SINK["metadata"]["name"], "-o", "json"))
        assert found["status"]["delivered"] == 7
        assert "url" not in found["spec"]["webhook"]["clientConfig"]


HIDDEN_IN_OUTPUT = changed(PLAIN, "spec.outputs.0.policy", {"rules": [{"level": "RequestResponse"}]})
PRESET = changed(PLAIN, "spec.policy", {"preset": "compliance"})
PRESET_IN_OUTPUT = changed(PLAIN, "spec.outputs.0.policy", {"preset": "compliance"})
HIDDEN_IN_RULES = changed(SINK, "spec.policy.rules", [{"level": "None", "users": ["a"]}, {"level": "Request"}])
HIDDEN_BEHIND_NONE = changed(HIDDEN_IN_RULES, "spec.policy.level", "None")


@pytest.mark.parametrize(
    "obj",
    [BODIES, HIDDEN_IN_OUTPUT, PRESET, PRESET_IN_OUTPUT, SINK_BODIES, HIDDEN_IN_RULES, HIDDEN_BEHIND_NONE, OURS],
    ids=[
        *("pipeline", "output", "preset", "output's preset"),
        *("sink", "sink's rules", "sink's rules with level None", "sink like the operator's"),
    ],
)
def test_bodies_are_for_those_who_may_read_every_secret(installed: ControlPlane, obj: Object) -> None:
    """Wherever the level stands; carol's Secrets of one namespace are not enough."""
    assert BODIES_REFUSED in answer(installed, "alice", obj)
    assert BODIES_REFUSED in answer(installed, "carol", obj)
    assert answer(installed, "bob", obj) == ""


def test_whoever_names_a_secret_may_read_it(installed: ControlPlane) -> None:
    """Else the operator's own CA key could be sent to any URL; the namespace is the pipeline's."""
    elsewhere = changed(REFERENCE, "spec.targetNamespace", "audit")
    assert f"{SECRET_REFUSED} {RECEIVERS}," in answer(installed, "alice", REFERENCE)
    assert f"{SECRET_REFUSED} {RECEIVERS}," in answer(installed, "carol", REFERENCE)
    assert f"{SECRET_REFUSED} audit," in answer(installed, "alice", elsewhere)
    assert answer(installed, "carol", elsewhere) == ""
    assert answer(installed, "bob", REFERENCE) == ""


@pytest.mark.parametrize(
    ("field", "reference"),
    [
        ("caSecretRef", {"name": "siem", "key": "ca.crt"}),
        ("basicAuthSecretRef", {"name": "siem"}),
        ("clientCertificateSecretRef", {"name": "siem"}),
    ],
)
def test_a_ca_is_a_secret_too(installed: ControlPlane, field: str, reference: Object) -> None:
    """Every reference counts."""
    http = {"url": "https://siem.example", field: reference}
    assert SECRET_REFUSED in answer(installed, "alice", changed(PLAIN, "spec.outputs.0", {"name": "a", "http": http}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.outputs", [{"name": "mine", "http": {"url": "https://alice.example"}}]),
        ("spec.suspend", False),
        ("spec.policy.rules", [{"level": "Request"}]),
    ],
    ids=["another output", "resumed", "other rules"],
)
def test_nobody_changes_somebody_elses_bodies(installed: ControlPlane, path: str, value: Any) -> None:
    """bob's pipeline stays what bob made of it: a change is judged whole, by who makes it."""
    suspended = changed(BODIES, "spec.suspend", True)
    with kept(installed, suspended):
        assert BODIES_REFUSED in answer(installed, "alice", changed(suspended, path, value), "replace")
        assert answer(installed, "bob", changed(suspended, path, value), "replace") == ""


def test_metadata_of_somebody_elses_object_may_be_changed(installed: ControlPlane) -> None:
    """A label, or the garbage collector at its work, changes nothing of what is recorded."""
    with kept(installed, BODIES):
        labelled = changed(BODIES, "metadata.labels", {"team": "platform"})
        assert answer(installed, "alice", labelled, "replace") == ""
        assert answer(installed, "alice", changed(PLAIN, "metadata", BODIES["metadata"]), "replace") == ""


def test_the_operator_makes_the_sinks_of_its_pipelines(installed: ControlPlane) -> None:
    """With bodies, and without a right to read Secrets outside of its namespaces."""
    assert answer(installed, OPERATOR, OURS) == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "audit-other"),
        ("metadata.ownerReferences", []),
        ("metadata.ownerReferences.0.kind", "ConfigMap"),
        ("metadata.ownerReferences.0.name", "other"),
        ("spec.webhook.clientConfig.service.name", "other"),
        ("spec.webhook.clientConfig.service.namespace", "audit"),
        ("spec.webhook.clientConfig", {"url": "https://siem.example"}),
    ],
)
def test_the_operator_makes_no_other_sinks(installed: ControlPlane, path: str, value: Any) -> None:
    """Its token alone does not send bodies anywhere else."""
    assert BODIES_REFUSED in answer(installed, OPERATOR, changed(OURS, path, value))


def test_the_operator_of_another_namespace_is_nobody(installed: ControlPlane) -> None:
    """The name of a ServiceAccount counts with its namespace."""
    impostor = "system:serviceaccount:audit:auditpipeline-operator"
    bind(installed, "writer", impostor)
    installed.wait_for("permission", lambda: not answer(installed, impostor, SINK), 30)
    assert BODIES_REFUSED in answer(installed, impostor, OURS)


def test_the_largest_pipeline_is_within_the_cost_budget(installed: ControlPlane) -> None:
    """A thousand rules, and a thousand in each of sixteen outputs, with the one that matters at the very end."""
    rules = [{"level": "Metadata", "verbs": ["get"]}] * 999
    outputs = [
        {"name": f"o{number}", "http": SIEM, "policy": {"rules": [*rules, {"level": "Metadata"}]}}
        for number in range(16)
    ]
    large = PLAIN | {"spec": {"policy": {"rules": rules}, "outputs": outputs}}
    hidden = changed(large, "spec.outputs.15.policy.rules.999.level", "Request")
    assert BODIES_REFUSED in answer(installed, "alice", hidden)
    assert answer(installed, "bob", hidden) == ""


class kept:  # noqa: N801 - reads as a sentence in `with`
    """An object that somebody made (bob, unless another is named), for the length of a block."""

    def __init__(self, cluster: ControlPlane, obj: Object, person: str = "bob") -> None:
        self._cluster, self._text, self._person = cluster, json.dumps(obj), person

    def __enter__(self) -> None:
        self._cluster.kubectl("create", "--as", self._person, "-f", "-", input=self._text)

    def __exit__(self, *_: object) -> None:
        self._cluster.kubectl("delete", "-f", "-", input=self._text)


def pod_of(kind: str) -> Object:
    """A Pod as the installed workload of that kind makes it."""
    (workload,) = (obj for obj in documents(OBJECTS.read_text()) if obj["kind"] == kind)
    template = workload["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tried", "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }


def test_pod_security_takes_the_operator_as_restricted_and_the_gateway_as_privileged(installed: ControlPlane) -> None:
    """Asked of the real admission plugin: what the labels of the namespace say is needed, and no more."""
    installed.kubectl("create", "namespace", "strict")
    installed.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    for account in ("auditpipeline-operator", "auditpipeline-gateway"):
        installed.kubectl("create", "serviceaccount", account, "-n", "strict")
    create = ("create", "--dry-run=server", "-f", "-", "-n")
    installed.kubectl(*create, "strict", input=json.dumps(pod_of("Deployment")))
    with pytest.raises(Failed, match="hostNetwork") as refused:
        installed.kubectl(*create, "strict", input=json.dumps(pod_of("DaemonSet")))
    assert "seccompProfile" not in str(refused.value)
    installed.kubectl(*create, NAMESPACE, input=json.dumps(pod_of("DaemonSet")))


@pytest.mark.parametrize(
    ("question", "allowed"),
    [
        (("create", "secrets", "-n", NAMESPACE), True),
        (("get", "services", "-n", "default"), True),
        (("get", "secrets", "-n", "default"), False),
        (("list", "secrets", "-n", "audit"), False),
        (("create", "pods", "-n", NAMESPACE), False),
        (("create", "auditpipelines.auditpipeline.dev"), False),
        (("update", "leases.coordination.k8s.io/other", "-n", NAMESPACE), False),
        (("create", "rolebindings.rbac.authorization.k8s.io", "-n", NAMESPACE), False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_the_operator_may_do_this_and_no_more(
    installed: ControlPlane, question: tuple[str, ...], allowed: bool
) -> None:
    """Asked of the authorizer."""
    if allowed:
        installed.kubectl("auth", "can-i", "--quiet", "--as", OPERATOR, *question)
    else:
        with pytest.raises(Failed, match="exit 1"):
            installed.kubectl("auth", "can-i", "--quiet", "--as", OPERATOR, *question)

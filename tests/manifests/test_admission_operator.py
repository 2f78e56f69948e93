"""What the operator's token is good for, in whatever hands: the rights of manifests/install and the policies beside
them, asked of a real API server as the operator's ServiceAccount.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from auditpipeline.control import desired, desired_pod
from auditpipeline.control.resources import Features
from auditpipeline.control.settings import Settings
from tests.cluster.controlplane import ControlPlane
from tests.cluster.processes import Failed
from tests.control import bodies
from tests.control.rights import granted
from tests.control.rights import installed as installed_objects
from tests.manifests.objects import Object, changed
from tests.manifests.render import CHART, INSTALL, NAMESPACE, RECEIVERS, documents, run, template
from tests.manifests.test_admission import PLAIN, REFERENCE

pytestmark = pytest.mark.controlplane

OPERATOR = f"system:serviceaccount:{NAMESPACE}:auditpipeline-operator"
CONTAINER = {"name": "a", "image": "a"}
POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "gateway", "labels": {"app.kubernetes.io/name": "auditpipeline-gateway"}},
    "spec": {"hostNetwork": True, "containers": [CONTAINER | {"ports": [{"containerPort": 9444, "hostPort": 9444}]}]},
}
RICH = bodies.parsed(bodies.rich("shop"))
STATEFULSET: Object = desired_pod.statefulset(RICH, RECEIVERS, Settings(namespace=NAMESPACE), Features())
CHANGES_ONLY = "changes nothing of a Pod but its annotation"
NOTHING_OF_A_NODE = "have nothing of a node and no privilege"
ITS_OWN_ACCOUNT = "run as the ServiceAccount of that name"


@pytest.fixture(scope="module")
def installed(empty: ControlPlane, helm: str) -> ControlPlane:
    """manifests/install, with the chart's permissions for receivers in the operator's own namespace and in `audit`."""
    empty.kubectl("apply", "--server-side", "-k", str(INSTALL))
    empty.kubectl("create", "namespace", "audit")
    rendered = run(
        *(helm, "template", "auditpipeline", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.37.0"),
        *("--set", "receivers.legacy=true,targetNamespaces={audit}"),
    )
    asked = [obj for obj in documents(rendered) if obj["kind"] in ("Role", "RoleBinding", "ValidatingAdmissionPolicy")]
    empty.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(_list(asked)))
    empty.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=json.dumps(POD))
    # kubectl reads before it patches; the operator does not.
    empty.kubectl(
        "create", "clusterrole", "reader", "--verb=get", "--resource=pods,pods/status,pods/resize,statefulsets"
    )
    account = f"{NAMESPACE}:auditpipeline-operator"
    empty.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", f"--serviceaccount={account}")
    empty.wait_for("policies in force", lambda: CHANGES_ONLY in patch(empty, IMAGE), 30)
    empty.wait_for("permissions", lambda: not answer(empty, STATEFULSET, NAMESPACE), 30)
    return empty


def _list(objects: list[Object]) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": objects}


def answer(cluster: ControlPlane, obj: Object, namespace: str, verb: str = "create") -> str:
    """What the API server says when the operator writes the object, as a dry run; nothing if it is taken."""
    body = obj | {"metadata": obj["metadata"] | {"namespace": namespace}}
    try:
        cluster.kubectl(verb, "--as", OPERATOR, "--dry-run=server", "-f", "-", input=json.dumps(body))
    except Failed as refused:
        return str(refused)
    return ""


def patch(cluster: ControlPlane, body: Object, *more: str, person: str = OPERATOR) -> str:
    """What the API server says when the operator patches the gateway's Pod; nothing if it is taken."""
    arguments = ("patch", "pod", "gateway", "-n", NAMESPACE, "--as", person, "--dry-run=server", *more)
    try:
        cluster.kubectl(*arguments, "--type=strategic", "-p", json.dumps(body))
    except Failed as refused:
        return str(refused)
    return ""


IMAGE = {"spec": {"containers": [{"name": "a", "image": "evil"}]}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"metadata": {"annotations": {"auditpipeline.dev/config": "another"}}}, ""),
        (IMAGE, CHANGES_ONLY),
        ({"spec": {"activeDeadlineSeconds": 1}}, CHANGES_ONLY),
        ({"metadata": {"labels": {"app.kubernetes.io/name": None}}}, CHANGES_ONLY),
        ({"metadata": {"annotations": {"example.com/anything": "x"}}}, CHANGES_ONLY),
        ({"metadata": {"finalizers": ["example.com/held"]}}, CHANGES_ONLY),
    ],
    ids=["its annotation", "image", "deadline", "label", "another annotation", "finalizer"],
)
def test_of_a_pod_the_operator_changes_its_annotation_alone(installed: ControlPlane, body: Object, said: str) -> None:
    """A gateway's Pod with another image would be root of its node. The administrator is not bound by this."""
    found = patch(installed, body)
    assert said in found if said else found == ""
    assert CHANGES_ONLY not in patch(installed, body, person="admin")


@pytest.mark.parametrize("subresource", ["ephemeralcontainers", "status", "resize"])
def test_what_else_there_is_of_a_pod_is_not_the_operators(installed: ControlPlane, subresource: str) -> None:
    """Each is a permission of its own, and was not given."""
    assert "forbidden" in patch(installed, {"metadata": {}}, f"--subresource={subresource}")


@pytest.mark.parametrize("namespace", [NAMESPACE, RECEIVERS, "audit"])
def test_the_operators_own_statefulset_is_taken(installed: ControlPlane, namespace: str) -> None:
    """With everything that a pipeline can ask for."""
    assert answer(installed, STATEFULSET, namespace) == ""


POD_SPEC = "spec.template.spec"
PRIVILEGED = changed(STATEFULSET, f"{POD_SPEC}.containers.0.securityContext.privileged", True)
HOST_PATH = changed(STATEFULSET, f"{POD_SPEC}.volumes.0", {"name": "config", "hostPath": {"path": "/"}})
TOKEN = {"name": "config", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}


@pytest.mark.parametrize(
    ("obj", "said"),
    [
        (changed(STATEFULSET, f"{POD_SPEC}.hostNetwork", True), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.hostPID", True), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.hostIPC", True), NOTHING_OF_A_NODE),
        (HOST_PATH, NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.volumes.0", TOKEN), NOTHING_OF_A_NODE),
        (
            changed(PRIVILEGED, f"{POD_SPEC}.containers.0.securityContext.allowPrivilegeEscalation", True),
            NOTHING_OF_A_NODE,
        ),
        (
            changed(STATEFULSET, f"{POD_SPEC}.containers.0.securityContext.capabilities", {"add": ["SYS_ADMIN"]}),
            NOTHING_OF_A_NODE,
        ),
        (changed(STATEFULSET, f"{POD_SPEC}.containers.0.securityContext.runAsUser", 0), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.securityContext.runAsNonRoot", False), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.containers.0.securityContext", {}), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.initContainers", [CONTAINER]), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.containers.0.ports.0.hostPort", 8443), NOTHING_OF_A_NODE),
        (changed(STATEFULSET, f"{POD_SPEC}.serviceAccountName", "auditpipeline-operator"), ITS_OWN_ACCOUNT),
        (changed(STATEFULSET, f"{POD_SPEC}.automountServiceAccountToken", True), ITS_OWN_ACCOUNT),
        (changed(STATEFULSET, "metadata.name", "shell"), ITS_OWN_ACCOUNT),
    ],
    ids=[
        *(
            "hostNetwork",
            "hostPID",
            "hostIPC",
            "hostPath",
            "token",
            "privileged",
            "capabilities",
            "root",
            "may be root",
        ),
        *("no securityContext", "initContainer", "hostPort", "another's account", "with a token", "another name"),
    ],
)
def test_no_statefulset_of_the_operator_gets_at_a_node(installed: ControlPlane, obj: Object, said: str) -> None:
    """Where Pod Security would let it: in its own namespace, and in one of its users'."""
    for namespace in (NAMESPACE, "audit"):
        assert said in answer(installed, obj, namespace)


def test_an_update_is_judged_as_a_creation_is(installed: ControlPlane) -> None:
    """By whatever verb."""
    # Without an owner, which the garbage collector would not find.
    stored = STATEFULSET | {"metadata": {"name": "audit-shop", "namespace": "audit"}}
    installed.kubectl("apply", "-f", "-", input=json.dumps(stored))
    arguments = ("patch", "statefulset", "audit-shop", "-n", "audit", "--as", OPERATOR, "--type=merge", "-p")
    with pytest.raises(Failed, match=NOTHING_OF_A_NODE):
        installed.kubectl(*arguments, json.dumps({"spec": {"template": {"spec": {"hostNetwork": True}}}}))
    installed.kubectl(*arguments, json.dumps({"spec": {"replicas": 2}}))


def test_the_operator_makes_no_token_of_a_service_account(installed: ControlPlane) -> None:
    """It could read the Secret afterwards."""
    meta = {"name": "audit-token", "annotations": {"kubernetes.io/service-account.name": "default"}}
    token = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/service-account-token"}
    for namespace in (NAMESPACE, RECEIVERS, "audit"):
        assert "never the token of a ServiceAccount" in answer(installed, token, namespace)
        assert answer(installed, desired.secret({"name": "audit-shop-config"}, {"config.json": b"{}"}), namespace) == ""


def test_a_secret_of_the_operators_namespace_is_no_output_of_an_old_pipeline_for_others(
    installed: ControlPlane,
) -> None:
    """With receivers.legacy a stored pipeline may have its receivers there: whoever changes it has to be allowed to
    read Secrets in both namespaces; a new one is surely apart."""
    installed.kubectl("create", "clusterrole", "writer", "--verb=*", "--resource=auditpipelines.auditpipeline.dev")
    installed.kubectl("create", "clusterrolebinding", "dave", "--clusterrole=writer", "--user=dave")
    _may_read_secrets(installed, "dave", RECEIVERS)
    installed.wait_for("permissions", lambda: not _written(installed, "create", REFERENCE), 30)
    installed.kubectl("create", "-f", "-", input=json.dumps(PLAIN))
    assert "those may ask for who may get Secrets there" in _written(installed, "apply", REFERENCE)
    _may_read_secrets(installed, "dave", NAMESPACE)
    installed.wait_for("permissions", lambda: not _written(installed, "apply", REFERENCE), 30)


def _may_read_secrets(cluster: ControlPlane, person: str, namespace: str) -> None:
    cluster.kubectl("create", "role", person, "-n", namespace, "--verb=get", "--resource=secrets")
    cluster.kubectl("create", "rolebinding", person, "-n", namespace, f"--role={person}", f"--user={person}")


def _written(cluster: ControlPlane, verb: str, obj: Object) -> str:
    try:
        cluster.kubectl(verb, "--as", "dave", "--dry-run=server", "-f", "-", input=json.dumps(obj))
    except Failed as refused:
        return str(refused)
    return ""


ALLOWED: list[tuple[str, str, bool]] = [
    ("create pods", NAMESPACE, False),
    ("create pods", RECEIVERS, False),
    ("delete pods", RECEIVERS, False),
    ("create pods/exec", NAMESPACE, False),
    ("create serviceaccounts/token", RECEIVERS, False),
    ("patch daemonsets", NAMESPACE, False),
    ("patch deployments", NAMESPACE, False),
    ("delete secrets", NAMESPACE, False),
    ("delete secrets", RECEIVERS, False),
    ("get secrets", "default", False),
    ("get secrets", "kube-system", False),
    ("create rolebindings", NAMESPACE, False),
    ("patch validatingadmissionpolicies", "", False),
    ("patch auditpipelines", "", False),
    ("create auditpipelines", "", False),
    ("impersonate users", "", False),
    ("get secrets", RECEIVERS, True),
    ("create statefulsets", RECEIVERS, True),
]


@pytest.mark.parametrize(("what", "namespace", "allowed"), ALLOWED)
def test_what_the_operator_may_and_may_not(installed: ControlPlane, what: str, namespace: str, allowed: bool) -> None:
    """As the API server's authorizer says, not as we read our own Roles."""
    assert _may(installed, what, namespace) is allowed


def test_in_its_own_namespace_it_makes_nothing_that_makes_a_pod() -> None:
    """Unless receivers of an earlier release are there (`receivers.legacy`), which a policy bounds too."""
    rights = {right for right in granted(installed_objects()) if right.namespace == NAMESPACE}
    written = {right.resource for right in rights if right.verb not in ("get", "list", "watch")}
    assert written == {"secrets", "pods", "configmaps", "leases"}
    assert {right.verb for right in rights if right.resource == "pods"} == {"list", "watch", "patch"}


@pytest.mark.parametrize(("version", "patch"), [("1.29.9", False), ("1.30.0", True)])
def test_where_no_policy_bounds_it_the_operator_may_not_patch_pods(helm: str, version: str, patch: bool) -> None:
    """But for those of the namespace of receivers, which have no privilege whatever image they run."""
    values = ("--set", "receivers.legacy=true,targetNamespaces={audit}", "--kube-version", version)
    rights = granted(template(helm, *values))
    may = {right.namespace for right in rights if (right.resource, right.verb) == ("pods", "patch")}
    assert may == ({NAMESPACE, RECEIVERS, "audit"} if patch else {RECEIVERS})


def _may(cluster: ControlPlane, what: str, namespace: str) -> bool:
    verb, _, resource = what.partition(" ")
    resource, _, subresource = resource.partition("/")
    place = ("-n", namespace) if namespace else ("--all-namespaces",)
    flags = (f"--subresource={subresource}", "--as", OPERATOR)
    command = cluster.kubectl_command("auth", "can-i", verb, resource, *flags, *place)
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    return {"yes": True, "no": False}[said]

"""The Helm chart: lints, validates with every set of values, and does what its values say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from auditpipeline.control import names
from auditpipeline.core import packing
from tests.manifests.lint import VALUE_SETS, lint, problems
from tests.manifests.render import (
    CHART,
    CRD_FILES,
    CRDS,
    NAMESPACE,
    OBJECTS,
    RECEIVERS,
    Object,
    Refused,
    install,
    template,
)

pytestmark = pytest.mark.controlplane  # for helm, which is built once like the cluster's programs


def named(objects: list[Object], kind: str, name: str = "auditpipeline-operator", namespace: str = NAMESPACE) -> Object:
    """The one object of that kind and name (and namespace, where it has one)."""
    found = [
        obj
        for obj in objects
        if (obj["kind"], obj["metadata"]["name"], obj["metadata"].get("namespace", namespace))
        == (kind, name, namespace)
    ]
    assert len(found) == 1, f"{len(found)} x {kind} {namespace}/{name}"
    return found[0]


def kinds(objects: list[Object]) -> set[str]:
    """The kinds among the objects."""
    return {obj["kind"] for obj in objects}


def crd_names(objects: list[Object]) -> set[str]:
    """The names of the CRDs among the objects."""
    return {obj["metadata"]["name"] for obj in objects if obj["kind"] == "CustomResourceDefinition"}


def container(objects: list[Object]) -> Object:
    """The operator's container."""
    found: Object = named(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def test_nothing_is_wrong_with_any_set_of_values(helm: str) -> None:
    """helm lint --strict, schemas of Kubernetes, and no '*' in a permission."""
    assert list(lint(helm)) == []


def test_the_lint_itself_finds_what_is_wrong() -> None:
    """A misspelt field and a permission without bounds."""
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "a"}}
    rules = [{"apiGroups": [""], "resources": ["*"], "verbs": ["get"]}]
    assert list(problems(role | {"rules": rules})) == ["Role a: '*' in a permission"]
    assert "roles" in next(problems(role | {"roles": []}))


def test_the_install_manifests_are_the_chart(helm: str) -> None:
    """`make manifests` was run after the last change."""
    assert install(helm) == OBJECTS.read_text()


@pytest.mark.parametrize("values", VALUE_SETS)
def test_every_object_is_in_the_release_or_outside_of_namespaces(helm: str, values: str) -> None:
    """Nothing lands in the namespace that kubectl happens to be set to; other namespaces get a Role at most."""
    for obj in template(helm, *VALUE_SETS[values]):
        namespace = obj["metadata"].get("namespace")
        if namespace is None:
            assert obj["kind"].startswith(("Cluster", "CustomResource", "ValidatingAdmission", "Namespace"))
        elif namespace != NAMESPACE:
            assert obj["kind"] in ("Role", "RoleBinding")


def test_the_crds_are_those_of_the_repository_and_stay_at_uninstall(helm: str) -> None:
    """Spec and annotations as in crds/, and the annotation that keeps them."""
    objects = template(helm)
    for file in CRD_FILES:
        source = yaml.safe_load((CRDS / file).read_text())
        found = named(objects, "CustomResourceDefinition", source["metadata"]["name"])
        assert found["spec"] == source["spec"]
        keep = {"helm.sh/resource-policy": "keep"}
        assert found["metadata"]["annotations"] == source["metadata"].get("annotations", {}) | keep


@pytest.mark.parametrize(
    ("version", "value", "installed"),
    [
        ("1.18.20", "auto", False),
        ("1.19.0", "auto", True),
        ("1.37.0-gke.1", "auto", True),
        ("1.18.20", "true", True),
        ("1.37.0", "false", False),
    ],
)
def test_the_auditsink_crd_is_for_clusters_without_one(helm: str, version: str, value: str, installed: bool) -> None:
    """By version, and by force either way."""
    objects = template(helm, "--kube-version", version, "--set", f"crds.auditSink={value}")
    assert ("auditsinks.auditregistration.k8s.io" in crd_names(objects)) == installed


def test_the_auditsink_crd_stays_when_the_api_serves_it_already(helm: str) -> None:
    """An upgrade, or a renderer that asks the cluster, must not take our own CRD for the built-in kind."""
    objects = template(helm, "--api-versions", "auditregistration.k8s.io/v1alpha1/AuditSink")
    assert "auditsinks.auditregistration.k8s.io" in crd_names(objects)


@pytest.mark.parametrize(
    ("version", "value", "installed"),
    [("1.29.9", "auto", False), ("1.30.0", "auto", True), ("1.37.0", "false", False), ("1.29.9", "true", True)],
)
def test_the_admission_policies_are_for_clusters_that_serve_them(
    helm: str, version: str, value: str, installed: bool
) -> None:
    """By version, and by force either way."""
    objects = template(helm, "--kube-version", version, "--set", f"admissionPolicy.enabled={value}")
    assert ("ValidatingAdmissionPolicy" in kinds(objects)) == installed


@pytest.mark.parametrize(
    ("version", "values", "flag"),
    [
        ("1.18.20", "gateway.enabled=false", "refuse"),
        ("1.29.9", "redaction.allowOptOut=false", "refuse"),
        ("1.29.9", "redaction=null", "refuse"),
        ("1.29.9", "redaction.allowOptOut=true", "allow"),
        ("1.29.9", "admissionPolicy.enabled=true", "allow"),
        ("1.30.0", "redaction.allowOptOut=false", "allow"),
        ("1.30.0", "redaction=null", "allow"),
        ("1.37.0", "admissionPolicy.enabled=false", "refuse"),
        ("1.37.0", "admissionPolicy.enabled=false,redaction.allowOptOut=true", "allow"),
    ],
)
def test_where_no_policy_asks_who_opts_out_the_operator_refuses(
    helm: str, version: str, values: str, flag: str
) -> None:
    """Unless `redaction.allowOptOut` says otherwise, which values of an earlier release do not have."""
    objects = template(helm, "--kube-version", version, "--set", values)
    assert [each for each in container(objects)["args"] if "opt-out" in each] == [f"--redaction-opt-out={flag}"]
    assert flag == "allow" or "ValidatingAdmissionPolicy" not in kinds(objects)


def test_target_namespaces_get_a_role_each_and_the_operator_serves_them(helm: str) -> None:
    """The same permissions as in the namespace of receivers, for the operator of the release's namespace."""
    objects = template(helm, "--set", "targetNamespaces={audit,security}")
    rules = named(objects, "Role", namespace=RECEIVERS)["rules"]
    for namespace in ("audit", "security"):
        assert named(objects, "Role", namespace=namespace)["rules"] == rules
        subjects = named(objects, "RoleBinding", namespace=namespace)["subjects"]
        assert subjects == [{"kind": "ServiceAccount", "name": "auditpipeline-operator", "namespace": NAMESPACE}]
        assert f"--watch-namespace={namespace}" in container(objects)["args"]


def test_a_namespace_that_is_named_twice_gets_one_role(helm: str) -> None:
    """No object is made twice."""
    objects = template(helm, "--set", f"targetNamespaces={{{NAMESPACE},{RECEIVERS}}},receivers.legacy=true")
    for namespace in (NAMESPACE, RECEIVERS):
        named(objects, "Role", namespace=namespace)


def test_receivers_live_apart_and_restricted(helm: str) -> None:
    """In a namespace of the chart's own, which stays when the chart goes: its claims may hold events."""
    meta = named(template(helm), "Namespace", RECEIVERS)["metadata"]
    levels = {label: value for label, value in meta["labels"].items() if label.startswith("pod-security")}
    assert levels == {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    assert meta["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert f"--receivers-namespace={RECEIVERS}" in container(template(helm))["args"]


def test_a_namespace_of_receivers_may_be_there_already(helm: str) -> None:
    """Then its permissions are made in it, and it is left alone."""
    objects = template(helm, "--set", "receivers.namespace=audit,receivers.create=false")
    assert "Namespace" not in kinds(objects)
    named(objects, "Role", namespace="audit")
    assert "--receivers-namespace=audit" in container(objects)["args"]


def test_receivers_beside_a_privileged_gateway_are_refused(helm: str) -> None:
    """A gateway behind a Service needs no privilege, so that one namespace may do."""
    with pytest.raises(Refused, match=r"receivers\.namespace: the gateway's namespace has to allow privileged Pods"):
        template(helm, "--set", f"receivers.namespace={NAMESPACE}")
    objects = template(helm, *VALUE_SETS["one namespace"])
    assert "Namespace" not in kinds(objects)
    named(objects, "Role")


@pytest.mark.parametrize(("value", "served"), [("true", True), ("false", False), ("auto", False)])
def test_receivers_of_an_earlier_release_are_looked_after_by_choice(helm: str, value: str, served: bool) -> None:
    """`auto` asks the cluster, which `helm template` cannot; tests/manifests/test_release.py does."""
    objects = template(helm, "--set", f"receivers.legacy={value}")
    own = [obj for obj in objects if obj["kind"] == "Role" and obj["metadata"]["name"] == "auditpipeline-operator"]
    assert (NAMESPACE in [role["metadata"]["namespace"] for role in own]) == served
    assert ("--legacy-receivers" in container(objects)["args"]) == served


def test_the_operator_listens_by_https_and_its_probes_know(helm: str) -> None:
    """There is no port without TLS."""
    found = container(template(helm))
    probes = [found[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert [(probe["scheme"], probe["port"]) for probe in probes] == [("HTTPS", "https")] * 3
    assert [port["name"] for port in found["ports"]] == ["https"]
    assert not [argument for argument in found["args"] if "token" in argument]
    assert "volumeMounts" not in found


def test_the_token_of_metrics_is_mounted_from_a_secret(helm: str) -> None:
    """Its name is in the chart's values, and its content nowhere."""
    objects = template(helm, "--set", "metrics.tokenSecret=scraper,metrics.tokenKey=bearer")
    assert "--metrics-token-file=/etc/auditpipeline/metrics/bearer" in container(objects)["args"]
    (mount,) = container(objects)["volumeMounts"]
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/auditpipeline/metrics", True)
    assert pod["volumes"] == [{"name": mount["name"], "secret": {"secretName": "scraper"}}]


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ("image.repository=registry.example/ap", "registry.example/ap:0.1.0"),
        ("image.tag=1.2.3", "auditpipeline:1.2.3"),
        ("image.tag=1.2.3,image.digest=sha256:" + "a" * 64, "auditpipeline@sha256:" + "a" * 64),
    ],
)
def test_one_image_is_used_everywhere(helm: str, values: str, image: str) -> None:
    """Operator, gateway, its init container, and the webhook Pods that the operator makes."""
    objects = template(helm, "--set", values)
    pod = named(objects, "DaemonSet", "auditpipeline-gateway")["spec"]["template"]["spec"]
    variables = {variable["name"]: variable.get("value") for variable in container(objects)["env"]}
    used = [container(objects), *pod["containers"], *pod["initContainers"]]
    assert {each["image"] for each in used} | {variables["AUDITPIPELINE_IMAGE"]} == {image}


def test_without_the_gateway_the_operator_knows(helm: str) -> None:
    """No Pods of whatever kind, and no configuration rendered for them."""
    objects = template(helm, "--set", "gateway.enabled=false,gateway.kind=StatefulSet")
    assert not {"DaemonSet", "StatefulSet", "Service"} & kinds(objects)
    assert "--no-gateway" in container(objects)["args"]


BEHIND_SERVICE = VALUE_SETS["gateway behind a Service"]


def gateway(objects: list[Object], kind: str) -> Object:
    """The specification of the gateway's Pods."""
    found: Object = named(objects, kind, "auditpipeline-gateway")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("kind", ["DaemonSet", "StatefulSet"])
def test_the_gateway_has_no_token(helm: str, kind: str) -> None:
    """Nor has its ServiceAccount a permission."""
    objects = template(helm, "--set", f"gateway.kind={kind}")
    assert gateway(objects, kind)["automountServiceAccountToken"] is False
    assert named(objects, "ServiceAccount", "auditpipeline-gateway")["automountServiceAccountToken"] is False
    bound = [
        subject["name"] for obj in objects if obj["kind"].endswith("Binding") for subject in obj.get("subjects", ())
    ]
    assert set(bound) == {"auditpipeline-operator"}


def test_the_gateway_is_on_the_control_plane_nodes_by_default(helm: str) -> None:
    """With every taint tolerated, on their network, and with no Service before it."""
    objects = template(helm)
    pod = gateway(objects, "DaemonSet")
    assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["hostNetwork"] is True
    assert not {"StatefulSet", "Service", "PodDisruptionBudget"} & kinds(objects)
    assert "--gateway-kind=DaemonSet" in container(objects)["args"]


def test_the_gateway_behind_a_service_needs_nothing_of_a_node(helm: str) -> None:
    """No host network, no folder of the host, no root, no node of the control plane."""
    objects = template(helm, "--set", "gateway.kind=StatefulSet")
    pod = gateway(objects, "StatefulSet")
    assert not {"hostNetwork", "initContainers", "nodeSelector", "tolerations"} & pod.keys()
    assert [volume["name"] for volume in pod["volumes"] if not {"secret", "projected"} & volume.keys()] == []
    assert "DaemonSet" not in kinds(objects)
    (only,) = pod["containers"]
    assert [port for port in only["ports"] if "hostPort" in port] == []
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("kind", ["DaemonSet", "StatefulSet"])
def test_the_gateway_mounts_every_secret_of_its_configuration(helm: str, kind: str) -> None:
    """From the beginning, whether they are there or not: one that comes later must not make the Pods anew."""
    pod = gateway(template(helm, "--set", f"gateway.kind={kind}"), kind)
    (volume,) = (each["projected"] for each in pod["volumes"] if "projected" in each)
    wanted = [names.gateway_config_secret(number) for number in range(packing.SHARDS)]
    assert volume == {"sources": [{"secret": {"name": name, "optional": True}} for name in wanted]}


def test_each_pod_behind_the_service_has_a_claim_of_its_own(helm: str) -> None:
    """Two processes cannot share a spool. The operator is told how large it is."""
    objects = template(helm, *BEHIND_SERVICE)
    spec = named(objects, "StatefulSet", "auditpipeline-gateway")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    assert (claim["spec"]["storageClassName"], spec["replicas"]) == ("fast", 3)
    mounts = {mount["name"]: mount for mount in gateway(objects, "StatefulSet")["containers"][0]["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]]["mountPath"] == names.DATA_FOLDER
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    assert {"--gateway-kind=StatefulSet", "--gateway-storage-size=10Gi"} <= set(container(objects)["args"])


def test_without_claims_the_spool_goes_with_the_pod(helm: str) -> None:
    """Which the value says, and bounds."""
    objects = template(helm, *VALUE_SETS["gateway without claims"])
    assert "volumeClaimTemplates" not in named(objects, "StatefulSet", "auditpipeline-gateway")["spec"]
    assert {"name": "spool", "emptyDir": {"sizeLimit": "10Gi"}} in gateway(objects, "StatefulSet")["volumes"]


def test_the_service_has_the_address_that_kube_apiserver_was_told(helm: str) -> None:
    """It leads to the Pods' audit port, and to nothing else of them."""
    objects = template(helm, *BEHIND_SERVICE)
    service = named(objects, "Service", "auditpipeline-gateway")["spec"]
    assert (service["type"], service["clusterIP"]) == ("ClusterIP", "10.96.0.9")
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(443, "audit")]
    labels = named(objects, "StatefulSet", "auditpipeline-gateway")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in gateway(objects, "StatefulSet")["containers"][0]["ports"]}
    assert ports == {"audit": names.GATEWAY_AUDIT_PORT, "ops": names.GATEWAY_OPS_PORT}
    assert (
        "clusterIP"
        not in named(template(helm, "--set", "gateway.kind=StatefulSet"), "Service", "auditpipeline-gateway")["spec"]
    )


def test_the_secret_of_bootstrap_is_what_the_pods_mount(helm: str) -> None:
    """Under the names that the configuration has, and unreadable for others."""
    (volume,) = (
        each
        for each in gateway(template(helm, *BEHIND_SERVICE), "StatefulSet")["volumes"]
        if "defaultMode" in each.get("secret", {})
    )
    assert volume["secret"] == {"secretName": names.GATEWAY_BOOTSTRAP_SECRET, "defaultMode": 0o440}


@pytest.mark.parametrize(("version", "api"), [("1.20.15", "policy/v1beta1"), ("1.21.0", "policy/v1")])
def test_the_gateways_budget_is_of_a_version_that_is_served(helm: str, version: str, api: str) -> None:
    """One Pod at a time may be evicted."""
    objects = template(helm, "--kube-version", version, *BEHIND_SERVICE)
    budget = named(objects, "PodDisruptionBudget", "auditpipeline-gateway")
    assert (budget["apiVersion"], budget["spec"]["maxUnavailable"]) == (api, 1)


def test_an_empty_selector_means_any_node(helm: str) -> None:
    """Only what is not given is the kind's own default."""
    pod = gateway(template(helm, "--set-json", "gateway.nodeSelector={},gateway.tolerations=[]"), "DaemonSet")
    assert not {"nodeSelector", "tolerations"} & pod.keys()


@pytest.mark.parametrize(
    "values",
    [
        "gateway.enable=true",
        "replicas=2",
        "operator.replicas=two",
        "crds.auditSink=maybe",
        "image.pullPolicy=Sometimes",
        "image.digest=sha256:abc",
        "servicePort=0",
        "targetNamespaces={Not_A_Label}",
        "gateway.hostPaths.spool=relative",
        "gateway.kind=Deployment",
        "gateway.replicas=0",
        "gateway.service.clusterIP=None",
        "gateway.storage.size=1Ei",
        "receivers.namespace=Not_A_Label",
        "receivers.namespace=",
        "receivers.legacy=perhaps",
        "redaction.allowOptOut=auto",
        "redaction.optOut=true",
        "networkPolicy.nodes={10.0.0.1}",
        "networkPolicy.outputPorts={0}",
        "metrics.tokenSecret=Not_A_Name",
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: str, values: str) -> None:
    """values.schema.json is strict."""
    with pytest.raises(Refused, match="values don't meet the specifications of the schema"):
        template(helm, "--set", values)


def leaves(values: Object, path: str = "") -> dict[str, Any]:
    """Every value by its path; resources, selectors and lists are values themselves."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value and name not in ("resources", "nodeSelector")
        found |= leaves(value, f"{path}{name}.") if inner else {path + name: value}
    return found


def comments() -> dict[str, str]:
    """The comment over each value of values.yaml, by the value's path."""
    found: dict[str, str] = {}
    section: list[str] = []
    comment = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        name = re.match(r"( *)([\w./-]+):", line)
        if line.lstrip().startswith("#"):
            comment = f"{comment} {line.strip(' #')}".strip()
        elif name:
            section = [*section[: len(name[1]) // 2], name[2]]
            found[".".join(section)] = comment
        if not line.lstrip().startswith("#"):
            comment = ""
    return found


def test_every_value_has_a_comment_and_a_line_in_the_readme() -> None:
    """The table of README.md is values.yaml: paths, defaults and comments."""
    told = comments()
    table = re.findall(r"^\| `([\w.]+)` \| `(.*)` \| (.*) \|$", (CHART / "README.md").read_text(), re.MULTILINE)
    expected = leaves(yaml.safe_load((CHART / "values.yaml").read_text()))
    assert [(name, json.loads(default), text) for name, default, text in table] == [
        (name, default, told[name]) for name, default in expected.items()
    ]
    assert all(text for _, _, text in table)

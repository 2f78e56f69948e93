"""The Helm chart: lints, validates with every set of values, and does what its values say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.manifests.lint import VALUE_SETS, lint, problems
from tests.manifests.render import CHART, CRD_FILES, CRDS, NAMESPACE, OBJECTS, Object, Refused, install, template

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
            assert obj["kind"].startswith(("Cluster", "CustomResource", "ValidatingAdmission"))
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


def test_target_namespaces_get_a_role_each_and_the_operator_serves_them(helm: str) -> None:
    """The same permissions as in the release's namespace, for the operator of the release's namespace."""
    objects = template(helm, "--set", "targetNamespaces={audit,security}")
    rules = named(objects, "Role")["rules"]
    for namespace in ("audit", "security"):
        assert named(objects, "Role", namespace=namespace)["rules"] == rules
        subjects = named(objects, "RoleBinding", namespace=namespace)["subjects"]
        assert subjects == [{"kind": "ServiceAccount", "name": "auditpipeline-operator", "namespace": NAMESPACE}]
        assert f"--watch-namespace={namespace}" in container(objects)["args"]


def test_the_release_namespace_among_the_target_namespaces_changes_nothing(helm: str) -> None:
    """No object is made twice."""
    named(template(helm, "--set", f"targetNamespaces={{{NAMESPACE}}}"), "Role")


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
    """No DaemonSet, and no configuration rendered for one."""
    objects = template(helm, "--set", "gateway.enabled=false")
    assert "DaemonSet" not in kinds(objects)
    assert "--no-gateway" in container(objects)["args"]


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

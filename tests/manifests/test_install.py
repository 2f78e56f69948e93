"""manifests/install: the chart's objects for `kubectl apply -k`, complete and current. Needs no cluster."""

from __future__ import annotations

import pytest
import yaml

from tests.manifests.lint import problems
from tests.manifests.render import INSTALL, NAMESPACE, OBJECTS, RECEIVERS, Object, copies, documents

FILES = ("namespace.yaml", "crds.yaml", "auditpipeline.yaml")
INSTALLED: list[Object] = [obj for file in FILES for obj in documents((INSTALL / file).read_text())]


def test_copies_of_the_crds_are_current() -> None:
    """`make manifests` was run after the last change of crds/."""
    assert [path.name for path, text in copies().items() if path.read_text() != text] == []


def test_kustomization_names_every_file() -> None:
    """Nothing in the folder is left out."""
    kustomization = yaml.safe_load((INSTALL / "kustomization.yaml").read_text())
    assert kustomization["resources"] == list(FILES)
    assert {path.name for path in INSTALL.iterdir()} == {*FILES, "kustomization.yaml"}


@pytest.mark.parametrize("obj", INSTALLED, ids=lambda obj: f"{obj['kind']}-{obj['metadata']['name']}")
def test_every_object_is_valid(obj: Object) -> None:
    """Schemas of Kubernetes, and no '*' in a permission."""
    assert list(problems(obj)) == []


def test_nothing_speaks_of_helm() -> None:
    """Objects of kubectl do not claim to be Helm's."""
    assert "helm" not in OBJECTS.read_text().lower()


def test_the_namespaces_are_those_that_the_objects_are_in() -> None:
    """Pod Security lets the gateway in, and nothing beside it where receivers are."""
    found = {obj["metadata"]["name"]: obj["metadata"]["labels"] for obj in INSTALLED if obj["kind"] == "Namespace"}
    levels = {name: labels["pod-security.kubernetes.io/enforce"] for name, labels in found.items()}
    assert levels == {NAMESPACE: "privileged", RECEIVERS: "restricted"}
    assert {obj["metadata"].get("namespace", NAMESPACE) for obj in INSTALLED} == {NAMESPACE, RECEIVERS, "default"}


def test_nobody_is_given_the_role_for_urls() -> None:
    """It is the administrator's to give; no binding and no aggregation hands it on."""
    name = "auditpipeline-sink-urls"
    (role,) = [each for each in INSTALLED if each["kind"] == "ClusterRole" and each["metadata"]["name"] == name]
    assert role["rules"] == [
        {"apiGroups": ["auditregistration.k8s.io"], "resources": ["auditsinks/url"], "verbs": ["use"]}
    ]
    assert not [label for label in role["metadata"]["labels"] if label.startswith("rbac.authorization.k8s.io/")]
    assert not [each for each in INSTALLED if each.get("roleRef", {}).get("name") == name]

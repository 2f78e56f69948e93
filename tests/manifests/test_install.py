"""manifests/install: the chart's objects for `kubectl apply -k`, complete and current. Needs no cluster."""

from __future__ import annotations

import pytest
import yaml

from tests.manifests.lint import problems
from tests.manifests.render import INSTALL, NAMESPACE, OBJECTS, Object, copies, documents

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


def test_the_namespace_is_the_one_that_the_objects_are_in() -> None:
    """And Pod Security lets the gateway in."""
    (namespace,) = (obj for obj in INSTALLED if obj["kind"] == "Namespace")
    assert namespace["metadata"]["name"] == NAMESPACE
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert {obj["metadata"].get("namespace", NAMESPACE) for obj in INSTALLED} == {NAMESPACE, "default"}

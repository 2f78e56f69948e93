"""The CRDs against those of the release before, whose operator refuses stored fields that it does not know.

Nobody takes CRDs back: after a rollback, or while an upgrade is under way, that operator works with these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import previous
from tests.manifests.objects import ROOT

FILES = ("auditpipelines.yaml", "auditsinks.yaml")
SMALL: dict[str, list[dict[str, Any]]] = {
    "auditpipelines.yaml": [
        {
            "metadata": {"name": "a"},
            "spec": {
                "policy": {"rules": [{"level": "Metadata"}]},
                "outputs": [
                    {"name": "a", "stdout": {}},
                    {"name": "b", "file": {"path": "/var/log/audit/b.jsonl"}},
                    {"name": "c", "http": {"url": "https://siem.example/"}},
                ],
                "webhook": {"storage": {"size": "20Gi"}, "spool": {}},
            },
        }
    ],
    "auditsinks.yaml": [
        {
            "metadata": {"name": "a"},
            "spec": {
                "policy": {"level": "Metadata", "stages": ["ResponseComplete"], "rules": [{"level": "Metadata"}]},
                "webhook": {"clientConfig": {"service": {"namespace": "a", "name": "b"}}},
            },
        }
    ],
}


def schema(path: Path) -> dict[str, Any]:
    """The schema of `spec`."""
    crd = yaml.safe_load(path.read_text())
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def fields(node: dict[str, Any], path: str = "spec") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field below a schema, by its path."""
    for name, inner in node.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from fields(inner, f"{path}.{name}")
    if isinstance(node.get("items"), dict):
        yield from fields(node["items"], f"{path}[]")


def defaulted(value: Any, node: dict[str, Any]) -> Any:
    """What an API server stores of a value (structural defaulting)."""
    if isinstance(value, list):
        return [defaulted(item, node.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    inner = node.get("properties", {})
    whole = {name: field["default"] for name, field in inner.items() if "default" in field} | value
    return {name: defaulted(content, inner.get(name, {})) for name, content in whole.items()}


@pytest.mark.parametrize("file", FILES)
def test_a_field_that_is_new_has_no_default(file: str) -> None:
    """It would be in every stored object, and the operator of the release before stops at it."""
    before = {path for path, _ in fields(schema(previous.folder() / "manifests/chart/files/crds" / file))}
    now = {path for path, field in fields(schema(ROOT / "crds" / file)) if "default" in field}
    assert now - before == set()


@pytest.mark.parametrize("file", FILES)
def test_the_release_before_reads_what_these_crds_store(file: str) -> None:
    """With every default in it."""
    code = (
        "import json, sys; from auditpipeline.core.spec import parse_pipeline, parse_sink\n"
        "parse = parse_pipeline if sys.argv[1] == 'auditpipelines.yaml' else parse_sink\n"
        "print(json.dumps([parse(each).metadata.name for each in json.load(sys.stdin)]))"
    )
    stored = [each | {"spec": defaulted(each["spec"], schema(ROOT / "crds" / file))} for each in SMALL[file]]
    assert stored != SMALL[file]
    assert previous.ask(code, stored, file) == ["a"]

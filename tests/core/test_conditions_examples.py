"""The examples of docs/conditions.md and manifests/examples/conditions.yaml: what each keeps, and what it does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from auditpipeline.core.conditions.fields import EVENT as FIELDS
from auditpipeline.core.conditions.program import compile_expression, problem_of
from auditpipeline.core.conditions.static import EACH, FUNCTIONS, METHODS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "conditions.md").read_text()
_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])


def examples() -> dict[str, str]:
    """The expressions of the table, by name."""
    table = GUIDE.split("## Examples")[1]
    found = re.findall(r"^\| `([a-z-]+)` \| `(.+)` \| [^|]+ \|$", table, re.MULTILINE)
    return {name: expression.replace(r"\|", "|") for name, expression in found}


EXAMPLES = examples()


def update(before: str | None, after: str | None) -> dict[str, Any]:
    """An update of an object, sent with one resourceVersion and answered with another."""
    sent, stored = ({"metadata": {"resourceVersion": version} if version else {}} for version in (before, after))
    return {"verb": "update", "requestObject": sent, "responseObject": stored}


KEPT: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "no-probes": ([{"userAgent": "kubectl/v1"}, {}], [{"userAgent": "kube-probe/1.34"}]),
    "no-controllers": ([{"userAgent": "kubectl/v1"}], [{"userAgent": "kube-scheduler/v1.34.0 (linux/amd64)"}]),
    "kubectl": (
        [{"userAgent": "kubectl/v1.34.0 (linux/amd64)"}, {"userAgent": "kubectl-argo_rollouts/v1"}],
        [{"userAgent": "curl/8 kubectl/v1"}, {}],
    ),
    "from-outside": (
        [{"sourceIPs": ["10.1.1.1", "203.0.113.9"]}],
        [{"sourceIPs": ["10.1.1.1"]}, {"sourceIPs": ["127.0.0.1"]}, {}],
    ),
    "refused": ([{"responseStatus": {"code": 403}}], [{"responseStatus": {"code": 200}}, {}]),
    "failed": (
        [{"stage": "ResponseComplete", "responseStatus": {"code": 409}}, {"stage": "RequestReceived"}],
        [{"stage": "ResponseComplete", "responseStatus": {"code": 201}}],
    ),
    "impersonated": ([{"impersonatedUser": {"username": "bob"}}], [{"user": {"username": "bob"}}]),
    "names": ([{"objectRef": {"name": "prod-db"}}], [{"objectRef": {"name": "dev-db"}}, {}]),
    "masters": ([{"user": {"groups": ["system:masters"]}}], [{"user": {"groups": ["dev"]}}, {}]),
    "allowed-by": (
        [
            {"annotations": {"authorization.k8s.io/reason": 'RBAC: allowed by ClusterRoleBinding "cluster-admin"'}},
            {},  # fails: kept
        ],
        [{"annotations": {"authorization.k8s.io/reason": 'RBAC: allowed by ClusterRoleBinding "view"'}}],
    ),
    "changed": (
        [
            update("7", "8"),
            update(None, "8"),
            update("7", None),
            {**update("7", "7"), "verb": "create"},
            {"verb": "update", "requestObject": {"metadata": {"resourceVersion": "7"}}},
            {"verb": "patch"},
        ],
        [update("7", "7"), {**update("7", "7"), "verb": "patch"}],
    ),
}


def test_each_example_has_its_test() -> None:
    """And none is tested that is not there."""
    assert EXAMPLES.keys() == KEPT.keys()


@pytest.mark.parametrize("name", KEPT)
def test_an_example_keeps_what_it_says(name: str) -> None:
    """And nothing that it should not."""
    decide = compile_expression(EXAMPLES[name]).decide
    kept, rejected = (
        [decide(_DECODER.decode(json.dumps(event)).get) is not False for event in events] for events in KEPT[name]
    )
    assert kept
    assert all(kept)
    assert rejected
    assert not any(rejected)


def test_the_example_pipeline_has_the_expressions_of_the_guide() -> None:
    """But for white space."""
    spec = yaml.safe_load((ROOT / "manifests" / "examples" / "conditions.yaml").read_text())["spec"]
    written = [*spec["matchConditions"], *(each for o in spec["outputs"] for each in o.get("matchConditions", ()))]
    assert len(written) > 3
    for condition in written:
        assert condition["expression"].split() == EXAMPLES[condition["name"]].split()


def test_the_guide_names_every_field_and_function() -> None:
    """And the beginning of it is a pipeline whose conditions compile."""
    spec = yaml.safe_load(GUIDE.split("```yaml\n")[1].split("```")[0])["spec"]
    for condition in (*spec["matchConditions"], *spec["outputs"][1]["matchConditions"]):
        assert problem_of(condition["expression"]) == ""
    section = GUIDE.split("## Fields")[1].split("## Bounds")[0]
    words = set(re.findall(r"[A-Za-z_]+", " ".join(re.findall(r"`[^`]+`", section))))
    below = (inner for fields in FIELDS.values() if isinstance(fields, dict) for inner in fields)
    assert {*FIELDS, *below, *EACH, *FUNCTIONS, *METHODS} <= words

"""manifests/examples: each one parses, is explained, and is taken by a real API server."""

from __future__ import annotations

import re

import pytest
import yaml
from click.testing import CliRunner

from auditpipeline.cli.policy import policy
from auditpipeline.core import presets
from auditpipeline.core.floor import FLOOR
from auditpipeline.core.spec import parse_pipeline
from tests.cluster.controlplane import ControlPlane
from tests.manifests.objects import ROOT, Object

EXAMPLES = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
PRESETS = [ROOT / "manifests" / "policies" / f"{name}.yaml" for name in presets.NAMES]


def objects(path: object) -> list[Object]:
    """The objects of one example."""
    return list(yaml.safe_load_all((ROOT / str(path)).read_text()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_one_pipeline_that_parses(path: object) -> None:
    """Named after its file, or close to it."""
    (pipeline,) = (parse_pipeline(obj) for obj in objects(path) if obj["kind"] == "AuditPipeline")
    assert pipeline.metadata.name in str(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_explained(path: object) -> None:
    """It opens with what it is for, and speaks up again further down."""
    text = (ROOT / str(path)).read_text()
    assert text.startswith("# ")
    assert len(re.findall(r"^ +# ", text, re.MULTILINE)) >= 3


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_secrets_are_never_recorded_with_their_bodies(path: object) -> None:
    """Examples are copied: no rule with bodies comes before one that holds Secrets at Metadata."""
    (pipeline,) = (parse_pipeline(obj) for obj in objects(path) if obj["kind"] == "AuditPipeline")
    for rule in (rule for rule in pipeline.spec.policy.written.rules if rule != FLOOR):
        if rule.level == "Metadata" and any("secrets" in entry.resources for entry in rule.resources):
            return
        assert rule.level in ("None", "Metadata")


@pytest.mark.parametrize("path", [*EXAMPLES, *PRESETS], ids=lambda path: path.stem)
def test_the_linter_finds_nothing_in_what_we_give_away(path: object) -> None:
    """Warnings count."""
    found = CliRunner().invoke(policy, ["lint", "--strict", str(path)])
    assert "nothing found in" in found.output


@pytest.mark.controlplane
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_an_example(crds: ControlPlane, path: object) -> None:
    """Server-side dry run, with field validation Strict, into the namespaces that it names."""
    for namespace in {obj["metadata"].get("namespace", "default") for obj in objects(path)} - {"default"}:
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        crds.kubectl("apply", "-f", "-", input=yaml.safe_dump(made))
    crds.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))

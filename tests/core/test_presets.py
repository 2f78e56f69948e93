"""A preset is a policy by its name, in a pipeline and in an output, wherever auditpipeline is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from auditpipeline.core.floor import FLOOR
from auditpipeline.core.policy import Policy, widest
from auditpipeline.core.policyfile import load
from auditpipeline.core.presets import NAMES, PresetName, preset
from auditpipeline.core.spec import Pipeline, parse_pipeline

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "manifests" / "policies"


def pipeline(policy: dict[str, Any], narrowed: dict[str, Any]) -> Pipeline:
    outputs = [{"name": "console", "stdout": {}, "policy": narrowed}]
    return parse_pipeline({"metadata": {"name": "a"}, "spec": {"policy": policy, "outputs": outputs}})


def test_every_file_is_a_preset() -> None:
    """And every preset is a file."""
    assert {path.stem for path in FOLDER.glob("*.yaml") if not path.name.endswith(".cases.yaml")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipeline_with_a_preset_is_one_with_its_rules(name: PresetName) -> None:
    """Level for level, stage for stage; for the pipeline and for an output."""
    path = FOLDER / f"{name}.yaml"
    written = load(path.read_bytes(), str(path)).policy
    spec = pipeline({"preset": name}, {"preset": name}).spec
    assert spec.policy.written == preset(name) == written
    assert spec.outputs[0].policy is not None
    assert spec.outputs[0].policy.effective == spec.policy.effective == written


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_records_bodies(name: PresetName) -> None:
    """Which the admission policy takes for granted: the chart's admission.yaml."""
    assert widest(Policy(tuple(rule for rule in preset(name).rules if rule != FLOOR))) >= 2


def test_the_wheel_holds_the_presets(tmp_path: Path) -> None:
    """Read from the wheel alone, with no source tree around it."""
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    assert {path.stem for path in (tmp_path / "installed" / "auditpipeline" / "presets").iterdir()} == set(NAMES)
    read = "from auditpipeline.core import presets\nprint([len(presets.preset(name).rules) for name in presets.NAMES])"
    # -I and -S keep the editable installation out; the dependencies are found again by their folder.
    setting = f"import sys\nsys.path[:0] = {[str(tmp_path / 'installed'), *_dependencies()]}\n"
    done = subprocess.run([sys.executable, "-ISc", setting + read], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str([len(preset(name).rules) for name in NAMES])


def _dependencies() -> list[str]:
    import msgspec

    return [str(Path(msgspec.__file__).parents[1])]

"""Policies to start from, by name: `spec.policy.preset` of an AuditPipeline.

They are the files of manifests/policies, which the wheel has as package data in auditpipeline/presets: constants that
happen to be written in YAML. Each is read once, when it is first asked for; a data plane, which gets its policies
rendered, never reads one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import msgspec

from auditpipeline.core.policy import Policy

PresetName = Literal["baseline", "compliance", "security", "debug"]
NAMES: tuple[PresetName, ...] = get_args(PresetName)


@cache
def preset(name: PresetName) -> Policy:
    """The policy of that name."""
    import yaml

    fields = yaml.safe_load(_text(name))
    return msgspec.convert({key: value for key, value in fields.items() if key not in ("apiVersion", "kind")}, Policy)


def _text(name: PresetName) -> str:
    packaged = files("auditpipeline") / "presets" / f"{name}.yaml"
    if packaged.is_file():
        return packaged.read_text()
    # Not installed, but run from its source tree.
    return (Path(__file__).parents[3] / "manifests" / "policies" / f"{name}.yaml").read_text()

"""Makes what is copied or rendered from elsewhere: `make manifests`.

    crds/*.yaml       --copied---------> manifests/chart/files/crds/, manifests/install/crds.yaml
    manifests/chart/  --helm template--> manifests/install/auditpipeline.yaml

The results are in the repository, so that `helm install` and `kubectl apply -k` need nothing but the files; tests fail
when they are not what this makes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.binaries import Missing, find

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / "crds"
CHART = ROOT / "manifests" / "chart"
COPIES = CHART / "files" / "crds"
INSTALL = ROOT / "manifests" / "install"
OBJECTS = INSTALL / "auditpipeline.yaml"
NAMESPACE = "auditpipeline-system"
RECEIVERS = "auditpipeline-receivers"
KUBERNETES = "1.37.0"
CRD_FILES = ("auditpipelines.yaml", "auditsinks.yaml")

HEADER = "# Made from {} by `make manifests`: change that, and run it again.\n"
MANAGED_BY = "app.kubernetes.io/managed-by"


class Refused(RuntimeError):
    """helm did not take the chart or its values; the message has its words."""


def copies() -> dict[Path, str]:
    """Every file that is a copy of crds/, and what it should hold."""
    texts = {name: (CRDS / name).read_text() for name in CRD_FILES}
    together = HEADER.format("crds/") + "".join(f"---\n{text}" for text in texts.values())
    return {COPIES / name: text for name, text in texts.items()} | {INSTALL / "crds.yaml": together}


def install(helm: str) -> str:
    """The chart's objects with default values as plain manifests: without CRDs and without what speaks of Helm."""
    found = template(helm, "--set", "crds.install=false")
    return HEADER.format("manifests/chart/") + "".join(f"---\n{dump(_without_helm(document))}" for document in found)


def template(helm: str, *arguments: str) -> list[Object]:
    """The objects that `helm template` makes of the chart, for Kubernetes 1.37 unless they name another."""
    version = [] if "--kube-version" in arguments else ["--kube-version", KUBERNETES]
    command = ["template", "auditpipeline", str(CHART), "--namespace", NAMESPACE, *version, *arguments]
    return list(documents(run(helm, *command)))


def run(helm: str, *arguments: str) -> str:
    """What helm prints; Refused with its words."""
    done = subprocess.run([helm, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"{done.stdout}{done.stderr}".strip())
    return done.stdout


def documents(text: str) -> Iterator[Object]:
    """The objects of a YAML stream; empty documents are left out."""
    return (document for document in yaml.safe_load_all(text) if document)


def dump(document: Object) -> str:
    """One object as YAML, fields in their own order."""
    return yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)


def _without_helm(document: Object) -> Object:
    metadata = document["metadata"]
    for field in ("labels", "annotations"):
        kept = {name: value for name, value in metadata.get(field, {}).items() if not _of_helm(name)}
        metadata.pop(field, None)
        if kept:
            metadata[field] = kept
    return document


def _of_helm(name: str) -> bool:
    return name.startswith("helm.sh/") or name == MANAGED_BY


def main() -> int:
    """Copy and render everything."""
    try:
        helm = str(find("helm")["helm"])
    except Missing as missing:
        print(f"manifests: {missing}", file=sys.stderr)
        return 1
    COPIES.mkdir(parents=True, exist_ok=True)
    for path, text in copies().items():
        path.write_text(text)
    OBJECTS.write_text(install(helm))
    return 0


if __name__ == "__main__":
    sys.exit(main())

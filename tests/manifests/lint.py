"""`helm lint --strict` and kubernetes-validate over what is installed: part of `make lint`.

`problems` is what the tests use too: for an object, every reason why it should not be in the chart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import kubernetes_validate

from tests.cluster.binaries import Missing, find
from tests.manifests.render import CHART, KUBERNETES, NAMESPACE, Object, Refused, run, template

VALUE_SETS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "everything": (
        *("--set", "operator.replicas=2,operator.priorityClassName=system-cluster-critical"),
        *("--set", "networkPolicy.enabled=true,targetNamespaces={audit,security},receivers.legacy=true"),
        *("--set", "networkPolicy.nodes={10.0.0.0/16,fd00::/64},networkPolicy.scrapers={10.1.0.0/16}"),
        *("--set", "networkPolicy.outputPorts={8443},metrics.tokenSecret=scraper"),
        *("--set", "image.pullSecrets[0].name=registry,image.digest=sha256:" + "0" * 64),
        *("--set", "operator.nodeSelector.disk=ssd,operator.tolerations[0].operator=Exists"),
        *("--set", "egress.allow={127.0.0.1:8088,[fd00::]/8:443}"),
    ),
    "gateway behind a Service": (
        *("--set", "gateway.kind=StatefulSet,gateway.replicas=3,gateway.service.clusterIP=10.96.0.9"),
        *("--set", "gateway.storage.storageClassName=fast,gateway.nodeSelector.disk=ssd,networkPolicy.enabled=true"),
        *("--set", "gateway.tolerations[0].key=audit,gateway.tolerations[0].operator=Exists"),
    ),
    "gateway without claims": ("--set", "gateway.kind=StatefulSet,gateway.storage.ephemeral=true"),
    "opt-outs without policies": ("--set", "admissionPolicy.enabled=false,redaction.allowOptOut=true"),
    "least": ("--set", "crds.install=false,gateway.enabled=false,admissionPolicy.enabled=false"),
    "sinks built in": ("--kube-version", "1.18.20", "--set", "gateway.enabled=false"),
    "one namespace": ("--set", f"gateway.kind=StatefulSet,receivers.namespace={NAMESPACE}"),
}
"""Values that the chart is tried with, as arguments of `helm template`."""


def problems(obj: Object) -> Iterator[str]:
    """What is wrong with an object, a sentence each: its schema, and permissions without bounds."""
    name = f"{obj['kind']} {obj['metadata']['name']}"
    try:
        kubernetes_validate.validate(obj, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: {'.'.join(str(step) for step in error.path)}: {error.message}"
    for rule in obj.get("rules", ()):
        if "*" in (*rule.get("apiGroups", ()), *rule.get("resources", ()), *rule["verbs"]):
            yield f"{name}: '*' in a permission"


def lint(helm: str) -> Iterator[str]:
    """Everything that is wrong with the chart, over every set of values."""
    try:
        run(helm, "lint", "--strict", "--quiet", str(CHART))
        for values, arguments in VALUE_SETS.items():
            found: list[dict[str, Any]] = template(helm, *arguments)
            yield from (f"{values}: {problem}" for obj in found for problem in problems(obj))
    except Refused as refused:
        yield str(refused)


def main() -> int:
    """Print the problems; 1 where there are any."""
    try:
        found = list(lint(str(find("helm")["helm"])))
    except Missing as missing:
        found = [str(missing)]
    for problem in found:
        print(f"lint: {problem}", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

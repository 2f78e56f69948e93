"""How the configurations of distributions are written: YAML with block texts, and next steps as comments. Pure."""

from __future__ import annotations

from typing import Any

import yaml

INSTALL = "helm install auditpipeline manifests/chart --namespace auditpipeline-system --create-namespace"
SECRETS = """\
THIS OUTPUT HOLDS PRIVATE KEYS (of kube-apiserver's client certificate and of the gateway). Keep it as you keep a
kubeconfig: out of Git, mode 0600 (--output FILE writes it so), and delete it once it is applied.
"""


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stand as blocks, so that a person can read them."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def dump(*documents: dict[str, Any]) -> str:
    """The documents as YAML, in the order of their keys; several are parted by `---`."""
    return "---\n".join(yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=1000) for each in documents)


def comment(text: str) -> str:
    """The text as comment lines of YAML, a shell script or an environment file."""
    return "".join(f"# {line}\n" if line else "#\n" for line in text.strip("\n").split("\n"))

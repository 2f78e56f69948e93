"""auditpipeline on kind, where Docker answers: as on a node, but for how the cluster is reached.

Written from kind's documentation; not tried with Docker yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .deployment import EVENTS, NAMESPACE, bootstrap
from .kind import Kind
from .onnode import CLI, NodeDeployment


class KindDeployment(NodeDeployment):
    """The API server of kind listens on this machine's loopback: nothing has to be entered."""

    def __init__(self, data: Path, *, values: tuple[str, ...] = ()) -> None:
        self.bootstrap = data / "bootstrap"
        self._values = values
        bootstrap(self.bootstrap, CLI)
        cluster: Any = Kind(bootstrap_dir=self.bootstrap)
        self.cluster = cluster

    def entered(self, command: list[str]) -> list[str]:
        """As it is."""
        return command

    def hints(self) -> list[str]:
        """The kubeconfig works from this machine."""
        return [
            f"export KUBECONFIG={self.cluster.kubeconfig}",
            f"kubectl exec -n {NAMESPACE} audit-quickstart-0 -- tail -F {EVENTS}",
        ]

"""auditpipeline on kind, where Docker answers: as on a node, but for how the cluster is reached.

Written from kind's documentation; not tried with Docker yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .deployment import EVENTS, RECEIVERS
from .kind import Kind
from .onnode import NodeDeployment


class KindDeployment(NodeDeployment):
    """The API server of kind listens on this machine's loopback: nothing has to be entered."""

    service_address = "10.96.0.9"

    def _node(self, audit_log: Path | None) -> Any:
        return Kind(bootstrap_dir=self.bootstrap)

    def entered(self, command: list[str]) -> list[str]:
        """As it is."""
        return command

    def hints(self) -> list[str]:
        """The kubeconfig works from this machine."""
        return [
            f"export KUBECONFIG={self.cluster.kubeconfig}",
            f"kubectl exec -n {RECEIVERS} audit-quickstart-0 -- tail -F {EVENTS}",
        ]

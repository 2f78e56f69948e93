"""auditpipeline where AuditSink is built in: Kubernetes 1.18, no gateway, and no file on a control-plane node."""

from __future__ import annotations

from pathlib import Path

from .local import LocalDeployment
from .native import NATIVE, NativeControlPlane


class NativeDeployment(LocalDeployment):
    """The operator and the receivers as processes of this machine; kube-apiserver posts to the receivers."""

    # The chart asks the cluster for both when it is installed; a mere rendering has to be told.
    helm_args = (
        *["--kube-version", NATIVE.version],
        *["--api-versions", "auditregistration.k8s.io/v1alpha1"],
        *["--set", "gateway.enabled=false"],
    )

    # kubectl asks this API server for the fields that a CRD may have, and it does not know CEL rules yet.
    apply_args = ("--validate=false",)

    def __init__(self, data: Path, *, operator_args: tuple[str, ...] = ()) -> None:
        super().__init__(data, operator_args=operator_args)
        self.cluster = NativeControlPlane()

    def wait_for_intake(self) -> None:
        """Each receiver takes events from kube-apiserver itself."""

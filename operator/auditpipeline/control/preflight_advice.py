"""What mends a gateway that does not answer as it should: on the node itself, or behind a Service. Pure.

Which of them it is, is said by the host that kube-apiserver's kubeconfig dials.
"""

from __future__ import annotations

from auditpipeline.control.loops import is_local

_FOLDER = "kubeconfig and gateway have to be of the same folder: run `auditpipeline bootstrap files` again, and "


def not_running(host: str) -> str:
    """Where nothing listens."""
    if is_local(host):
        return "is the gateway's Pod running on this node? kubectl get pods -A -o wide | grep auditpipeline-gateway"
    return (
        "are the Pods of StatefulSet auditpipeline-gateway Ready, has its Service this address, and does this machine "
        "reach the cluster's Services (kube-proxy)?"
    )


def trust(host: str) -> str:
    """Where one side does not trust the other."""
    if is_local(host):
        return f"{_FOLDER}see that the chart's gateway.hostPaths.bootstrap is its folder gateway/"
    return f"{_FOLDER}apply what `auditpipeline bootstrap secret` prints for that folder"

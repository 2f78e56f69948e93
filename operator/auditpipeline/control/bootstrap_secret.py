"""What a gateway behind a Service (gateway.kind StatefulSet) serves with, as a Secret. Pure.

Its Pods have no folder of a node: the files that `bootstrap files --dir` made elsewhere are put into a Secret. What
kube-apiserver reads, the policy and the kubeconfig with its client certificate, is not in it, nor the CA's key.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping

from auditpipeline.control import kubeconfig, names
from auditpipeline.control.bootstrap_text import INSTALL, comment, dump
from auditpipeline.control.loops import is_local
from auditpipeline.core.errors import Invalid

SERVED = ("gateway/tls.crt", "gateway/tls.key", "gateway/client-ca.crt")
NAMESPACE = "auditpipeline-system"
MAKE = "run `auditpipeline bootstrap files --dir DIR --address CLUSTERIP:443` first"


def secret(files: Mapping[str, bytes], directory: str, namespace: str) -> str:
    """The Secret in the operator's namespace; Invalid where a file is missing or they are for a node's loopback."""
    missing = [name for name in (*SERVED, "webhook.kubeconfig") if name not in files]
    if missing:
        raise Invalid("--dir", f"{missing[0]} is missing there: {MAKE}")
    target = kubeconfig.parse(files["webhook.kubeconfig"], "webhook.kubeconfig", _nothing)
    if is_local(target.host):
        raise Invalid("--dir", f"its files are for {target.host}, which a Pod is not reached at: {MAKE}")
    here = "" if namespace == NAMESPACE else f" --namespace {namespace}"
    install = f"{INSTALL.replace(NAMESPACE, namespace)} \\\n     --set gateway.kind=StatefulSet{_fixed(target.host)}"
    document = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": names.GATEWAY_BOOTSTRAP_SECRET,
            "namespace": namespace,
            "labels": {names.APP: names.GATEWAY, "app.kubernetes.io/part-of": "auditpipeline"},
        },
        "type": "Opaque",
        "data": {name.rpartition("/")[2]: base64.b64encode(files[name]).decode() for name in SERVED},
    }
    secret_name = names.GATEWAY_BOOTSTRAP_SECRET
    steps = _STEPS.format(
        directory=directory, namespace=namespace, here=here, server=target.server, install=install, secret=secret_name
    )
    return comment(steps) + dump(document)


def _fixed(host: str) -> str:
    """The Service's address where the kubeconfig names one; a name, or a Service of one's own, is no value of ours."""
    try:
        return f" --set gateway.service.clusterIP={ipaddress.ip_address(host)}"
    except ValueError:
        return ""


def _nothing(name: str) -> bytes:
    raise Invalid("--dir", f"webhook.kubeconfig names the file {name}, instead of holding all itself")


_STEPS = """\
THIS OUTPUT HOLDS A PRIVATE KEY (the gateway's). Keep it as you keep a kubeconfig: out of Git, mode 0600 (--output FILE
writes it so), and delete it once it is applied.

For a gateway behind a Service, at {server}. Once for the cluster:
1. auditpipeline bootstrap files --dir {directory} --address CLUSTERIP:443
2. kubectl create namespace {namespace}
3. auditpipeline bootstrap secret --dir {directory}{here} | kubectl apply --server-side -f -
4. {install}
5. Give kube-apiserver policy.yaml and webhook.kubeconfig of {directory}, and the flags that step 1 prints.
   Each of several API servers gets the same two files.
6. auditpipeline preflight --dir {directory}, where kube-apiserver runs
To renew:    steps 1 and 3 again; the gateway takes its certificate by itself within two minutes. Then give
             webhook.kubeconfig to kube-apiserver, and restart it.
To go back:  take the flags from kube-apiserver, then helm uninstall (or gateway.kind as it was), then
             kubectl delete secret {secret} -n {namespace}
"""

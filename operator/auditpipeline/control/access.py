"""How this process reaches its API server: a kubeconfig file, or the service account of its Pod."""

from __future__ import annotations

from pathlib import Path

import kopf
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from auditpipeline.core.errors import Permanent


async def configuration(kubeconfig: Path | None) -> Configuration:
    """The client configuration of `kubeconfig`, or of the Pod where there is none; Permanent says what is missing."""
    found = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(found)
        else:
            await load_kube_config(str(kubeconfig), client_configuration=found, persist_config=False)
    except (ConfigException, OSError) as error:
        where = kubeconfig or "the Pod's service account"
        raise Permanent(f"no access to a Kubernetes API by {where}: {error}") from None
    return found


async def connection(kubeconfig: Path | None) -> kopf.ConnectionInfo:
    """The same for kopf, which asks again whenever the API server answers 401."""
    found = await configuration(kubeconfig)
    token = found.api_key.get("BearerToken", "")
    return kopf.ConnectionInfo(
        server=found.host,
        ca_path=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        username=found.username or None,
        password=found.password or None,
        scheme="Bearer" if token else None,
        token=token.split(" ", 1)[-1].strip() or None,
        certificate_path=found.cert_file,
        private_key_path=found.key_file,
    )

"""How this process reaches its API server: a kubeconfig file, or the service account of its Pod."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import aiohttp
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


async def connection(kubeconfig: Path | None, listed: Callable[[], None]) -> kopf.AiohttpSession:
    """The same for kopf, which asks again whenever the API server answers 401, and closes it. `listed` is called when
    the API server has answered the first page of a list; kopf tells nobody."""
    found = await configuration(kubeconfig)
    token = found.api_key.get("BearerToken", "")
    info = kopf.ConnectionInfo(
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
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        trace_configs=[_telling(listed)],
    )
    return kopf.AiohttpSession(server=info.server, aiohttp_session=session)


def _telling(listed: Callable[[], None]) -> aiohttp.TraceConfig:
    async def answered(_session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
        query = params.url.query
        if "limit" in query and "continue" not in query and params.response.ok:
            listed()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_end.append(answered)
    return tracing

"""How this process reaches its API server: a kubeconfig file, or the service account of its Pod."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Protocol

import aiohttp
import kopf
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from auditpipeline.core.errors import Permanent

WATCH_TIMEOUT, EARLY = 240, 10
"""Seconds after which the API server ends a watch, so that a connection that died silently is noticed; and by how much
a watch has to end before that to be one that broke."""


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


class Told(Protocol):
    """Is told what kopf tells nobody; must not block."""

    def listed(self) -> None:
        """The API server has answered the first page of a list."""

    def resumed(self, plural: str, version: str) -> None:
        """A watch goes on from `version` after its connection was lost."""


async def connection(kubeconfig: Path | None, told: Told) -> kopf.AiohttpSession:
    """The same for kopf, which asks again whenever the API server answers 401, and closes it."""
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
        trace_configs=[tracing(told)],
    )
    return kopf.AiohttpSession(server=info.server, aiohttp_session=session)


def tracing(told: Told, clock: Callable[[], float] = time.monotonic) -> aiohttp.TraceConfig:
    """Traces lists and watches. A watch whose request comes sooner than the API server ends one by itself, or after one
    that failed, has lost its connection."""
    begun: dict[str, float] = {}

    async def answered(_session: object, _context: object, params: aiohttp.TraceRequestEndParams) -> None:
        query, path = params.url.query, params.url.path
        if not params.response.ok:
            begun[path] = clock()
        elif "watch" in query:
            if clock() - begun.get(path, -inf) < WATCH_TIMEOUT - EARLY:
                told.resumed(path.rpartition("/")[2], query.get("resourceVersion", ""))
            begun[path] = clock()
        elif "limit" in query and "continue" not in query:
            begun.pop(path, None)  # the watch that follows is a new one
            told.listed()

    async def failed(_session: object, _context: object, params: aiohttp.TraceRequestExceptionParams) -> None:
        begun[params.url.path] = clock()

    config = aiohttp.TraceConfig()
    config.on_request_end.append(answered)
    config.on_request_exception.append(failed)
    return config

"""The Kubernetes API as the controller uses it: dictionaries in and out, nothing of a client library beyond this file.

Promises: every write names the field manager `auditpipeline`; every request ends within 30 seconds; every request is
counted by verb and resource; errors come out as core.errors say what to do next:

    404 on get, patch and delete   None: it is not there         404 on apply, create     NotFound (its namespace)
    409                            Conflict: read and try again  422, 400                 Invalid, in the server's words
    403                            Forbidden: names what is to be granted, and where
    429, 5xx, no connection        Retryable
    400 to a dry run               NoDryRun, if the server says that a webhook does not support it

kubernetes.aio's dynamic client is used for its requests alone: its discovery writes a cache file and asks for every
group at each start, and the typed clients cost 130 MB.
"""

from __future__ import annotations

import asyncio
import http
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple, Protocol

import aiohttp
import msgspec
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient

from auditpipeline.control.names import MANAGER
from auditpipeline.control.resources import Resource
from auditpipeline.core.errors import Invalid, Permanent, Retryable

TIMEOUT = 30.0
PAGE = 100
Body = dict[str, Any]


class Forbidden(Permanent):
    """RBAC (or admission) says no; the message names the permission that is missing."""


class Refused(Forbidden):
    """Admission says no: a quota, a policy or a webhook, in its own words."""


class NoAnswer(Retryable):
    """The API server did not answer."""


class NotFound(Retryable):
    """What a write needs (its namespace, its kind) is not there."""


class Conflict(Retryable):
    """The object is there already, or has changed since it was read."""


class Page(NamedTuple):
    """Some of the objects of a list; `version` is the resource version of the whole list: none that was answered before
    the list was asked for is newer."""

    items: list[Body]
    version: str


class NoDryRun(Invalid):
    """An admission webhook that does not support dry runs has a say in this: nothing is known."""


class Unadmitted(Retryable):
    """An admission webhook that has a say in this does not answer: the API server does, and has written nothing."""


class NoUpsert(Retryable):
    """This API server creates no object of this kind by an apply that names a resourceVersion: Services before 1.23."""


class Kube(Protocol):
    """The requests that the controller makes. Bodies handed over are not kept; bodies returned are the caller's."""

    requests: Counter[tuple[str, str]]

    async def get(self, kind: Resource, name: str, namespace: str | None = None) -> Body | None:
        """The object, or None."""

    def list(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Body]:
        """Every object of a kind (in a namespace, with labels and fields), fetched in pages."""

    def pages(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page]:
        """The same, page by page; at least one."""

    async def apply(self, kind: Resource, body: Body) -> Body:
        """Server-side apply, taking over fields of others; the object as it is then. Conflict unless the object has the
        `uid` and the `resourceVersion` of the body's metadata, if it names them (`ownership.ABSENT`: creates only)."""

    async def rehearse(self, kind: Resource, body: Body) -> Body:
        """What `apply` would answer, by a dry run: nothing is written. Refused as `apply` would be, or NoDryRun."""

    async def create(self, kind: Resource, body: Body) -> Body:
        """Create, or Conflict."""

    async def replace(self, kind: Resource, body: Body) -> Body:
        """Replace what has the body's resourceVersion, or Conflict."""

    async def patch(self, kind: Resource, name: str, body: Body, namespace: str | None = None) -> Body | None:
        """Merge patch; None where the object is gone."""

    async def patch_status(
        self, kind: Resource, name: str, status: Mapping[str, Any], namespace: str | None = None, *, version: str = ""
    ) -> Body | None:
        """Merge patch of the status subresource; None where the object is gone, Conflict where it has another
        resourceVersion than `version`. (A UID would be left aside there.)"""

    async def delete(
        self, kind: Resource, name: str, namespace: str | None = None, *, uid: str = "", propagation: str = "Background"
    ) -> None:
        """Delete, if it is still the one with `uid`; nothing where it is gone."""

    async def raw(self, path: str) -> Body | None:
        """GET of any path (discovery), or None."""

    async def plain(self, path: str, server: str = "") -> bytes:
        """GET of a path that is no object, from the API server at the URL `server` (absent: the configured one).
        NotFound and Forbidden as for objects."""


class _Plain(ApiClient):  # type: ignore[misc]
    """Bodies are plain dictionaries already: walking through them in search of models takes longer than the request."""

    def sanitize_for_serialization(self, obj: Any) -> Any:
        return obj


_UNSEEN = (0.05, 0.1, 0.2, 0.4)
"""Seconds between two tries to apply to what an API server does not see yet."""


class Client:
    """The Kube of a real API server. Belongs to one event loop; `close` it there. `answered_again` is called with the
    first answer after requests that had none."""

    def __init__(self, configuration: Configuration) -> None:
        configuration.connection_pool_maxsize = 16
        # Looking for proxies and a .netrc costs each request a thread; a kubeconfig's `proxy-url` is honoured anyway.
        configuration.client_session_kwargs = {"trust_env": False}
        self._api = _Plain(configuration)
        self._client = DynamicClient(self._api)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.answered_again: Callable[[], None] = lambda: None
        self._answers = True

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()
        # TLS connections close in the background (aiohttp, "Graceful Shutdown").
        await asyncio.sleep(0.1)

    async def get(self, kind: Resource, name: str, namespace: str | None = None) -> Body | None:
        return await self._optional("get", kind, kind.path(name, namespace), namespace)

    async def list(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Body]:
        async for page in self.pages(kind, namespace, labels, fields):
            for body in page.items:
                yield body

    async def pages(
        self, kind: Resource, namespace: str | None = None, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page]:
        selectors = {"label_selector": labels or None, "field_selector": fields or None}
        more: str | None = None
        while True:
            path = kind.path(namespace=namespace)
            page = await self._request(
                "get", kind, path, namespace, verb="list", limit=PAGE, **selectors, _continue=more
            )
            meta = page.get("metadata", {})
            items = [{"apiVersion": kind.api_version, "kind": kind.kind} | item for item in page.get("items") or ()]
            yield Page(items, meta.get("resourceVersion", ""))
            more = meta.get("continue")
            if not more:
                return

    async def apply(self, kind: Resource, body: Body) -> Body:
        try:
            return await self._apply(kind, body, "apply")
        except NoUpsert:
            return await self._make(kind, body)

    async def _make(self, kind: Resource, body: Body) -> Body:
        """What an apply does that only creates, in three requests: the fields are ours by Apply alone in the end, or
        the defaults would look like somebody else's additions."""
        meta = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
        made = await self.create(kind, {**body, "metadata": meta})
        found = await self._apply_made(kind, {**body, "metadata": {**meta, "uid": made["metadata"]["uid"]}})
        for pause in _UNSEEN:
            entries = found["metadata"].get("managedFields", ())
            ours = [entry for entry in entries if entry["operation"] == "Apply"]
            if len(ours) == len(entries):
                break
            change = {"managedFields": ours, "resourceVersion": found["metadata"]["resourceVersion"]}
            left = await self.patch(kind, meta["name"], {"metadata": change}, meta.get("namespace"))
            if left is None:
                await asyncio.sleep(pause)
            found = left or found
        return found

    async def _apply_made(self, kind: Resource, body: Body) -> Body:
        """Applies to what was made a moment ago: an API server may not see it yet ("no existing object was found"), if
        another one of that name was deleted just before."""
        for pause in _UNSEEN:
            try:
                return await self._apply(kind, body, "apply")
            except Conflict:
                await asyncio.sleep(pause)
        return await self._apply(kind, body, "apply")

    async def rehearse(self, kind: Resource, body: Body) -> Body:
        return await self._apply(kind, body, DRY_RUN, dry_run="All")

    async def _apply(self, kind: Resource, body: Body, verb: str, **options: str) -> Body:
        meta = body["metadata"]
        namespace = meta.get("namespace")
        path = kind.path(meta["name"], namespace)
        options |= {"content_type": "application/apply-patch+yaml", "force_conflicts": "true"}
        return await self._request("patch", kind, path, namespace, verb=verb, body=body, **options)

    async def create(self, kind: Resource, body: Body) -> Body:
        namespace = body["metadata"].get("namespace")
        return await self._request("post", kind, kind.path(namespace=namespace), namespace, verb="create", body=body)

    async def replace(self, kind: Resource, body: Body) -> Body:
        meta = body["metadata"]
        path = kind.path(meta["name"], meta.get("namespace"))
        return await self._request("put", kind, path, meta.get("namespace"), verb="update", body=body)

    async def patch(self, kind: Resource, name: str, body: Body, namespace: str | None = None) -> Body | None:
        path = kind.path(name, namespace)
        return await self._optional("patch", kind, path, namespace, body=body, content_type=MERGE)

    async def patch_status(
        self, kind: Resource, name: str, status: Mapping[str, Any], namespace: str | None = None, *, version: str = ""
    ) -> Body | None:
        path = kind.path(name, namespace, "status")
        body = {"metadata": {"resourceVersion": version}} if version else {}
        body |= {"status": dict(status)}
        return await self._optional("patch", kind, path, namespace, body=body, content_type=MERGE)

    async def delete(
        self, kind: Resource, name: str, namespace: str | None = None, *, uid: str = "", propagation: str = "Background"
    ) -> None:
        options: Body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        await self._optional("delete", kind, kind.path(name, namespace), namespace, body=options)

    async def raw(self, path: str) -> Body | None:
        return await self._optional("get", DISCOVERY, path, None)

    async def plain(self, path: str, server: str = "") -> bytes:
        where = path.split("/", 2)[1]
        self.requests["get", where] += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                request = await self._api.param_serialize(
                    "GET", path, header_params={"Accept": "*/*"}, auth_settings=["BearerToken"], _host=server or None
                )
                response = await self._api.call_api(*request, _request_timeout=TIMEOUT)
                content: bytes = await response.response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Retryable(f"GET /{where}: no answer: {type(error).__name__}") from None
        if response.status != http.HTTPStatus.OK:
            raise translate(response.status, content, "get", Resource("", "", f"/{where}", "", namespaced=False), None)
        return content

    async def _optional(
        self, method: str, kind: Resource, path: str, namespace: str | None, **options: Any
    ) -> Body | None:
        try:
            return await self._request(method, kind, path, namespace, **options)
        except NotFound:
            return None

    async def _request(
        self, method: str, kind: Resource, path: str, namespace: str | None, *, verb: str = "", **options: Any
    ) -> Body:
        self.requests[verb or method, kind.plural] += 1
        if method in ("patch", "post", "put"):
            options["field_manager"] = MANAGER
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await self._client.request(
                    method,
                    path,
                    serialize=False,
                    _request_timeout=TIMEOUT,
                    query_params=[],
                    header_params={},
                    **options,
                )
                content = await response.read()
        except ApiException as error:
            self._took(method, answered=error.status < 500)
            raise translate(error.status, error.body, verb or method, kind, namespace) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._took(method, answered=False)
            raise NoAnswer(f"the Kubernetes API does not answer: {type(error).__name__}") from None
        self._took(method, answered=True)
        body: Body = msgspec.json.decode(content)
        return body

    def _took(self, method: str, *, answered: bool) -> None:
        """Take in whether a read was answered. A write tells nothing: a webhook may be what does not answer."""
        if method != "get":
            return
        before, self._answers = self._answers, answered
        if answered and not before:
            self.answered_again()


MERGE = "application/merge-patch+json"
DRY_RUN = "dry-run"
"""The verb by which rehearsals are counted."""
DISCOVERY = Resource("", "v1", "discovery", "APIGroup", namespaced=False)


def translate(status: int, body: bytes | str | None, verb: str, kind: Resource, namespace: str | None) -> Exception:
    """The error of core.errors that an HTTP answer stands for."""
    message, seconds = _said(body)
    where = f" in namespace {namespace}" if namespace else ""
    what = f"{verb} {kind.plural}{'.' + kind.group if kind.group else ''}{where}"
    if status == 404:
        return NotFound(f"{what}: {message or 'not found'}")
    if status == 409:
        return Conflict(f"{what}: {message or 'conflict'}")
    if status == 403:
        return _forbidden(what, message)
    if status in (400, 405, 413, 415, 422):
        return _invalid(f"{what}: {message}")
    kind_of = NoUpsert if "resourceVersion should not be set" in message else Retryable
    if "failed calling webhook" in message:  # k8s.io/apiserver/pkg/admission/plugin/webhook/errors
        kind_of = Unadmitted
    return kind_of(f"{what}: HTTP {status} {message}".rstrip(), seconds)


def _forbidden(what: str, message: str) -> Exception:
    """RBAC names the user and the verb; what admission says is for whoever wrote the object. Source:
    k8s.io/apiserver/pkg/endpoints/handlers/responsewriters/errors.go."""
    denied = message and not ('User "' in message and " cannot " in message) and "being terminated" not in message
    return Refused(f"{what}: {message}") if denied else Forbidden(f"the operator may not {what}: {message}")


def _invalid(message: str) -> Exception:
    """What a server means that calls a request invalid."""
    if "metadata.uid: Invalid value" in message:
        return Conflict(message)  # another object has this name now
    return NoDryRun("", message) if "does not support dry run" in message else Invalid("", message)


def _said(body: bytes | str | None) -> tuple[str, float | None]:
    """The message and the seconds to wait, of a `Status` (meta/v1)."""
    try:
        status = msgspec.json.decode(body or b"")
        details = status.get("details") or {}
        seconds = details.get("retryAfterSeconds")
        return str(status.get("message", ""))[:512], float(seconds) if seconds else None
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        return "", None

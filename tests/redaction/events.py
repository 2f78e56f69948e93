"""Audit events, and the objects in them, in the shapes of kube-apiserver (k8s.io/apiserver/pkg/apis/audit/v1/types.go,
k8s.io/api, k8s.io/apimachinery/pkg/apis/meta/v1/types.go)."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.redaction.marks import Mint
from tests.redaction.spelling import GO, STYLES, spelt, text

Event = dict[str, bytes]
"""The fields of an event, each as JSON."""
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Resource(NamedTuple):
    """What a request is for."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    subresource: str = ""

    @property
    def api_version(self) -> str:
        """Group and version, as objects name them."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """The path below which objects of a namespace are."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"


SECRETS = Resource("secrets", "Secret")
CODES = {"create": 201}
_NAMED = {"get", "update", "patch", "delete"}


def event(
    mint: Mint,
    verb: str,
    of: Resource,
    request: Any = None,
    response: Any = None,
    *,
    status: dict[str, Any] | None = None,
    annotations: dict[str, str] | None = None,
    uri: str | None = None,
    level: str = "RequestResponse",
) -> Event:
    """An event of that request, with bodies unless they are None. A patch's body comes as its client spelt it."""
    name = "db" if verb in _NAMED else ""
    at = f"{of.path}/namespaces/team/{of.plural}" + (f"/{name}" if name or of.subresource else "")
    ref = {"resource": of.plural, "namespace": "team", "name": name or ("db" if of.subresource else "")}
    ref |= {"apiGroup": of.group, "apiVersion": of.version, "subresource": of.subresource}
    fields: dict[str, Any] = {
        "level": level,
        "auditID": f"{mint.next:08x}-54b9-463d-b629-{mint.chance.randrange(16**12):012x}",
        "stage": "ResponseComplete",
        "requestURI": uri or at + (f"/{of.subresource}" if of.subresource else "") + "?fieldManager=kubectl",
        "verb": verb,
        "user": {"username": "alice", "groups": ["team", "system:authenticated"]},
        "sourceIPs": ["10.0.0.7"],
        "userAgent": "kubectl/v1.37.2 (linux/amd64) kubernetes/faecb19",
        "objectRef": {key: value for key, value in ref.items() if value},
        "responseStatus": {"metadata": {}, **(status or {}), "code": (status or {}).get("code", CODES.get(verb, 200))},
    }
    made = {key: spelt(value) for key, value in fields.items()}
    if request is not None:
        style = mint.pick(*STYLES) if verb == "patch" else GO
        made["requestObject"] = spelt(request, style, mint.chance)
    if response is not None:
        made["responseObject"] = spelt(response)
    made["requestReceivedTimestamp"] = made["stageTimestamp"] = b'"2026-11-24T00:52:02.429107Z"'
    return made | ({"annotations": spelt(annotations)} if annotations is not None else {})


def item(fields: Event) -> bytes:
    """The event as an item of an EventList."""
    return b"{" + b",".join(b'"%s":%s' % (key.encode(), value) for key, value in fields.items()) + b"}"


def named(of: Resource, body: dict[str, Any], *, annotations: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object of that kind."""
    metadata: dict[str, Any] = {"name": "db", "namespace": "team", "resourceVersion": "815", "labels": {"app": "db"}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"kind": of.kind, "apiVersion": of.api_version, "metadata": metadata, **body}


def listed(of: Resource, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A list of them; its items have no kind, as those that kube-apiserver encodes."""
    bare = [{key: value for key, value in each.items() if key not in ("kind", "apiVersion")} for each in items]
    return {"kind": f"{of.kind}List", "apiVersion": of.api_version, "metadata": {"resourceVersion": "9"}, "items": bare}


def table(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """What `kubectl get` asks for."""
    columns = [
        {"name": name, "type": "string", "format": "", "description": "", "priority": 0} for name in ("Name", "Age")
    ]
    rows = [{"cells": ["db", "5d"], "object": each} for each in objects]
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "9"}}
    return {**head, "columnDefinitions": columns, "rows": rows}


def partial(whole: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an object alone."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": whole["metadata"]}


def applied(mint: Mint, whole: dict[str, Any]) -> dict[str, Any]:
    """Annotations of an object that was made by `kubectl apply` of this one."""
    return {LAST_APPLIED: text(whole) + "\n", "note": mint.keep("a note")}


def failure(message: str, causes: list[dict[str, Any]] | None = None, code: int = 422, **more: Any) -> dict[str, Any]:
    """The Status of a request that failed; without kind, apiVersion and metadata, as `responseStatus` has it."""
    reasons = {422: "Invalid", 400: "BadRequest", 403: "Forbidden", 404: "NotFound", 409: "Conflict"}
    details = {"name": "db", "kind": "Secret", **({"causes": causes} if causes else {}), **more}
    return {"status": "Failure", "message": message, "reason": reasons[code], "details": details, "code": code}


def as_object(status: dict[str, Any]) -> dict[str, Any]:
    """The same as an object."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, **status}

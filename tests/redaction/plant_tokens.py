"""Tokens in the requests that are made for tokens."""

from __future__ import annotations

from typing import Any

from tests.redaction.events import Event, Resource, event
from tests.redaction.marks import Mint

TOKENS = Resource("serviceaccounts", "TokenRequest", "authentication.k8s.io", "v1", "token")
REVIEWS = Resource("tokenreviews", "TokenReview", "authentication.k8s.io", "v1")


def _meta(of: Resource, body: dict[str, Any]) -> dict[str, Any]:
    return {"kind": of.kind, "apiVersion": of.api_version, "metadata": {"name": "app", "namespace": "team"}, **body}


def issued(mint: Mint) -> Event:
    """A token of a ServiceAccount. objectRef has the group of the ServiceAccount, the body that of the request."""
    asked = {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3607}
    request = _meta(TOKENS, {"spec": asked, "status": {"token": "", "expirationTimestamp": None}})
    status = {"token": mint.jwt(), "expirationTimestamp": mint.keep("2026-11-24T01:52:02Z")}
    response = _meta(TOKENS, {"spec": asked, "status": status})
    fields = event(mint, "create", TOKENS, request, response)
    ref = b'{"resource":"serviceaccounts","namespace":"team","name":"app","apiVersion":"v1","subresource":"token"}'
    return fields | {"objectRef": ref}


def reviewed(mint: Mint, where: str) -> Event:
    """A webhook or a proxy that asks whose token this is; v1beta1 as well."""
    of = mint.pick(REVIEWS, REVIEWS._replace(version="v1beta1"))
    user = {"username": mint.keep("system:serviceaccount:team:app"), "uid": "1"}
    body = _meta(
        of, {"spec": {"token": mint.one_of(mint.jwt, mint.text)}, "status": {"authenticated": True, "user": user}}
    )
    return event(mint, "create", of, body if where == "request" else None, body if where == "response" else None)


KINDS = {
    "TokenRequest: token in the response": issued,
    "TokenReview: token in the request": lambda mint: reviewed(mint, "request"),
    "TokenReview: token in the response": lambda mint: reviewed(mint, "response"),
}

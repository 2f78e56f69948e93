"""Secrets in Secrets: whole ones, in requests, responses, lists and Tables, and as `kubectl apply` repeats them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial as partial_
from typing import Any

from tests.redaction.events import LAST_APPLIED, SECRETS, Event, applied, event, listed, named, partial, table
from tests.redaction.marks import Mint, encoded
from tests.redaction.spelling import Pairs, text

KEYS = ("password", "tls.key", ".dockerconfigjson", "ca.crt", "username", "config.yaml", "a/b~c", "é", "token-secret")


def data(mint: Mint, most: int = 3) -> dict[str, str]:
    """Values as `data` has them: base64."""
    return {key: encoded(mint.text()) for key in mint.chance.sample(KEYS, mint.chance.randint(1, most))}


def strings(mint: Mint, most: int = 3) -> dict[str, str]:
    """Values as `stringData` has them."""
    return {key: mint.text() for key in mint.chance.sample(KEYS, mint.chance.randint(1, most))}


def secret(mint: Mint, **body: Any) -> dict[str, Any]:
    """A Secret, with `data` unless it is said what else."""
    return named(SECRETS, {"type": "Opaque", "immutable": False, **(body or {"data": data(mint)})})


def either(mint: Mint) -> dict[str, Any]:
    """A Secret with one of the two fields."""
    return secret(mint, **({"data": data(mint)} if mint.often() else {"stringData": strings(mint)}))


def changing(mint: Mint, field: str, values: dict[str, str]) -> Event:
    """A create or update whose request has the values in that field."""
    return event(mint, mint.pick("create", "update"), SECRETS, secret(mint, **{field: values}))


def in_response(mint: Mint) -> Event:
    """What create, update, patch, get and delete answer with."""
    verb = mint.pick("create", "update", "patch", "get", "delete")
    request = {"metadata": {"labels": {"a": mint.keep("label-that-stays")}}} if verb == "patch" else None
    return event(mint, verb, SECRETS, request, secret(mint))


def last_applied(mint: Mint) -> dict[str, Any]:
    """A Secret without data of its own, that repeats what was applied."""
    whole = either(mint)
    if mint.often(0.2):
        whole["metadata"]["annotations"] = applied(mint, secret(mint))
    return named(SECRETS, {"type": "Opaque"}, annotations=applied(mint, whole))


def row(mint: Mint) -> dict[str, Any]:
    """What a row of a Table holds: the object, or its metadata."""
    whole = last_applied(mint)
    return whole if mint.often() else partial(whole)


def packed_by_others(mint: Mint, key: str) -> Event:
    """What others note of what they applied, in base64 (and often packed before)."""
    whole = text(secret(mint, stringData=strings(mint)))
    return event(mint, "update", SECRETS, named(SECRETS, {}, annotations={key: encoded(whole)}))


def token_in_annotation(mint: Mint) -> Event:
    """OpenShift keeps the token of a registry's Secret beside it."""
    made = named(SECRETS, {}, annotations={"openshift.io/token-secret.value": mint.jwt()})
    return event(mint, mint.pick("update", "get"), SECRETS, None, made)


def bootstrap(mint: Mint) -> Event:
    """A bootstrap token, as kubeadm makes it."""
    made = {
        "token-id": encoded(mint.mark()),
        "token-secret": encoded(mint.mark()),
        "usage-bootstrap-signing": "dHJ1ZQ==",
    }
    whole = secret(mint, data={key: made[key] for key in ("token-id", "token-secret")})
    whole["type"] = mint.keep("bootstrap.kubernetes.io/token")
    return event(mint, "create", SECRETS, whole, whole)


def unusual(mint: Mint) -> Any:
    """What `data` holds in bodies that the API server has not checked."""
    return mint.one_of(
        mint.text,
        mint.number,
        lambda: [mint.text(), {"a": mint.number()}],
        lambda: {"a": mint.number(), "b": [mint.text(), [mint.word()]], "c": {"d": {"e": mint.text()}}, "f": None},
        lambda: {"a": {"data": {"b": mint.text()}, "stringData": [mint.text()]}},
    )


def odd_data(mint: Mint) -> Event:
    """Bodies of kind Secret of another API server, that does not check them."""
    field = mint.pick("data", "stringData")
    whole = named(SECRETS, {field: unusual(mint)})
    return event(mint, "update", SECRETS, whole if mint.often() else None, whole)


def other_case(mint: Mint) -> Event:
    """Before 1.8, and in fields that are unknown, the case of a key is whatever its author chose."""
    field = mint.pick("Data", "DATA", "dAtA", "stringdata", "StringData", "STRINGDATA")
    if mint.often(0.3):
        annotations = {LAST_APPLIED: text(either(mint))}
        return event(mint, "patch", SECRETS, {mint.pick("metadata", "Metadata"): {"Annotations": annotations}})
    return event(mint, "create", SECRETS, named(SECRETS, {field: strings(mint)}))


def applied_by_others(mint: Mint) -> Event:
    """What kapp notes of what it applied."""
    return event(mint, "update", SECRETS, named(SECRETS, {}, annotations={"kapp.k14s.io/original": text(either(mint))}))


def twice(mint: Mint) -> Event:
    """`data` twice, and a key in it twice."""
    inner = Pairs([("a", encoded(mint.text())), ("a", encoded(mint.text())), ("b", encoded(mint.text()))])
    head = list(named(SECRETS, {"type": "Opaque"}).items())
    return event(mint, "patch", SECRETS, Pairs([("data", data(mint)), *head, ("data", inner), ("stringData", inner)]))


KINDS: dict[str, Callable[[Mint], Event]] = {
    "Secret: data in a request": lambda mint: changing(mint, "data", data(mint)),
    "Secret: stringData in a request": lambda mint: changing(mint, "stringData", strings(mint)),
    "Secret: data in a response": in_response,
    "Secret: data in a list": lambda mint: event(
        mint, mint.pick("list", "deletecollection"), SECRETS, None, listed(SECRETS, [secret(mint), secret(mint)])
    ),
    "Secret: data in a Table": lambda mint: event(mint, "list", SECRETS, None, table([secret(mint), secret(mint)])),
    "Secret: last-applied in a request": lambda mint: event(
        mint, mint.pick("create", "update"), SECRETS, last_applied(mint)
    ),
    "Secret: last-applied in a response": lambda mint: event(
        mint, mint.pick("patch", "get"), SECRETS, None, last_applied(mint)
    ),
    "Secret: last-applied in a list": lambda mint: event(
        mint, "list", SECRETS, None, listed(SECRETS, [last_applied(mint)])
    ),
    "Secret: last-applied in a Table": lambda mint: event(mint, "list", SECRETS, None, table([row(mint)])),
    "Secret: last-applied in a PartialObjectMetadata": lambda mint: event(
        mint, mint.pick("get", "patch"), SECRETS, None, partial(last_applied(mint))
    ),
    "Secret: last-applied in a PartialObjectMetadataList": lambda mint: event(
        mint,
        "list",
        SECRETS,
        None,
        {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": {},
            "items": [partial(last_applied(mint))],
        },
    ),
    "Secret: a bootstrap token": bootstrap,
    "Secret: a token in an annotation": token_in_annotation,
    "Secret: values of unusual types": odd_data,
    "Secret: fields in another case": other_case,
    "Secret: fields that come twice": twice,
    "Secret: applied by others": applied_by_others,
    "Secret: applied by Rancher": partial_(packed_by_others, key="objectset.rio.cattle.io/applied"),
    "Secret: applied by Banzai Cloud": partial_(packed_by_others, key="banzaicloud.com/last-applied"),
}

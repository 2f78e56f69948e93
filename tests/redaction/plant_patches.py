"""Secrets in patches of Secrets, of all four kinds, and in the patches that a webhook's annotation repeats."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.redaction.events import LAST_APPLIED, SECRETS, Event, Resource, event
from tests.redaction.marks import Mint, encoded
from tests.redaction.plant_secrets import data, either, secret, strings, unusual
from tests.redaction.spelling import Pairs, text

APPLIED_POINTER = "/metadata/annotations/" + LAST_APPLIED.replace("/", "~1")
ROUND = "patch.webhook.admission.k8s.io/round_{}_index_{}"


def repeated(mint: Mint) -> str:
    """What was applied, as an annotation has it."""
    return text(either(mint)) + "\n"


def operation(mint: Mint, pointer: str, value: Any, name: str | None = None) -> dict[str, Any] | Pairs:
    """One operation of a JSON patch; the order of its keys is its author's."""
    pairs = [("op", name or mint.pick("add", "replace", "test")), ("path", pointer), ("value", value)]
    mint.chance.shuffle(pairs)
    return dict(pairs)


def _harmless(mint: Mint) -> dict[str, Any] | Pairs:
    return operation(mint, "/metadata/labels/app", mint.keep("a-label"), "replace")


VALUES: dict[str, Callable[[Mint], Any]] = {
    "a value of data": lambda mint: operation(
        mint, f"/data/{mint.pick('x', 'tls.key', 'a~1b', '')}", encoded(mint.text())
    ),
    "a value of stringData": lambda mint: operation(mint, "/stringData/x", mint.text()),
    "a value of an unusual type": lambda mint: operation(
        mint, mint.pick("/data/x", "/stringData", "/data"), unusual(mint)
    ),
    "data": lambda mint: operation(mint, "/data", data(mint)),
    "stringData": lambda mint: operation(mint, "/stringData", strings(mint)),
    "the whole object": lambda mint: operation(mint, "", secret(mint)),
    "last-applied": lambda mint: operation(mint, APPLIED_POINTER, repeated(mint)),
    "metadata": lambda mint: operation(
        mint, "/metadata", {"name": "db", "annotations": {LAST_APPLIED: repeated(mint)}}
    ),
    "annotations": lambda mint: operation(mint, "/metadata/annotations", {LAST_APPLIED: repeated(mint)}),
}


def split(mint: Mint) -> list[Any]:
    """A secret in the pieces of which it is put together."""
    return [operation(mint, f"/stringData/{number}", mint.text()) for number in range(3)]


def ambiguous(mint: Mint) -> list[Any]:
    """Operations whose keys come twice: the last one counts, and a line must not hold the others either."""
    return [
        Pairs([("op", "add"), ("path", "/metadata/labels/x"), ("path", "/data/x"), ("value", encoded(mint.text()))]),
        Pairs([("op", "add"), ("path", "/data/x"), ("value", encoded(mint.text())), ("value", "")]),
        Pairs([("op", "add"), ("value", mint.text()), ("value", ""), ("path", "/stringData/x")]),
    ]


def json_patch(mint: Mint, name: str) -> Event:
    """A JSON patch with that operation among others."""
    operations = [VALUES[name](mint), *([_harmless(mint)] if mint.often() else [])]
    mint.chance.shuffle(operations)
    return event(mint, "patch", SECRETS, operations)


def merge(mint: Mint) -> dict[str, Any]:
    """A merge patch."""
    labels = {"metadata": {"labels": {"app": "a-label", "gone": None}}}
    return mint.one_of(
        lambda: {"data": data(mint)},
        lambda: labels | {"stringData": strings(mint) | {"gone": None}},
        lambda: {"data": unusual(mint)},
        lambda: {mint.pick("Data", "stringdata"): strings(mint)},
        lambda: {"metadata": {"annotations": {LAST_APPLIED: repeated(mint)}}},
        lambda: labels | {"data": data(mint), "stringData": strings(mint)},
    )


def strategic(mint: Mint) -> dict[str, Any]:
    """A strategic merge patch, with its directives."""
    return mint.one_of(
        lambda: {"data": data(mint) | {"gone": None}},
        lambda: {"$patch": "replace", **secret(mint)},
        lambda: {"$retainKeys": ["stringData"], "stringData": strings(mint)},
        lambda: {"metadata": {"$setElementOrder/finalizers": ["example.com/x"]}, "data": data(mint)},
        lambda: {"metadata": {"$patch": "merge", "annotations": {LAST_APPLIED: repeated(mint)}}, "data": data(mint)},
        lambda: {"$deleteFromPrimitiveList/data": [encoded(mint.text())], "data": None},
    )


def apply(mint: Mint) -> dict[str, Any]:
    """A server-side apply."""
    whole = either(mint)
    del whole["metadata"]["resourceVersion"]
    return whole


def by_webhook(mint: Mint, of: Resource, operations: list[Any], request: Any = None) -> Event:
    """What the API server notes of a webhook's patch (pkg/admission/plugin/webhook/mutating/dispatcher.go)."""
    name = ROUND.format(mint.pick(0, 1), mint.pick(0, 7, 12))
    said = {"configuration": "inject", "webhook": "inject.example.com", "patch": operations, "patchType": "JSONPatch"}
    noted = {name: text(said), "authorization.k8s.io/decision": mint.keep("allow")}
    if mint.often(0.3):
        noted[name.replace("patch.", "mutation.")] = (
            '{"configuration":"inject","webhook":"i.example.com","mutated":true}'
        )
    return event(mint, mint.pick("create", "update", "patch"), of, request, annotations=noted)


def noted(mint: Mint, name: str) -> Event:
    """A webhook's patch with that operation."""
    return by_webhook(mint, SECRETS, [VALUES[name](mint), _harmless(mint)])


KINDS: dict[str, Callable[[Mint], Event]] = {
    **{f"JSON patch: {name}": partial(json_patch, name=name) for name in VALUES},
    "JSON patch: split over operations": lambda mint: event(mint, "patch", SECRETS, split(mint)),
    "JSON patch: keys that come twice": lambda mint: event(mint, "patch", SECRETS, ambiguous(mint)),
    "merge patch": lambda mint: event(mint, "patch", SECRETS, merge(mint)),
    "strategic merge patch": lambda mint: event(mint, "patch", SECRETS, strategic(mint)),
    "apply patch": lambda mint: event(mint, "patch", SECRETS, apply(mint)),
    **{f"webhook's patch: {name}": partial(noted, name=name) for name in VALUES},
    "webhook's patch: split over operations": lambda mint: by_webhook(mint, SECRETS, split(mint)),
}

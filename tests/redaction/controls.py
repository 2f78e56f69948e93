"""Events that hold nothing secret, and that look as if they did: redaction leaves every byte of them."""

from __future__ import annotations

import functools
from collections.abc import Callable

from tests.redaction.events import LAST_APPLIED, SECRETS, Event, Resource, as_object, event, failure, named, partial
from tests.redaction.marks import Mint
from tests.redaction.plant_pods import CONTROLS, REFERENCE, WORKLOADS, made_of
from tests.redaction.plant_tokens import TOKENS
from tests.redaction.plant_uris import AT, EXEC
from tests.redaction.spelling import text

CONFIG = Resource("configmaps", "ConfigMap")
VALUES = {"password.hint": "none", "TOKEN": "visible", "config": "a: b"}
ENV = [
    *({"name": name, "value": value} for name, value in CONTROLS.items()),
    {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": REFERENCE}},
]
ARGS = (
    "--key-file=/x",
    "--tls-private-key-file=/etc/pki/tls.key",
    "--password-file=/run/secrets/db",
    "--keystore=/y",
    "--service-account-key-file=/etc/pki/sa.pub",
    "-p",
    "8080",
    "KEYCLOAK_URL=https://keycloak.example.com",
    "https://db.example.com:5432/a@b",
)


def _made(mint: Mint, index: int) -> Event:
    spec = {"containers": [{"name": "app", "image": "a:1", "env": ENV, "args": list(ARGS)}]}
    made = made_of(WORKLOADS[index], spec)
    made["metadata"]["annotations"] = {LAST_APPLIED: text(made)}
    return event(mint, "update", WORKLOADS[index].resource, made, made)


def _refused(mint: Mint, message: str, code: int) -> Event:
    status = failure(message, None, code)
    return event(mint, "get", SECRETS, None, as_object(status), status=status)


EVENTS: dict[str, Callable[[Mint], Event]] = {
    "a Secret's labels": lambda mint: event(mint, "patch", SECRETS, {"metadata": {"labels": {"password": "no"}}}),
    "a JSON patch of a Secret's labels": lambda mint: event(
        mint, "patch", SECRETS, [{"op": "add", "path": "/metadata/labels/token", "value": "no"}]
    ),
    "a Secret's metadata": lambda mint: event(mint, "get", SECRETS, None, partial(named(SECRETS, {}))),
    "a Secret without data": lambda mint: event(mint, "create", SECRETS, named(SECRETS, {"type": "Opaque"})),
    "a ConfigMap": lambda mint: event(
        mint, "update", CONFIG, named(CONFIG, {"data": VALUES}), named(CONFIG, {"data": VALUES})
    ),
    "a patch of a ConfigMap": lambda mint: event(
        mint, "patch", CONFIG, [{"op": "add", "path": "/data/x", "value": "y"}]
    ),
    "a TokenRequest that was refused": lambda mint: event(
        mint,
        "create",
        TOKENS,
        named(TOKENS, {"spec": {"audiences": ["a"]}, "status": {"token": "", "expirationTimestamp": None}}),
    ),
    "a Secret that is not found": lambda mint: _refused(mint, 'secrets "db" not found', 404),
    "a Secret that is forbidden": lambda mint: _refused(
        mint,
        'secrets "db" is forbidden: User "alice" cannot get resource "secrets" in API group "" in the namespace "team"',
        403,
    ),
    "a conflict": lambda mint: _refused(
        mint,
        'Operation cannot be fulfilled on secrets "db": the object has been modified; '
        "please apply your changes to the latest version and try again",
        409,
    ),
    "an exec": lambda mint: event(
        mint, "create", EXEC, uri=f"{AT}/exec?command=cat&command=%2Frun%2Fsecrets%2Ftoken&container=app&tty=true"
    ),
    "a continued list": lambda mint: event(
        mint,
        "list",
        SECRETS,
        uri="/api/v1/secrets?limit=500&continue=eyJ2IjoibWV0YS5rOHMuaW8&labelSelector=token%3Dx&fieldSelector=type%3Dpassword",
    ),
    "a path": lambda mint: event(
        mint, "get", EXEC, uri="/api/v1/namespaces/team/secrets/token?resourceVersion=0&keyspace=a"
    ),
    **{
        f"{workload.resource.kind} of {workload.resource.group}": functools.partial(_made, index=index)
        for index, workload in enumerate(WORKLOADS)
    },
}

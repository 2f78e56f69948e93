"""Where receivers live: new ones apart from the gateway, and those of an earlier release where their claims are."""

from __future__ import annotations

from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.placing import namespace_of, not_granted, not_served
from auditpipeline.control.seen import Seen, entry_of, key_of
from auditpipeline.control.settings import Settings
from tests.control import bodies

OWN, HOME = "auditpipeline-system", "auditpipeline-receivers"
APART = Settings(namespace=OWN, receivers_namespace=HOME, watch_namespaces=("audit",))
UID = bodies.parsed(bodies.pipeline("shop")).metadata.uid


def child(namespace: str, uid: str = UID, kind: str = "Service") -> tuple[str, dict[str, Any]]:
    """An object of the pipeline shop, with the UID of its owner."""
    owner = {"apiVersion": names.API_VERSION, "kind": "AuditPipeline", "name": "shop", "uid": uid}
    meta = {"name": "audit-shop", "namespace": namespace, "labels": names.labels("shop"), "ownerReferences": [owner]}
    return f"{kind.lower()}s", {"kind": kind, "metadata": meta, "spec": {}}


def seen(*children: tuple[str, dict[str, Any]]) -> Seen:
    """These objects, as a list would have told of them."""
    made = Seen()
    for plural, body in children:
        made.put(key_of(plural, body), entry_of(plural, body))
    return made


@pytest.mark.parametrize(
    ("target", "there", "settings", "place"),
    [
        (None, (), APART, HOME),
        (None, (), Settings(namespace=OWN), OWN),
        ("audit", (), APART, "audit"),
        (None, (child(OWN),), APART, OWN),
        (None, (child(OWN, kind="Secret"),), APART, OWN),
        (None, (child(OWN, uid="of a former pipeline"),), APART, HOME),
        (None, (child("audit"),), APART, HOME),
        (None, (child(HOME),), APART, HOME),
        (None, (child(OWN), child(HOME)), APART, OWN),
        ("audit", (child(OWN),), APART, "audit"),
    ],
    ids=[
        *("new", "no namespace of receivers", "named"),
        *("an earlier release's", "one child is enough", "a former pipeline's", "somebody's claim elsewhere"),
        *("new and running", "after a rollback and back", "named, whatever is there"),
    ],
)
def test_receivers_are_where_their_events_are(
    target: str | None, there: tuple[tuple[str, dict[str, Any]], ...], settings: Settings, place: str
) -> None:
    """What is owned by the pipeline's UID in the operator's own namespace decides, and nothing that is remembered."""
    extra = {"targetNamespace": target} if target else {}
    assert namespace_of(bodies.parsed(bodies.pipeline("shop", **extra)), settings, seen(*there)) == place


def test_the_operators_own_namespace_is_watched_and_not_served() -> None:
    """Unless it is where receivers live, or an earlier release's are still there."""
    assert APART.namespaces == (OWN, HOME, "audit")
    assert APART.served == (HOME, "audit")
    assert Settings(namespace=OWN, receivers_namespace=HOME, legacy_receivers=True).served == (HOME, OWN)
    assert Settings(namespace=OWN).served == Settings(namespace=OWN).namespaces == (OWN,)


@pytest.mark.parametrize(
    ("namespace", "mend"),
    [
        (OWN, "set receivers.legacy of the chart to true"),
        (HOME, "its value receivers.namespace"),
        ("audit", "add audit to targetNamespaces"),
    ],
)
def test_what_to_do_is_said_for_each_namespace(namespace: str, mend: str) -> None:
    """Whether the operator was not given it, or lacks a permission there."""
    assert mend in not_served(namespace, APART)
    assert mend in not_granted(namespace, APART)

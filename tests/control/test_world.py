"""Having the cluster hold a manifest."""

from __future__ import annotations

from typing import Any

from auditpipeline.control import desired
from auditpipeline.control.resources import Resource
from auditpipeline.control.world import ensure
from tests.control import bodies
from tests.control.fakes import Answers, world

ACCOUNT = desired.account(bodies.parsed(), "audit")
KEY = ("serviceaccounts", "audit", "audit-security")


async def test_what_is_deleted_before_the_answer_to_its_creation_is_read_is_no_error() -> None:
    """A watch may be faster than the answer; the next round makes it again."""

    class Deleting(Answers):
        async def apply(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
            made.seen.drop(KEY, "u1", "8")
            return body | {"metadata": body["metadata"] | {"uid": "u1", "resourceVersion": "7"}}

    made = await world(Deleting())
    assert (await ensure(made, ACCOUNT)).uid == "u1"
    assert KEY not in made.seen.entries

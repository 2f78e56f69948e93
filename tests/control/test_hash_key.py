"""The key of hashes: made once, never overwritten, and named without being told."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from auditpipeline.control import names
from auditpipeline.control.hash_key import NO_KEY, HashKey, hash_key, key_of
from auditpipeline.control.kube import Conflict, Forbidden
from auditpipeline.control.resources import SECRETS
from auditpipeline.core.destination import OWN_SECRETS
from auditpipeline.core.redaction.model import KEY_BYTES, MOST_KEY_BYTES
from tests.control.fakes import Answers

NAMESPACE = "auditpipeline-system"
WHERE = (SECRETS.plural, names.REDACTION_SECRET)


def secret(value: bytes, key: str = "key", version: str = "5") -> dict[str, Any]:
    """The Secret as it is stored."""
    meta = {"name": names.REDACTION_SECRET, "namespace": NAMESPACE, "uid": "u1", "resourceVersion": version}
    return {"metadata": meta, "data": {key: base64.b64encode(value).decode()}}


async def test_a_key_that_is_there_is_used_and_nothing_is_written() -> None:
    """Whoever put it there, and whatever its labels."""
    kube = Answers({WHERE: secret(b"x" * KEY_BYTES)})
    found = await hash_key(kube, NAMESPACE)
    assert (found.value, found.problem, kube.written) == (b"x" * KEY_BYTES, "", [])
    ((name, value),) = found.data.items()
    assert (value, found.file) == (b"x" * KEY_BYTES, f"/etc/auditpipeline/config/{name}")


async def test_a_key_is_made_if_there_is_none() -> None:
    """Random, long enough, by a request that creates and never changes anything."""
    first, second = Answers(), Answers()
    keys = {(await hash_key(kube, NAMESPACE)).value for kube in (first, second)}
    assert {len(key) for key in keys} == {KEY_BYTES}
    assert len(keys) == 2
    (body,) = first.written
    assert (body["metadata"]["name"], body["metadata"]["namespace"]) == (names.REDACTION_SECRET, NAMESPACE)


class Race(Answers):
    """Another operator makes the Secret between the look and the request."""

    async def create(self, kind: Any, body: Any) -> Any:
        self.objects[WHERE] = secret(b"w" * KEY_BYTES)
        raise Conflict("already exists")


async def test_of_two_operators_the_second_uses_the_key_of_the_first() -> None:
    """The Secret decides, not who asked."""
    assert (await hash_key(Race(), NAMESPACE)).value == b"w" * KEY_BYTES


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (secret(b"x" * (KEY_BYTES - 1)), "has 31 bytes, and 32 to 4096 are needed"),
        (secret(b"x" * (MOST_KEY_BYTES + 1)), "has 4097 bytes"),
        (secret(b"x" * KEY_BYTES, key="other"), "has 0 bytes"),
        ({"metadata": {"name": "auditpipeline-redaction"}, "data": {"key": "no base64!"}}, "has 0 bytes"),
        ({"metadata": {"name": "auditpipeline-redaction"}}, "has 0 bytes"),
    ],
    ids=["short", "long", "another name", "not base64", "empty"],
)
def test_a_key_that_cannot_be_used_is_none_and_says_why(body: dict[str, Any], says: str) -> None:
    """Not a character of it is repeated."""
    found = key_of(body)
    assert (found.value, found.file, found.data) == (b"", None, {})
    assert says in found.problem
    assert "delete the Secret" in found.problem
    assert "xx" not in found.problem


async def test_without_the_right_to_make_one_there_is_no_key_and_no_error() -> None:
    """Values are masked then, and everything else goes on."""
    kube = Answers()
    kube.refusal = Forbidden("secrets is forbidden: exceeded quota")
    found = await hash_key(kube, NAMESPACE)
    assert found.value == b""
    assert "exceeded quota" in found.problem


def test_a_key_is_named_without_being_told() -> None:
    """Another key has another version; neither it nor what a log would print shows the value."""
    one, other = key_of(secret(b"secretly" * 4)), key_of(secret(b"another!" * 4, version="6"))
    assert one.version != other.version
    assert one.file != other.file
    assert b"secretly".decode() not in f"{one} {one!r} {one.version}"
    assert HashKey() == NO_KEY


def test_no_output_may_send_the_key_away() -> None:
    """It has a name of the operator's own."""
    assert OWN_SECRETS.fullmatch(names.REDACTION_SECRET)

"""The last accepted generation, as its Secret keeps it."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
from typing import Any

import pytest

from auditpipeline.control import desired, desired_pod, generation
from auditpipeline.control.certificates import Pair
from auditpipeline.control.generation import Accepted, secret, stored
from auditpipeline.control.resources import Features
from auditpipeline.control.settings import Settings
from auditpipeline.core.spec import stored_pipeline
from tests.control import bodies

PIPELINE = bodies.parsed(bodies.rich())
UID = PIPELINE.metadata.uid
ACCEPTED = Accepted(UID, 3, "x", bodies.rich()["spec"])


def seal(content: bytes) -> str:
    """A seal under some key."""
    return hmac.new(b"key", content, hashlib.sha256).hexdigest()


def kept(accepted: Accepted = ACCEPTED) -> dict[str, Any]:
    """The Secret of a generation."""
    made = secret(PIPELINE, "audit", accepted, seal)
    assert made is not None
    return made


def test_what_is_kept_is_found_again() -> None:
    """Byte for byte the same for the same generation: nothing is written twice."""
    assert stored(kept(), UID, seal) == ACCEPTED
    assert kept() == kept()
    assert kept()["metadata"]["ownerReferences"][0]["uid"] == UID


def test_redaction_is_a_part_of_what_is_kept_and_the_key_is_not() -> None:
    """Anybody who is redacted stays so while a newer generation is refused; another key is not a new generation."""
    body = bodies.redacted()
    found = stored(kept(Accepted(UID, 3, "x", body["spec"])), UID, seal)
    assert found is not None
    assert stored_pipeline(body | {"spec": found.spec}).spec.redaction == bodies.parsed(body).spec.redaction
    tls = desired.Certified(Pair("c", "k"), "b")
    named = [
        generation.inputs(
            3, desired.children(PIPELINE, "audit", b"", tls, Settings(), Features(), {"redaction.key": key})
        )
        for key in (b"one", b"other")
    ]
    assert named[0] == named[1]


def changed(key: str, value: str) -> dict[str, Any]:
    """The Secret with another value of one key."""
    made = copy.deepcopy(kept())
    made["data"][key] = value
    return made


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": None},
        {"data": {}},
        changed("seal", base64.b64encode(b"0" * 64).decode()),
        changed("seal", "not base64"),
        changed("generation.json.gz", base64.b64encode(b"{}").decode()),
        changed("generation.json.gz", kept(Accepted(UID, 4, "x", {}))["data"]["generation.json.gz"]),
    ],
)
def test_what_somebody_else_wrote_there_counts_as_nothing(body: dict[str, Any]) -> None:
    """Whoever may write Secrets in the namespace cannot say what an AuditPipeline asks for."""
    assert stored(body, UID, seal) is None


def test_a_generation_of_another_object_or_key_counts_as_nothing() -> None:
    """A pipeline that was made again begins anew; so does one whose authority was made anew."""
    assert stored(kept(), "another", seal) is None
    assert stored(kept(), UID, lambda content: seal(b"other" + content)) is None


def test_a_generation_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In either form; what is sealed is inflated no further than that."""
    monkeypatch.setattr(generation, "INFLATED", 100)
    assert secret(PIPELINE, "audit", ACCEPTED, seal) is None
    made = kept(Accepted(UID, 3, "x", {}))
    monkeypatch.setattr(generation, "INFLATED", 10)
    assert stored(made, UID, seal) is None
    monkeypatch.setattr(generation, "INFLATED", 10**6)
    monkeypatch.setattr(generation, "PACKED", 10)
    assert secret(PIPELINE, "audit", ACCEPTED, seal) is None


def test_a_renewed_certificate_is_no_new_generation_and_another_image_is() -> None:
    """What is dry-run anew is what can be refused anew."""

    def inputs(image: str, content: bytes, number: int = 3, bundle: str = "a") -> str:
        features, settings = Features(), Settings(image=image)
        made = [
            desired.secret({"name": "x"}, {"tls.key": content}),
            desired.service(PIPELINE, "audit", settings),
            desired_pod.statefulset(PIPELINE, "audit", settings, features),
            desired.audit_sink(PIPELINE, "audit", bundle, settings, features),
        ]
        return generation.inputs(number, made)

    assert inputs("one", b"1") == inputs("one", b"2", bundle="b")
    assert len({inputs("one", b"1"), inputs("two", b"1"), inputs("one", b"1", 4)}) == 3

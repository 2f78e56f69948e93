"""Answers of an API server, and what they tell the controller to do next."""

from __future__ import annotations

import json

import pytest
from yarl import URL

from auditpipeline.control.kube import (
    Conflict,
    Forbidden,
    NoDryRun,
    NotFound,
    NoUpsert,
    Refused,
    Unadmitted,
    translate,
)
from auditpipeline.control.resources import SECRETS, SERVICES, STATEFULSETS
from auditpipeline.core.errors import Invalid, Permanent, Retryable


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (429, Retryable),
        (401, Retryable),
        (500, Retryable),
        (503, Retryable),
    ],
)
def test_an_answer_says_whether_trying_again_helps(status: int, kind: type[Exception]) -> None:
    """One line a status."""
    error = translate(status, b"", "get", SECRETS, "audit")
    assert isinstance(error, kind)
    assert isinstance(error, Retryable) is (kind not in (Invalid, Forbidden))


def test_a_refusal_names_the_permission_and_the_namespace() -> None:
    """That is what somebody has to grant."""
    said = 'statefulsets.apps "a" is forbidden: User "op" cannot patch resource "statefulsets" in the namespace "audit"'
    error = translate(403, json.dumps({"message": said}).encode(), "apply", STATEFULSETS, "audit")
    assert isinstance(error, Permanent)
    assert not isinstance(error, Refused)
    assert str(error) == f"the operator may not apply statefulsets.apps in namespace audit: {said}"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('secrets "a" is forbidden: exceeded quota: few, requested: count/secrets=1, used: 0, limited: 0', Refused),
        ('admission webhook "w.example.org" denied the request: no', Refused),
        (
            'secrets "a" is forbidden: unable to create new content in namespace x because it is being terminated',
            Forbidden,
        ),
        ("", Forbidden),
    ],
)
def test_what_admission_refuses_is_no_missing_permission(said: str, kind: type[Exception]) -> None:
    """Whoever wrote the object is told, in the words of whoever refused it."""
    error = translate(403, json.dumps({"message": said}).encode(), "apply", SECRETS, "audit")
    assert type(error) is kind
    assert said in str(error)


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (422, 'Secret "a" is invalid: metadata.uid: Invalid value: "u": field is immutable', Conflict),
        (400, 'admission webhook "w.example.org" does not support dry run', NoDryRun),
        (400, "no such field", Invalid),
        (500, "resourceVersion should not be set on objects to be created", NoUpsert),
        (500, 'Internal error occurred: failed calling webhook "w.example.org": connection refused', Unadmitted),
    ],
)
def test_another_object_and_no_dry_run_are_told_apart_from_bad_input(
    status: int, said: str, kind: type[Exception]
) -> None:
    """An apply names the UID that it is meant for; a dry run that nobody answers says nothing of the object."""
    assert type(translate(status, json.dumps({"message": said}).encode(), "apply", SECRETS, "audit")) is kind


def test_a_server_that_says_how_long_to_wait_is_heard() -> None:
    """details.retryAfterSeconds of a Status."""
    error = translate(429, b'{"message":"slow down","details":{"retryAfterSeconds":7}}', "list", SECRETS, None)
    assert isinstance(error, Retryable)
    assert error.after == 7


@pytest.mark.parametrize("body", [None, b"", b"<html>", b"[]", b"\xff"])
def test_an_answer_that_is_no_status_is_no_trouble(body: bytes | None) -> None:
    """Proxies answer in HTML."""
    assert isinstance(translate(502, body, "get", SECRETS, None), Retryable)


@pytest.mark.parametrize("name", ["../secrets/auditpipeline-ca", "a?b", "a#b", "a%2Fb", "a b", "\n"])
def test_a_strange_name_stays_one_segment_of_the_path(name: str) -> None:
    """As the client sends it: no name leads to another kind of object."""
    path = URL(f"https://host{SERVICES.path(name, 'audit')}").raw_path
    assert path.startswith("/api/v1/namespaces/audit/services/")
    assert path.count("/") == 6


@pytest.mark.parametrize(("name", "namespace"), [(".", "audit"), ("..", "audit"), ("a", ".."), ("a", ".")])
def test_no_object_is_called_like_a_folder(name: str, namespace: str) -> None:
    """The client would clean it away, and the answer would be that of another path."""
    with pytest.raises(Invalid, match="no name of an object"):
        SERVICES.path(name, namespace)

"""What is said of an exception that ends a round: any of them, and never for longer than it is forgiven."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from auditpipeline.control.kube import Conflict, Forbidden, NotFound
from auditpipeline.control.reconcile import reconcile
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import SECRETS, Resource
from auditpipeline.control.rounds import Halt
from auditpipeline.control.trouble import GRACE, is_forgivable, problem_of
from auditpipeline.control.world import BeingDeleted, World
from auditpipeline.core.errors import Invalid, Permanent, Retryable
from tests.control import bodies
from tests.control.fakes import Answers, world
from tests.control.test_status import COVERED, good, status

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
OUTPUT = {"url": "https://siem.example/", "bearerTokenSecretRef": {"name": "siem", "key": "token"}}


@pytest.mark.parametrize(
    ("error", "reason", "stalled", "forgiven"),
    [
        (Halt("NamespaceMissing", "x", stalled=True), "NamespaceMissing", True, False),
        (Halt("Forbidden", "x", stalled=True), "Forbidden", True, True),
        (Halt("Replacing", "x", stalled=False), "Replacing", False, False),
        (BeingDeleted("x"), "BeingDeleted", False, False),
        (Invalid("spec", "x"), "InvalidSpec", True, False),
        (Forbidden("x"), "Forbidden", True, True),
        (Permanent("x"), "Blocked", True, True),
        (Retryable("x"), "Retrying", False, True),
        (NotFound("x"), "Retrying", False, True),
        (Conflict("x"), "Retrying", False, True),
        (OverflowError("date value out of range"), "InternalError", False, True),
        (KeyError("a"), "InternalError", False, True),
    ],
)
def test_every_exception_has_a_reason(error: Exception, reason: str, *, stalled: bool, forgiven: bool) -> None:
    """Also those that nobody foresaw, whose text is for the log alone."""
    problem, is_stalled = problem_of(error)
    assert (problem.reason, is_stalled, is_forgivable(error)) == (reason, stalled, forgiven)
    assert reason != "InternalError" or str(error) not in problem.message


class Failing(Answers):
    """Reading Secrets of outputs fails with `error`."""

    error: Exception | None = None

    async def get(self, kind: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if kind is SECRETS and name == "siem" and self.error:
            raise self.error
        return await super().get(kind, name, namespace)


class Clock:
    """A time that the test moves."""

    at = START

    def __call__(self) -> datetime:
        return self.at


async def failing(former: dict[str, Any], error: Exception) -> tuple[Failing, World, Clock]:
    """A controller with one pipeline of this status, whose rounds end with an error."""
    body = bodies.pipeline(outputs=[{"name": "siem", "http": OUTPUT}]) | {"status": former}
    kube, clock = Failing({("auditpipelines", "security"): body}), Clock()
    # No Pod is looked at: what they say is not what this is about.
    made = await world(kube, clock=clock, closed=frozenset({"auditpipeline-system"}))
    kube.error = error
    kube.written.clear()
    return kube, made, clock


def said(kube: Answers) -> list[dict[str, str]]:
    """What was written of Ready, but that it is True."""
    found = [entry for body in kube.written for entry in body.get("conditions", ()) if entry["type"] == "Ready"]
    return [{key: entry[key] for key in ("status", "reason")} for entry in found if entry["status"] != "True"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Retryable("apply statefulsets: HTTP 500 failed calling webhook"), "Retrying"),
        (OverflowError(), "InternalError"),
        (Forbidden("may not"), "Forbidden"),
    ],
)
async def test_an_error_that_lasts_is_said_of_a_pipeline_that_was_ready(error: Exception, reason: str) -> None:
    """Not before it has lasted for GRACE seconds, and no later."""
    former = status(good(upstream=COVERED), {})
    kube, made, clock = await failing(former, error)
    woken: list[float] = []
    made.wake = lambda key, seconds: woken.append(seconds)
    recorder = Recorder(kube, clock, "test")
    with pytest.raises(type(error)):
        await reconcile(made, recorder, "security")
    assert said(kube) == []
    assert GRACE in woken
    clock.at = START + timedelta(seconds=GRACE)
    with pytest.raises(type(error)):
        await reconcile(made, recorder, "security")
    assert said(kube) == [{"status": "False", "reason": reason}]
    assert made.ready == {"security": False}


async def test_a_new_pipeline_has_a_status_at_once() -> None:
    """Of which nothing is known yet, nothing can be kept."""
    kube, made, clock = await failing({"observedGeneration": -1}, Retryable("HTTP 500"))
    with pytest.raises(Retryable):
        await reconcile(made, Recorder(kube, clock, "test"), "security")
    assert said(kube) == [{"status": "False", "reason": "Retrying"}]


async def test_how_long_an_error_is_forgiven_begins_when_the_api_server_answers() -> None:
    """While nothing can be read nothing can be written either; afterwards it may take a moment to be itself again."""
    kube, made, clock = await failing(status(good(upstream=COVERED), {}), Retryable("HTTP 500"))
    recorder = Recorder(kube, clock, "test")
    with pytest.raises(Retryable):
        await reconcile(made, recorder, "security")
    clock.at = START + timedelta(seconds=60)

    async def away(*_: object) -> None:
        raise Retryable("the Kubernetes API does not answer")

    kube.get, get = away, kube.get  # type: ignore[method-assign, assignment]
    with pytest.raises(Retryable):
        await reconcile(made, recorder, "security")
    kube.get = get  # type: ignore[method-assign]
    with pytest.raises(Retryable):
        await reconcile(made, recorder, "security")
    assert said(kube) == []

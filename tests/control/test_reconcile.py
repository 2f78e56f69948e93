"""One reconcile, by itself: what it does where the world changes under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from auditpipeline.control import reconcile as module
from auditpipeline.control.facts import Facts
from auditpipeline.control.gateway import reconcile_gateway
from auditpipeline.control.gateway_state import GatewayState, Standing
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.published import PipelineStatus, SinkStatus
from auditpipeline.control.reconcile import reconcile
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import PIPELINES, SINKS, Resource
from auditpipeline.control.sinks import reconcile_sinks
from auditpipeline.control.status import status
from auditpipeline.core.errors import Invalid, Retryable
from tests.control import bodies
from tests.control.fakes import Answers, now, world


def stored(body: dict[str, Any], version: str) -> dict[str, Any]:
    """The object as it is at some resourceVersion, which is another one after it was made again."""
    return body | {"metadata": body["metadata"] | {"uid": f"since {version}", "resourceVersion": version}}


async def test_a_pipeline_that_was_made_again_meanwhile_gets_a_round_of_its_own() -> None:
    """What was found is not true of it; no status is written, and it is looked at at once."""

    class Changing(Answers):
        async def get(self, kind: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
            found = await super().get(kind, name, namespace)
            if kind is PIPELINES and found:
                self.objects["auditpipelines", name] = stored(found, "8")
            return found

    kube = Changing({("auditpipelines", "security"): stored(bodies.pipeline(), "7")})
    made = await world(kube)
    kube.written.clear()
    assert await reconcile(made, Recorder(kube, now, "test"), "security") == 0.0
    assert not [body for body in kube.written if "conditions" in body]
    assert await reconcile(made, Recorder(kube, now, "test"), "security") != 0.0
    assert [body for body in kube.written if "conditions" in body]


class Annotated(Answers):
    """Somebody writes annotations of an object after it was read."""

    reads = 0

    async def patch_status(
        self, kind: Resource, name: str, status: Mapping[str, Any], namespace: str | None = None, *, version: str = ""
    ) -> dict[str, Any] | None:
        if not self.reads:
            self.reads = 1
            body = self.objects[kind.plural, name]
            self.objects[kind.plural, name] = body | {"metadata": body["metadata"] | {"resourceVersion": "8"}}
        return await super().patch_status(kind, name, status, namespace, version=version)


async def test_a_sink_whose_annotations_are_written_all_the_time_has_a_status() -> None:
    """It is true of the generation, whatever else was written while the gateway was asked."""
    kube = Annotated({(SINKS.plural, "siem"): stored(bodies.sink("siem", url="https://siem.example/"), "7")})
    made = await world(kube)
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    await reconcile_sinks(made)
    assert [body for body in kube.written if "conditions" in body]


async def test_a_sink_that_was_made_again_meanwhile_is_rendered_first() -> None:
    """Its status is that of another one until then."""
    sink = bodies.sink("siem", url="https://siem.example/")
    kube = Answers({(SINKS.plural, "siem"): stored(sink, "7")})
    made = await world(kube)
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    kube.objects[SINKS.plural, "siem"] = stored(sink, "8")
    kube.written.clear()
    await reconcile_sinks(made)
    assert kube.written == []
    assert made.gateway.dirty
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    await reconcile_sinks(made)
    assert [body["conditions"][0]["reason"] for body in kube.written if "conditions" in body] == ["GatewayNotRunning"]


@pytest.mark.parametrize("error", [Retryable("HTTP 500 request is too large"), Invalid("", "no"), Forbidden("no")])
async def test_a_sink_whose_status_is_not_taken_keeps_no_other_from_its_own(error: Exception) -> None:
    """Its user may have made it as large as an API server can store. The gateway is looked at as before."""

    class Full(Answers):
        tries = 0

        async def patch_status(
            self,
            kind: Resource,
            name: str,
            status: Mapping[str, Any],
            namespace: str | None = None,
            *,
            version: str = "",
        ) -> dict[str, Any] | None:
            if name == "a":
                self.tries += 1
                raise error
            return await super().patch_status(kind, name, status, namespace, version=version)

    sinks = {name: bodies.sink(name, url="https://siem.example/") for name in ("a", "b")}
    kube = Full({(SINKS.plural, name): stored(body, "7") for name, body in sinks.items()})
    made = await world(kube)
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    kube.written.clear()
    for _ in range(2):
        assert await reconcile_sinks(made) is not None
    assert len([body for body in kube.written if "conditions" in body]) == 1
    assert kube.tries == 1


def test_a_status_that_was_written_while_all_sinks_were_listed_is_known() -> None:
    """Or the next one would be refused, as of a version that is past, and rendered for."""

    def standing(uid: str, lag: int | None, version: str, written: float = 0.0) -> Standing:
        return Standing((uid, "x"), 1, SinkStatus(lag_seconds=lag), written, version)

    state = GatewayState(standing={"a": standing("u1", 7, "9", 5.0)})
    state.stand({"a": standing("u1", 6, "8")})
    assert (state.standing["a"].status.lag_seconds, state.standing["a"].version) == (7, "9")
    state.stand({"a": standing("u1", 8, "10")})
    assert state.standing["a"].status.lag_seconds == 8
    state.stand({"a": standing("u2", None, "11")})
    assert state.standing["a"].version == "11"


async def test_somebody_who_writes_all_the_time_does_not_keep_the_status_away() -> None:
    """Annotations and labels of others move the resourceVersion, and make nothing of the status untrue."""

    class Busy(Answers):
        async def patch_status(self, kind: Resource, name: str, *args: Any, **options: Any) -> Any:
            if not self.moved:
                self.moved = True
                self.objects[kind.plural, name]["metadata"]["resourceVersion"] = "8"
            return await super().patch_status(kind, name, *args, **options)

        moved = False

    body = bodies.pipeline()
    kube = Busy({("auditpipelines", "security"): body | {"metadata": body["metadata"] | {"resourceVersion": "7"}}})
    made = await world(kube)
    kube.written.clear()
    await reconcile(made, Recorder(kube, now, "test"), "security")
    assert len([body for body in kube.written if "conditions" in body]) == 1


@pytest.mark.parametrize("fault", ["made", "refused"])
async def test_a_status_that_cannot_be_made_or_written_leaves_no_true_one_behind(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a fault of ours, or because the API server refuses it: Ready says so all the same."""

    class Refusing(Answers):
        async def patch_status(self, kind: Resource, name: str, status: Any, *args: Any, **options: Any) -> Any:
            if fault == "refused" and "InternalError" not in str(status):
                raise Invalid("status", "is invalid")
            return await super().patch_status(kind, name, status, *args, **options)

    def failing(facts: Facts, previous: PipelineStatus) -> PipelineStatus:
        if facts.waiting is None or facts.waiting.reason != "InternalError":
            raise OverflowError
        return status(facts, previous)

    former = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "observedGeneration": 3}]}
    kube = Refusing({("auditpipelines", "security"): stored(bodies.pipeline(), "7") | {"status": former}})
    made = await world(kube)
    if fault == "made":
        monkeypatch.setattr(module, "status", failing)
    with pytest.raises((OverflowError, Invalid)):
        await reconcile(made, Recorder(kube, now, "test"), "security")
    (said,) = [body["conditions"] for body in kube.written if "conditions" in body]
    assert (said[0]["type"], said[0]["status"], said[0]["reason"]) == ("Ready", "False", "InternalError")
    assert made.ready == {"security": False}


async def test_a_status_that_an_older_crd_prunes_is_not_written_again_and_again() -> None:
    """What is new in this release is not stored there; what differs otherwise is written."""

    class Pruning(Answers):
        async def patch_status(self, kind: Resource, name: str, status: Any, *args: Any, **options: Any) -> Any:
            self.written.append(dict(status))
            stored = self.objects[kind.plural, name]
            kept = {key: value for key, value in status.items() if key != "outputsReady"}
            self.objects[kind.plural, name] = stored | {"status": stored.get("status", {}) | kept}
            return self.objects[kind.plural, name]

    kube = Pruning({("auditpipelines", "security"): stored(bodies.pipeline(), "7")})
    made = await world(kube)
    kube.written.clear()
    for _ in range(4):
        await reconcile(made, Recorder(kube, now, "test"), "security")
    assert len([body for body in kube.written if "outputsReady" in body]) == 1

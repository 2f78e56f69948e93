"""What reaches the gateway's Secrets if one of them, or one sink, is not as it should be."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from auditpipeline.control.desired_gateway import unpacked
from auditpipeline.control.gateway import SILENT, reconcile_gateway
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import Resource
from auditpipeline.control.world import World
from auditpipeline.core import config
from auditpipeline.core.errors import Invalid, Retryable
from tests.control import bodies
from tests.control.fakes import Answers, now, world
from tests.control.test_gateway import cluster, named


class Picky(Answers):
    """Refuses what has a word in it, and answers for no Service while it is `silent`."""

    word = b""
    silent = False

    async def create(self, kind: Resource, body: dict[str, Any]) -> dict[str, Any]:
        data = [base64.b64decode(value) for value in body.get("data", {}).values()] if kind.plural == "secrets" else []
        if self.word and any(self.word in value for value in data):
            raise Invalid("", "apply secrets: too large")
        return await super().create(kind, body)

    async def get(self, kind: Resource, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        if kind.plural == "services" and self.silent:
            raise Retryable("no answer")
        return await super().get(kind, name, namespace)

    def put(self, body: dict[str, Any]) -> None:
        """Have the cluster hold this AuditSink."""
        self.objects["auditsinks", body["metadata"]["name"]] = named(body)


def url(name: str, host: str = "") -> dict[str, Any]:
    """An AuditSink with a URL."""
    return bodies.sink(name, url=f"https://{host or name}.example/")


def service(name: str) -> dict[str, Any]:
    """An AuditSink with a Service."""
    return bodies.sink(name, service={"namespace": "audit", "name": name})


def written(kube: Answers) -> dict[str, str]:
    """Where the routes lead that were written last."""
    secrets = [body for body in kube.written if body["kind"] == "Secret" and unpacked(body)]
    head = config.decode(unpacked(secrets[-1]) or b"")
    return {route.name: getattr(route.output, "url", "") for route in head.routes}


async def again(made: World, kube: Picky) -> None:
    """Something has changed."""
    made.gateway.dirty = True
    await reconcile_gateway(made, Recorder(kube, now, "test"))


async def test_what_is_deleted_goes_from_a_secret_that_takes_no_change() -> None:
    """And the change comes when it is taken; the sink that waits for it says why."""
    kube = Picky(cluster(url("good"), url("gone"), url("other")).objects)
    made = await world(kube)
    await again(made, kube)
    assert set(written(kube)) == {"good", "gone", "other"}
    del kube.objects["auditsinks", "gone"]
    kube.put(url("good", "refused"))
    kube.word = b"refused"
    with pytest.raises(Invalid, match="too large"):
        await again(made, kube)
    assert written(kube) == {"good": "https://good.example/", "other": "https://other.example/"}
    assert "too large" in made.gateway.unwritten[0]
    kube.word = b""
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    assert written(kube)["good"] == "https://refused.example/"
    assert made.gateway.unwritten == {}


async def test_a_secret_that_takes_nothing_new_keeps_no_other_sink_from_its_route() -> None:
    """It goes into the next one."""
    kube = Picky(cluster(url("good")).objects)
    made = await world(kube)
    await again(made, kube)
    kube.put(url("new"))
    kube.word = b'"new"'
    with pytest.raises(Invalid):
        await again(made, kube)
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    assert made.gateway.homes == {"good": 0, "new": 1}
    assert made.gateway.stored is not None
    assert list(made.gateway.stored[1].held.routes) == ["new"]


async def test_a_sink_for_whose_service_nobody_answers_keeps_its_route_and_others_come() -> None:
    """It is looked at again. Where nobody answers for several, nothing is changed: the API server is away."""
    kube = Picky(cluster(service("a"), a={"metadata": {}, "spec": {"clusterIP": "10.0.0.9"}}).objects)
    made = await world(kube)
    await again(made, kube)
    kube.put(url("b"))
    kube.silent = True
    with pytest.raises(Retryable):
        await again(made, kube)
    assert written(kube) == {"a": "https://a.audit.svc/", "b": "https://b.example/"}
    assert made.gateway.dirty
    for number in range(SILENT):
        kube.put(service(f"more-{number}"))
    del kube.objects["auditsinks", "b"]
    with pytest.raises(Retryable):
        await again(made, kube)
    assert "b" in written(kube)
    kube.silent = False
    await again(made, kube)
    assert list(written(kube)) == ["a"]

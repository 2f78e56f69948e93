"""What the gateway is told, where one AuditSink is not as the others are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from auditpipeline.control import names
from auditpipeline.control.desired_gateway import unpacked
from auditpipeline.control.gateway import look, reconcile_gateway
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.probe import Prober
from auditpipeline.control.recorder import Recorder
from auditpipeline.control.resources import PODS
from auditpipeline.control.seen import entry_of, key_of
from auditpipeline.control.upstream import PolicyFile
from auditpipeline.core import config
from auditpipeline.core.errors import Retryable
from auditpipeline.core.redaction.model import Redaction
from auditpipeline.core.report import Events, Report, StaticPolicy
from tests.control import bodies
from tests.control.fakes import Answers, now, world

LABELS = {names.APP: names.GATEWAY}
GOOD = bodies.sink("good", url="https://siem.example/")


def cluster(*sinks: dict[str, Any], **services: dict[str, Any]) -> Answers:
    """A cluster with these AuditSinks and Services."""
    stored = {("auditsinks", body["metadata"]["name"]): named(body) for body in sinks}
    return Answers(stored | {("services", name): body for name, body in services.items()})


def named(body: dict[str, Any]) -> dict[str, Any]:
    """The object as it is stored."""
    return body | {"metadata": body["metadata"] | {"uid": f"uid of {body['metadata']['name']}"}}


async def test_what_nobody_foresaw_of_one_sink_costs_no_other_its_events() -> None:
    """The answer for its Service is no Service; it is told on that sink, and in the log with all that is known."""
    odd = bodies.sink("odd", service={"namespace": "audit", "name": "odd"})
    kube = cluster(odd, GOOD, odd={"kind": "ServiceList", "metadata": {}, "items": []})
    made = await world(kube)
    with capture_logs() as logged:
        await reconcile_gateway(made, Recorder(kube, now, "test"))
    assert list(made.gateway.routes) == ["good"]
    assert "KeyError" in made.gateway.problems["odd"]
    assert [body["reason"] for body in kube.written if body["kind"] == "Event"] == ["CreateFailed"]
    (line,) = [entry for entry in logged if entry["event"] == "AuditSink cannot be used"]
    assert isinstance(line["exc_info"], KeyError)


async def test_a_sink_that_fails_unforeseen_after_an_update_keeps_its_route() -> None:
    """As any other that cannot be used as it was changed."""
    kube = cluster(GOOD)
    made, recorder = await world(kube), Recorder(kube, now, "test")
    await reconcile_gateway(made, recorder)
    changed = bodies.sink("good", service={"namespace": "audit", "name": "odd"})
    kube.objects = cluster(changed, odd={"kind": "ServiceList", "metadata": {}}).objects
    made.gateway.dirty = True
    await reconcile_gateway(made, recorder)
    assert list(made.gateway.routes) == ["good"]
    assert "stays in force" in made.gateway.problems["good"]
    assert [body["reason"] for body in kube.written if body["kind"] == "Event"] == ["UpdateFailed"]


def annotated(body: dict[str, Any], value: str | None) -> dict[str, Any]:
    """The sink with the annotation about redaction."""
    notes = {} if value is None else {"annotations": {names.REDACTION: value}}
    return body | {"metadata": body["metadata"] | notes}


async def test_what_an_annotation_says_counts_also_for_a_sink_that_cannot_be_used_as_it_was_changed() -> None:
    """Its former route stays, with what is asked of redaction now."""
    kube = cluster(annotated(GOOD, "none"))
    made, recorder = await world(kube), Recorder(kube, now, "test")
    made.settings = replace(made.settings, redaction_opt_out="allow")
    await reconcile_gateway(made, recorder)
    assert made.gateway.wanted["good"].redaction == Redaction(default=False)
    odd = bodies.sink("good", service={"namespace": "audit", "name": "odd"})
    kube.objects = cluster(odd, odd={"kind": "ServiceList", "metadata": {}}).objects
    made.gateway.dirty = True
    await reconcile_gateway(made, recorder)
    assert "stays in force" in made.gateway.problems["good"]
    assert made.gateway.wanted["good"].redaction is None


async def test_the_key_of_hashes_is_in_the_secret_of_the_head_only_while_a_route_hashes() -> None:
    """And in nothing else that is written; without such a route nobody asks for it."""
    kube = cluster(GOOD)
    made, recorder = await world(kube), Recorder(kube, now, "test")
    kube.written.clear()
    await reconcile_gateway(made, recorder)
    assert not [body for body in kube.written if body["metadata"]["name"] == names.REDACTION_SECRET]
    kube.objects = cluster(annotated(GOOD, "hash")).objects
    made.gateway.dirty = True
    await reconcile_gateway(made, recorder)
    (key,) = (body for body in kube.written if body["metadata"]["name"] == names.REDACTION_SECRET)
    heads = [body for body in kube.written if body["metadata"]["name"] == names.GATEWAY_CONFIG_SECRET]
    found = config.decode(unpacked(heads[-1]) or b"")
    assert found.redaction_key_file is not None
    assert heads[-1]["data"][found.redaction_key_file.rpartition("/")[2]] == key["data"]["key"]
    assert heads[0]["data"].keys() == {"config.json"}
    assert [body["kind"] for body in kube.written if key["data"]["key"] in str(body)] == ["Secret", "Secret"]


async def test_without_a_key_that_can_be_used_sinks_get_masked_values_and_the_log_says_so_once() -> None:
    """The gateway's configuration names no file, so that the data plane masks."""
    kube = cluster(annotated(GOOD, "hash"))
    meta = {"name": names.REDACTION_SECRET, "namespace": "auditpipeline-system"}
    kube.objects["secrets", names.REDACTION_SECRET] = {"metadata": meta, "data": {"key": "c2hvcnQ="}}
    made, recorder = await world(kube), Recorder(kube, now, "test")
    with capture_logs() as logged:
        for _ in range(2):
            made.gateway.dirty = True
            await reconcile_gateway(made, recorder)
    assert len([line for line in logged if "masked" in line["event"]]) == 1
    heads = [body for body in kube.written if body["metadata"]["name"] == names.GATEWAY_CONFIG_SECRET]
    assert heads[-1]["data"].keys() == {"config.json"}
    found = config.decode(unpacked(heads[-1]) or b"")
    assert (found.redaction_key_file, found.routes[0].redaction) == (None, Redaction())


async def test_an_api_server_that_does_not_answer_is_no_fault_of_a_sink() -> None:
    """Everything is tried again."""

    class Silent(Answers):
        async def get(self, kind: Any, name: str, namespace: str | None = None) -> dict[str, Any] | None:
            if kind.plural == "services":
                raise Retryable("no answer")
            return await super().get(kind, name, namespace)

    kube = Silent(cluster(bodies.sink("a", service={"namespace": "audit", "name": "a"})).objects)
    made = await world(kube)
    with pytest.raises(Retryable):
        await reconcile_gateway(made, Recorder(kube, now, "test"))
    assert made.gateway.dirty
    assert made.gateway.problems == {}


async def test_a_gateway_that_misses_one_look_is_no_news() -> None:
    """Neither of the sinks nor of the policy file beside it; the second in a row is."""
    answers: list[bool] = [True, False, True, False, False]

    class Forgetful(Prober):
        async def report(self, address: str, port: int, host: str) -> Report:
            if not answers.pop(0):
                raise Retryable("no answer within 3 s")
            said = Report("gateway", "gateway", made.gateway.digest, Events(), ())
            return msgspec.structs.replace(said, static_policy=StaticPolicy("rules: []", 1.0))

    kube = cluster(GOOD)
    made = await world(kube, prober=Forgetful())
    pod = {"metadata": {"name": "gateway", "namespace": "auditpipeline-system", "uid": "u", "labels": LABELS}}
    body = pod | {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    made.seen.put(key_of(PODS.plural, body), entry_of(PODS.plural, body))
    told = []
    while answers:
        await look(made)
        (file,) = made.upstream.files or [PolicyFile("", "", "", 0.0)]
        verdict = made.gateway.registration("good", made.gateway.sources["good"])
        assert verdict
        told.append((verdict.reason, file.text, file.error))
    well = ("Registered", "rules: []", "")
    assert told == [well] * 4 + [("GatewayUnreachable", "", "no answer: no answer within 3 s")]


async def test_without_the_right_to_annotate_pods_the_configuration_is_written_all_the_same() -> None:
    """kubelet refreshes what is mounted by itself; the right is asked for anew with each resync, and missed once."""

    class Unprivileged(Answers):
        patches = 0

        async def patch(self, *_: Any) -> None:
            self.patches += 1
            raise Forbidden("no")

    kube = Unprivileged({("auditsinks", "good"): named(GOOD)})
    made = await world(kube)
    body = {"kind": "Pod", "metadata": {"name": "gateway", "namespace": made.settings.namespace, "labels": LABELS}}
    body["status"] = {"phase": "Running"}
    made.seen.put(key_of(PODS.plural, body), entry_of(PODS.plural, body))
    with capture_logs() as logged:
        for _ in range(3):
            await reconcile_gateway(made, Recorder(kube, now, "test"))
    assert kube.patches == 1
    assert names.GATEWAY_CONFIG_SECRET in {body["metadata"]["name"] for body in kube.written}
    assert len([line for line in logged if "in its own time" in line["event"]]) == 1
    later = now().timestamp() + made.settings.resync
    made.clock = lambda: datetime.fromtimestamp(later, UTC)
    await reconcile_gateway(made, Recorder(kube, now, "test"))
    assert kube.patches == 2

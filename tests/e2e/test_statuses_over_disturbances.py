"""The promise of statuses: whatever becomes of the operator and of the API server, what is healthy does not flicker,
and nothing that is broken says Ready=True for more than ten seconds while the API server answers.

A recorder watches from outside (recorder.py), and a pure function judges (judging.py). The times that are asserted here
are the promise itself. The short run has a faster pace and shorter outages; the long one (`make statuses`) has the
operator's defaults and a whole minute. The table is printed at the end of the run.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import pytest

from tests.cluster.deployment import NAMESPACE, RECEIVERS
from tests.cluster.local import LocalDeployment
from tests.cluster.processes import Failed
from tests.e2e import disturbances
from tests.e2e.disturbances import Operators, rule, webhook_down
from tests.e2e.judging import GRACE, Key, Row, Window, judge
from tests.e2e.recorder import Recorder
from tests.e2e.scene import Scene, Wanted, as_wanted, traffic
from tests.e2e.traffic import pipeline
from tests.e2e.webhooks import Webhooks

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(900)]
LONG = pytest.param("long", marks=pytest.mark.long)
BOTH = pytest.mark.parametrize("pace", ["short", LONG], indirect=True, scope="module")
ROUNDS = 2
"""Looks at every pipeline after which a disturbance counts as digested."""
Show = Callable[[Row], None]


@dataclass(frozen=True)
class Pace:
    """Arguments of the operator, and for how many seconds the API server is away."""

    arguments: tuple[str, ...] = ()
    away: float = 60.0


PACES = {"short": Pace(("--resync", "5", "--status-interval", "1", "--canary-interval", "1"), 8.0), "long": Pace()}


@pytest.fixture(scope="module")
def pace(request: pytest.FixtureRequest) -> Pace:
    """How long everything takes."""
    return PACES[request.param]


@dataclass(frozen=True)
class Stage:
    """Everything that a disturbance needs."""

    local: LocalDeployment
    operators: Operators
    recorder: Recorder
    scene: Scene
    pace: Pace

    def settle(self) -> None:
        """Wait until everything is as it should be, but for the last victim, which has time to recover."""
        victim = ("AuditPipeline", self.scene.victim)
        wanted = self.scene.everything | {victim: self.scene.victims[victim]}
        for key, statuses in wanted.items():
            self.recorder.wait_for(f"{key} as {statuses}", partial(self._is, key, statuses), 180)

    def wait_rounds(self) -> None:
        """Wait until the operator has looked at every pipeline several times from now on."""
        pipelines = sum(kind == "AuditPipeline" for kind, _ in (*self.scene.everything, *self.scene.victims))
        self.operators.wait_rounds(ROUNDS, pipelines)

    def digested(self, since: float) -> None:
        """Wait until an operator that leads has looked at everything several times."""
        self.operators.wait_led(since)
        self.wait_rounds()

    def wait_told(self, *keys: Key) -> None:
        """Wait until each of them has said that it is not Ready, or too much time has passed: the row tells which."""
        with suppress(Failed):
            for key in keys:
                self.recorder.wait_for(f"{key} not Ready", partial(self._is_not_ready, key), 2 * GRACE)

    @contextmanager
    def held(self) -> Iterator[dict[Key, float]]:
        """A receiver dies with the disturbance and stays down; since when, by pipeline."""
        pod = f"audit-{self.scene.victim}-0"
        self.local.kubelet.hold(pod)
        try:
            yield {("AuditPipeline", self.scene.victim): self.recorder.now()}
        finally:
            self.local.kubelet.release(pod)

    def remove(self, name: str) -> None:
        """Delete a pipeline; its AuditSink is gone too."""
        self.local.kubectl("delete", "auditpipeline", name, "--ignore-not-found", "--timeout=60s")
        self.recorder.wait_for(f"no AuditSink of {name}", partial(self._is_gone, ("AuditSink", f"audit-{name}")))

    def _is_gone(self, key: Key) -> bool:
        found = self.recorder.latest(key)
        return found is None or not found.uid

    def _is(self, key: Key, statuses: Wanted) -> bool:
        return as_wanted(self.recorder.latest(key), statuses)

    def _is_not_ready(self, key: Key) -> bool:
        found = self.recorder.latest(key)
        return any(entry.kind == "Ready" and entry.status != "True" for entry in (found.conditions if found else ()))

    def row(self, name: str, begins: float, broken: Mapping[Key, float], unchanged: Iterable[Key] | None = None) -> Row:
        """The row of a disturbance that is over. Writes for what is broken are none that would be a fault."""
        record, window = self.recorder.record(), Window(begins, self.recorder.now())
        names = {name for _, name in (*broken, *self.scene.victims)}
        writes = [
            write
            for write in self.recorder.writes(begins)
            if not any(write.name == name or write.name.startswith(f"audit-{name}") for name in names)
        ]
        # What is broken for good may never say Ready=True either.
        for_good = dict.fromkeys(self.scene.broken, begins) | dict(broken)
        kept = self.scene.everything if unchanged is None else unchanged
        return judge(name, record, window, unchanged=list(kept), broken=for_good, writes=writes)


@pytest.fixture(scope="module")
def stage(pace: Pace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A cluster with everything on it; traffic goes on all the time."""
    folder = tmp_path_factory.mktemp("statuses")
    log = folder / "audit.log"
    with (
        Webhooks(tmp_path_factory.mktemp("webhooks")) as webhooks,
        LocalDeployment(folder, operator_args=pace.arguments, audit_log=log) as local,
        Recorder(local.cluster, log) as recorder,
        Operators(local) as operators,
        traffic(local),
    ):
        it = Stage(local, operators, recorder, Scene(webhooks), pace)
        operators.wait_asked()
        local.apply(*it.scene.objects)
        begun = ("AuditPipeline", "h-suspended")
        recorder.wait_for("a first event", lambda: as_wanted(recorder.latest(begun), {"Delivering": "True"}), 180)
        local.apply(it.scene.suspend())
        it.settle()
        it.wait_rounds()
        yield it


@pytest.fixture
def settled(stage: Stage) -> Stage:
    """The stage, once nothing of a former disturbance is left."""
    stage.scene.take_turns()
    stage.settle()
    stage.wait_rounds()
    return stage


@BOTH
@pytest.mark.parametrize(
    "sig", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL], ids=["restarted", "killed"]
)
def test_the_operator_is_restarted(settled: Stage, sig: signal.Signals, show: Show) -> None:
    """Cleanly, and by kill -9: it comes back knowing nothing, and claims nothing new."""
    begins = settled.recorder.now()
    with settled.held() as broken:
        settled.operators.restart(settled.operators.leader(), sig)
        settled.wait_told(*broken)
        settled.digested(begins)
        what = {signal.SIGTERM: "operator restarted", signal.SIGKILL: "operator killed by -9"}[sig]
        show(settled.row(what, begins, broken))


@BOTH
@pytest.mark.parametrize(
    "sig", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)], ids=["leaves", "killed"]
)
def test_another_operator_leads(settled: Stage, sig: signal.Signals, show: Show) -> None:
    """A standby takes over from a leader that leaves, or that is killed."""
    former, standby = settled.operators.leader(), settled.operators.add()
    begins = settled.recorder.now()
    try:
        with settled.held() as broken:
            settled.operators.remove(former, sig)
            settled.wait_told(*broken)
            settled.digested(begins)
            assert settled.operators.leader() == standby
            what = {signal.SIGTERM: "leader leaves", signal.SIGKILL: "leader killed by -9"}[sig]
            show(settled.row(f"{what}, standby leads", begins, broken))
    finally:
        settled.operators.put_back()
        settled.operators.remove(standby)
        settled.operators.wait_led(settled.recorder.now())


@pytest.mark.parametrize("pace", [LONG], indirect=True, scope="module")
def test_the_api_server_is_restarted(settled: Stage, show: Show) -> None:
    """It is away for a few seconds; the operator may keep its Lease."""
    begins = settled.recorder.now()
    with settled.held() as broken:
        settled.local.cluster.restart_apiserver()
        answered = settled.recorder.now()
        settled.wait_told(*broken)
        settled.digested(answered)
        show(settled.row("kube-apiserver restarted", begins, broken))


@BOTH
def test_the_api_server_is_away(settled: Stage, show: Show) -> None:
    """Long enough for the operator to lose its Lease."""
    begins = settled.recorder.now()
    with settled.held() as broken:
        settled.local.cluster.stop_apiserver()
        away = settled.recorder.now() + settled.pace.away
        settled.recorder.wait_for("the end of the outage", lambda: settled.recorder.now() > away, 120)
        settled.local.cluster.start_apiserver()
        answered = settled.recorder.now()
        settled.wait_told(*broken)
        settled.digested(answered)
        show(settled.row(f"kube-apiserver away for {settled.pace.away:.0f} s", begins, broken))


@BOTH
def test_etcd_is_restored(settled: Stage, show: Show) -> None:
    """To what it held a while ago: resourceVersions go backwards. What breaks or is made after that is seen."""
    cluster, local = settled.local.cluster, settled.local
    new, begins = ("AuditPipeline", "d-new"), settled.recorder.now()
    snapshot = cluster.snapshot()
    local.apply(pipeline("d-forgotten", targetNamespace="nowhere"))
    disturbances.write_much(cluster, 500)
    cluster.restore(snapshot)
    answered = settled.recorder.now()
    try:
        with settled.held() as broken:
            local.apply(pipeline(new[1], targetNamespace="nowhere"))
            broken[new] = settled.recorder.now()
            settled.wait_told(*broken)
            settled.digested(answered)
            assert not cluster.kubectl("get", "auditpipeline", "d-forgotten", "--ignore-not-found")
            show(settled.row("etcd restored from a snapshot", begins, broken))
    finally:
        settled.remove(new[1])


OURS = (
    "statefulsets",
    "secrets",
    "services",
    "serviceaccounts",
    "configmaps",
    "poddisruptionbudgets",
    "networkpolicies",
)
DOWN = {
    "StatefulSets": [rule(["apps"], "statefulsets")],
    "Secrets": [rule([""], "secrets")],
    "every child": [rule(["*"], *OURS)],
    "everything": [rule(["*"], "*")],
}


@BOTH
@pytest.mark.parametrize(
    "what", ["StatefulSets", *(pytest.param(name, marks=pytest.mark.long) for name in list(DOWN)[1:])]
)
def test_an_admission_webhook_is_down(settled: Stage, what: str, show: Show) -> None:
    """A pipeline whose StatefulSet is deleted meanwhile says so, and so does one that is made meanwhile."""
    local, recorder = settled.local, settled.recorder
    new, victim = ("AuditPipeline", "d-" + what.lower().replace(" ", "-")), settled.scene.victim
    begins = recorder.now()
    try:
        with webhook_down(local, DOWN[what]):
            local.kubectl("delete", "statefulset", f"audit-{victim}", "-n", RECEIVERS, "--wait=false")
            broken = {("AuditPipeline", victim): recorder.now()}
            local.apply(pipeline(new[1]))
            broken[new] = recorder.now()
            settled.wait_told(*broken)
            settled.wait_rounds()
            row = settled.row(f"admission webhook of {what} down", begins, broken)
        recorder.wait_for("Ready again", lambda: as_wanted(recorder.latest(new), {"Ready": "True"}), 180)
    finally:
        settled.remove(new[1])
    show(row)


@BOTH
def test_the_gateway_is_stopped(settled: Stage, show: Show) -> None:
    """Nobody takes the API server's events any more: no pipeline may say that they are recorded."""
    kubelet, selector = settled.local.kubelet, "app.kubernetes.io/name=auditpipeline-gateway"
    found = settled.local.kubectl("get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "name")
    served = [key for key, wanted in settled.scene.healthy.items() if wanted["Ready"] == "True"]
    begins, pod = settled.recorder.now(), found.strip().removeprefix("pod/")
    kubelet.hold(pod)
    try:
        broken = dict.fromkeys(served, settled.recorder.now())
        settled.wait_told(*broken)
        settled.wait_rounds()
        show(settled.row("gateway stopped", begins, broken, unchanged=()))
    finally:
        kubelet.release(pod)

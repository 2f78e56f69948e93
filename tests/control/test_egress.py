"""What the operator tells every output not to connect to: the API servers, wherever they are."""

from __future__ import annotations

import pytest

from auditpipeline.control.egress import KEEP, MOST, EgressState, addresses
from auditpipeline.control.kube import Forbidden
from auditpipeline.control.loss import Known
from auditpipeline.control.resources import Resource
from auditpipeline.control.settings import Settings
from auditpipeline.core.config import Egress
from tests.control.bodies import Body
from tests.control.fakes import Answers

SERVICE: Body = {"spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]}}
SLICE: Body = {
    "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"], "conditions": {"ready": False}}]
}
SETTINGS = Settings(egress_allow=("127.0.0.1:8088",))


def told(state: EgressState) -> tuple[str, ...]:
    """The addresses that a configuration has."""
    return state.rendered(SETTINGS).api_servers


async def test_service_and_endpoints_of_the_api_servers_are_known() -> None:
    """Also those that are not ready; of a Service of before 1.20, its one address."""
    found = await addresses(Answers({("services", "kubernetes"): SERVICE, ("endpointslices", "kubernetes"): SLICE}))
    assert found == ["10.96.0.1", "fd00::1", "192.0.2.1", "192.0.2.2"]
    old = {"spec": {"clusterIP": "10.96.0.1"}}
    assert await addresses(Answers({("services", "kubernetes"): old})) == ["10.96.0.1"]


async def test_what_the_operator_may_not_read_is_left_out() -> None:
    """The rest of the guard does not need it."""

    class Refusing(Answers):
        async def get(self, kind: Resource, name: str, namespace: str | None = None) -> Body | None:
            if kind.plural == "endpointslices":
                raise Forbidden("endpointslices is forbidden")
            return await super().get(kind, name, namespace)

    assert await addresses(Refusing({("services", "kubernetes"): SERVICE})) == ["10.96.0.1", "fd00::1"]


def test_an_api_server_that_restarts_changes_no_configuration() -> None:
    """It leaves the endpoints and comes back; the order of its addresses says nothing."""
    state = EgressState()
    state.take(["10.96.0.1", "192.0.2.2", "192.0.2.1"], 1000.0)
    before = state.rendered(SETTINGS)
    assert before == Egress(("127.0.0.1:8088",), ("10.96.0.1", "192.0.2.1", "192.0.2.2"))
    state.take(["10.96.0.1", "192.0.2.1"], 1000.0 + KEEP - 1)
    assert state.rendered(SETTINGS) == before
    state.take(["10.96.0.1", "192.0.2.1"], 1000.0 + KEEP)
    assert told(state) == ("10.96.0.1", "192.0.2.1")


def test_a_new_process_knows_what_the_one_before_did() -> None:
    """From the readings that it kept: an API server may be away just then."""
    state = EgressState()
    state.recall(
        {
            "kube-apiserver 192.0.2.1": Known(1.0, 0, 5000.0),
            "kube-apiserver 192.0.2.9": Known(1.0, 0, 5000.0 - KEEP),
            "kube-apiserver": Known(1.0, 0, 5000.0),
        }
    )
    state.take(["10.96.0.1"], 5000.0)
    assert told(state) == ("10.96.0.1", "192.0.2.1")


@pytest.mark.parametrize("address", ["", "None", "kubernetes.default.svc"])
def test_what_is_no_address_is_left_out(address: str) -> None:
    """A headless Service, or a name."""
    state = EgressState()
    state.take([address], 1.0)
    assert told(state) == ()


def test_the_number_of_addresses_is_bounded() -> None:
    """They are in every configuration."""
    state = EgressState()
    for number in range(MOST):
        state.take([f"192.0.2.{number}"], float(number))
    state.take(["198.51.100.1"], float(MOST))
    assert len(told(state)) == MOST
    assert "192.0.2.0" not in told(state)
    assert "198.51.100.1" in told(state)

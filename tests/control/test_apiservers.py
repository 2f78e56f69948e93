"""Against a real API server: its metrics and its canaries, by its own address."""

from __future__ import annotations

import secrets

import pytest

from auditpipeline.control.apiservers import Server, readings, servers
from auditpipeline.control.kube import Client, Forbidden, NotFound
from auditpipeline.core.canary import path_of
from tests.cluster.controlplane import ControlPlane
from tests.control.running import free_port

pytestmark = pytest.mark.controlplane


async def test_an_api_server_is_read_by_the_configured_name_and_by_its_own_address(
    served: ControlPlane, kube: Client
) -> None:
    """And one that does not answer is told, and keeps nobody from the others."""
    (configured,) = await servers(kube)
    away = Server(f"https://127.0.0.1:{free_port()}", "10.0.0.9")
    found = await readings(kube, [configured, Server(served.url, "127.0.0.1"), away], 5.0)
    assert [bool(reading.error) for reading in found] == [False, False, True]
    assert found[0].start == found[1].start > 1.7e9
    assert "no answer" in found[2].error


@pytest.mark.parametrize("direct", [False, True])
async def test_the_path_of_a_canary_is_not_there(served: ControlPlane, kube: Client, direct: bool) -> None:
    """404 for whoever may ask, as the operator may; 403 is an answer too, and audited likewise."""
    with pytest.raises((NotFound, Forbidden)):
        await kube.plain(path_of("here", secrets.token_hex(8)), served.url if direct else "")

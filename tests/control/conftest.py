"""A namespace of its own for each test on the shared control plane, and no pipeline left of the one before."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from auditpipeline.control.kube import Client
from auditpipeline.control.resources import PIPELINES, SINKS
from tests.cluster.controlplane import ControlPlane
from tests.control.running import client, eventually

CRDS = Path(__file__).parents[2] / "crds"
numbers = itertools.count(1)


@pytest.fixture(scope="session")
def served(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with our CRDs."""
    control_plane.kubectl("apply", "-f", str(CRDS))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    return control_plane


@pytest.fixture
async def kube(served: ControlPlane) -> AsyncIterator[Client]:
    """The administrator's client; in the end no pipeline and no sink is left."""
    async with client(served) as made:
        yield made
        for kind in (PIPELINES, SINKS):
            async for body in made.list(kind):
                await made.delete(kind, body["metadata"]["name"])

        async def nothing_left() -> bool:
            return not [body async for body in made.list(SINKS)]

        await eventually("nothing left", nothing_left, 90)


@pytest.fixture
def namespace(served: ControlPlane) -> str:
    """A namespace of this test's own, which the operator is told to be in."""
    name = f"control-{next(numbers)}"
    served.kubectl("create", "namespace", name)
    return name

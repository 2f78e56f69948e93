"""What the tests of this folder share: the CRDs on a real API server, an empty one, and helm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.binaries import find
from tests.cluster.controlplane import ControlPlane
from tests.manifests.objects import ROOT


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """The shared control plane, serving AuditPipeline and AuditSink from crds/."""
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    control_plane.kubectl("wait", "--for=condition=Established", "-f", str(ROOT / "crds"), "--timeout=30s")
    return control_plane


@pytest.fixture(scope="module")
def empty() -> Iterator[ControlPlane]:
    """A control plane of the module's own, for what would disturb other tests; nothing of ours is installed."""
    cluster = ControlPlane()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm program, which is built once where there is none."""
    return str(find("helm")["helm"])

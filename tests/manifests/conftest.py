"""What the tests of this folder share: the CRDs on a real API server, an empty one, and helm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cluster.binaries import Missing, find
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
        with _skipped_where_missing():
            cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def helm() -> str:
    """The helm program, which is built once where there is none."""
    with _skipped_where_missing():
        return str(find("helm")["helm"])


@contextmanager
def _skipped_where_missing() -> Iterator[None]:
    """Skip with what has to be installed; under CI that is a failure."""
    try:
        yield
    except Missing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))

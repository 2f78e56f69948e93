"""pytest fixtures over the test clusters, for a conftest to name in `pytest_plugins`.

A cluster that cannot be had here skips its tests and says what to install; under CI (`CI=true`) that is a failure, so
that a machine that lost a package never looks green.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from tests.cluster.binaries import Missing
from tests.cluster.controlplane import ControlPlane
from tests.cluster.node import Node

Cluster = TypeVar("Cluster", bound=ControlPlane)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane without auditing, shared by the session: make a namespace of your own in it."""
    with _started(ControlPlane()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A Ready node without auditing, shared by the session."""
    with _started(Node()) as cluster:
        yield cluster


@contextmanager
def _started(cluster: Cluster) -> Iterator[Cluster]:
    try:
        cluster.__enter__()
    except Missing as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))
    try:
        yield cluster
    finally:
        cluster.stop()

"""pytest fixtures over the test clusters, for a conftest to name in `pytest_plugins`.

A cluster that cannot be had fails its tests with the line that says what to install: nothing is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.controlplane import ControlPlane
from tests.cluster.node import Node


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane without auditing, shared by the session: make a namespace of your own in it."""
    with ControlPlane() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A Ready node without auditing, shared by the session."""
    with Node() as cluster:
        yield cluster

"""auditpipeline on both tiers: processes over a real control plane, and Pods on a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import tier
from tests.cluster.local import LocalDeployment
from tests.cluster.onnode import NodeDeployment


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    """auditpipeline on the control plane alone."""
    with LocalDeployment(
        tmp_path_factory.mktemp("local"),
        operator_args=("--resync", "5", "--status-interval", "1", "--canary-interval", "1"),
    ) as it:
        yield it


@pytest.fixture(scope="module")
def on_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeDeployment]:
    """auditpipeline installed by helm on a real node (kind where Docker answers)."""
    with tier.deployment(tmp_path_factory.mktemp("node"), values=("operator.statusInterval=1",)) as it:
        yield it

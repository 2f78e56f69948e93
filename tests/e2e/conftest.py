"""The same tests on both tiers: processes over a real control plane, and Pods on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.local import LocalDeployment


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDeployment]:
    """auditpipeline on the control plane alone, with the API server's own log of the same events beside it."""
    data: Path = tmp_path_factory.mktemp("local")
    with LocalDeployment(
        data, operator_args=("--resync", "5", "--status-interval", "1"), audit_log=data / "audit.log"
    ) as it:
        yield it

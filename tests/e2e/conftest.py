"""auditpipeline on both tiers: processes over a real control plane, and Pods on a real node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cluster import tier
from tests.cluster.local import LocalDeployment
from tests.cluster.onnode import NodeDeployment
from tests.e2e.judging import Row, table

_ROWS = pytest.StashKey[list[Row]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints what the recorder saw in this run, whether it held or not."""
    rows = config.stash.get(_ROWS, [])
    if rows:
        terminalreporter.section("statuses over disturbances")
        for line in table(rows).splitlines():
            terminalreporter.line(line.rstrip())


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> list[Row]:
    """The rows of the table that is printed at the end."""
    return request.config.stash.setdefault(_ROWS, [])


@pytest.fixture
def show(rows: list[Row]) -> Callable[[Row], None]:
    """Notes a row for the table at the end, and fails with every broken promise in it."""

    def note(row: Row) -> None:
        rows.append(row)
        assert not row.faults, "\n".join((row.disturbance, *row.faults))

    return note


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

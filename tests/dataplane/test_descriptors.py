"""How many connections may be open, by the limit of open files."""

from __future__ import annotations

import subprocess
import sys

import pytest

from auditpipeline.dataplane.descriptors import AUDIT, OPS, shares


@pytest.mark.parametrize("limit", [0, 64, 256, 1024, 4096, 65_536, 2**30])
def test_half_of_all_descriptors_is_kept_and_every_kind_has_places(limit: int) -> None:
    """For spool, outputs and sources; handshakes are at most 64."""
    found = shares(limit)
    assert sum(map(sum, found)) <= max(32, limit // 2)
    assert sum(found.audit) <= AUDIT
    assert sum(found.ops) <= OPS
    assert all(0 < places.handshakes <= 64 for places in found)
    assert all(places.unknown > 0 and places.known > 0 for places in found)


def test_the_limits_of_a_usual_machine() -> None:
    """As they are documented."""
    assert sum(shares(256).audit) == 96
    assert sum(shares(256).ops) == 32
    assert sum(shares(65_536).audit) == AUDIT
    assert sum(shares(65_536).ops) == OPS


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 1024, 1024), (300, 300, 300)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, raised: int) -> None:
    """In a process of its own, since the limit is the process's."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "from auditpipeline.dataplane.descriptors import raise_limit;"
        "print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(raised)] * 2


def test_a_hard_limit_of_a_million_files_is_not_used_up() -> None:
    """Some libraries walk through all descriptors that there may be. Where nobody may set so high a limit, what the
    machine allows is used up."""
    code = """
import resource
from auditpipeline.dataplane.descriptors import raise_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1_000_000))
except (OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
print(raise_limit(), min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 65536))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    raised, expected = found.stdout.split()
    assert raised == expected

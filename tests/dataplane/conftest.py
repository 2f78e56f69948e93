"""Fixtures of the data plane's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dataplane.setting import Destination, Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A folder with certificates; nothing runs yet."""
    return Setting(tmp_path)


@pytest.fixture
async def destination() -> AsyncIterator[Destination]:
    """A server that takes what is delivered."""
    async with Destination().listening() as server:
        yield server

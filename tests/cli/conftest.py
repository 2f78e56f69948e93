"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands that run in this process set up logging for their own standard error, which ends with them."""
    yield
    structlog.reset_defaults()

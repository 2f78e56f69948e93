"""Fixtures of the policy tools' tests."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a text on standard input."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

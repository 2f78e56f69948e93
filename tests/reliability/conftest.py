"""Fixtures of the reliability tests, and the table of what was acknowledged and found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataplane.setting import Destination, Setting
from tests.reliability.driving import Account, Sender

_ACCOUNTS = pytest.StashKey[list[Account]]()
Keep = Callable[[Account], None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the accounts of this run."""
    accounts = config.stash.get(_ACCOUNTS, [])
    if not accounts:
        return
    terminalreporter.section("acknowledged and found")
    columns = ("kills", "acknowledged", "found", "lost", "duplicates")
    terminalreporter.line(f"{'':44}" + "".join(f"{name:>14}" for name in columns))
    for account in accounts:
        figures = "".join(f"{getattr(account, name):14,}" for name in columns)
        terminalreporter.line(f"{account.name:44}{figures}")


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Keep:
    """Notes an account for the table at the end, and fails where an acknowledged event was lost."""

    def note(account: Account) -> None:
        request.config.stash.setdefault(_ACCOUNTS, []).append(account)
        assert account.lost == 0, account

    return note


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """A folder with certificates; nothing runs yet."""
    return Setting(tmp_path)


@pytest.fixture
def sender(setting: Setting, request: pytest.FixtureRequest) -> Sender:
    """A sender that has a client certificate."""
    return Sender(setting.authority.client(setting.client_tls), request.node.name[:40].replace("[", "-"))


@pytest.fixture
def destination() -> Destination:
    """A server to deliver to; it does not listen yet."""
    return Destination()

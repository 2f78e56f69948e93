"""Promise 1 over a spool that is lost, and whose journal is not."""

from __future__ import annotations

import os
import signal

import pytest

from tests.dataplane.process import serving
from tests.dataplane.setting import Setting
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle


@pytest.mark.parametrize("gone", [False, True], ids=["empty", "gone"])
async def test_a_process_whose_spool_is_lost_delivers_what_its_journal_has(
    setting: Setting, sender: Sender, gone: bool, keep: Keep
) -> None:
    """Killed under load, with all of the spool still in the journal."""
    setting.write(setting.config())
    async with serving(setting) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"]):
            await sender.reaches(300)
            await process.end(signal.SIGKILL)
    os.truncate(setting.spool, 0)
    if gone:
        setting.spool.unlink()
    async with serving(setting) as process:
        await process.listening()
        await drained(process, setting)
        assert (await process.report(setting)).events.dropped == 0
    keep(settle("the spool is lost, not its journal", sender, in_files(setting.file), kills=1))

"""Promise 2 over a wall clock that jumps, as one does that is set by hand, or by NTP after a long sleep.

The clock is injected into the real process (`clock/sitecustomize.py`), so that this runs without root and without
libfaketime.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from aiohttp import web

from auditpipeline.core.config import HttpOutput
from tests.dataplane.process import serving
from tests.dataplane.setting import Destination, Setting
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle

DAY = 86400
JUMPS = (DAY, -DAY, 0, -3600, 400 * DAY, -20000 * DAY, 30000 * DAY, 0)


async def test_events_arrive_whatever_the_clock_says(
    setting: Setting, sender: Sender, destination: Destination, keep: Keep
) -> None:
    """Forward, back, before 1970 and past 2038, under load and while an output is tried again: nothing is lost, nor too
    old by `maxAge`, the process stays healthy, and no lag is negative or endless."""
    offset = setting.folder / "offset"
    offset.write_text("0")
    failures, times = 0, list[float]()

    async def fail_at_first(_: object) -> web.Response | None:
        nonlocal failures
        failures += 1
        return web.Response(status=500) if failures < 4 else None

    destination.answer = fail_at_first
    environment = {"PYTHONPATH": str(Path(__file__).parent / "clock"), "CLOCK_OFFSET_FILE": str(offset)}
    async with destination.listening():
        config = setting.config(setting.route(), setting.route("siem", HttpOutput(destination.url)))
        setting.write(msgspec.structs.replace(config, spool=msgspec.structs.replace(config.spool, max_age=3600.0)))
        async with serving(setting, environment=environment) as process:
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"], pause=0.01):
                for jump in JUMPS:
                    scratch = offset.with_suffix(".new")
                    scratch.write_text(str(jump))
                    scratch.rename(offset)
                    await sender.reaches(400)
                    report = await process.report(setting)
                    times.append(report.outputs[0].last_delivered_at)
                    assert all(0 <= output.lag_seconds < 10**10 for output in report.outputs), report
            await drained(process, setting)
            assert await process.ops(setting, "/healthz") == b"ok\n"
            report = await process.report(setting)
            assert [output.pending for output in report.outputs] == [0, 0]
            assert report.events.dropped == 0
    assert max(times) - min(times) > 40_000 * DAY, "the clock did not jump: this proves nothing"
    assert not sender.refused
    keep(settle("the clock jumps", sender, in_files(setting.file)))

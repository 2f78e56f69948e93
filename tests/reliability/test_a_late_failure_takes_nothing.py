"""Promise 2: a write that hangs over a reload and fails at last takes none of what was delivered meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from auditpipeline.core.config import FileOutput
from auditpipeline.core.report import OutputReport
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Setting, until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Sender, drained, in_files, settle

SHIM = Path(__file__).with_name("hanging_fsync.c")


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """The library that makes a disk hang, and then fail."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler: a disk that hangs and then fails is not tested; install gcc or clang")
    library = tmp_path / "hanging_fsync.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    return library


async def output_of(process: Process, setting: Setting) -> OutputReport:
    """What /status says of the one output."""
    (found,) = (await process.report(setting)).outputs
    return found


async def test_a_hang_that_outlives_its_route(setting: Setting, sender: Sender, shim: Path, keep: Keep) -> None:
    """The output of the new configuration waits, says why, and delivers everything when the former one has ended."""
    armed = setting.folder / "armed"
    config = setting.config()
    setting.write(config)
    environment = {"LD_PRELOAD": str(shim), "HANG_FILE": str(setting.file), "HANG_ARMED": str(armed)}
    async with serving(setting, environment=environment) as process:
        await process.listening()
        async with sender.sending(lambda: process.ports["audit"], connections=1, pause=0.01):
            await sender.reaches(200)
            armed.touch()
            await until(armed.with_name("armed.hanging").exists)
            await sender.reaches(200)
            (route,) = config.routes
            changed = msgspec.structs.replace(route, output=FileOutput(str(setting.file), keep=3))
            digest = setting.write(msgspec.structs.replace(config, routes=(changed,)))

            async def waits() -> bool:
                found = await process.report(setting)
                return found.config == digest and "another output writes it" in found.outputs[0].last_error

            await until(waits)
            before = in_files(setting.file)
            await sender.reaches(200)
            assert in_files(setting.file) == before
            armed.unlink()

            async def goes_on() -> bool:
                return (await output_of(process, setting)).state != "Failing"

            await until(goes_on, 60)
        await drained(process, setting)
        report = await process.report(setting)
    assert (report.events.dropped, report.dead_letters) == (0, 0)
    keep(settle("file whose fsync hung over a reload", sender, in_files(setting.file)))

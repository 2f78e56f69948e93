"""`auditpipeline run` beside a full disk, and what becomes of a part of it that fails."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from pathlib import Path

import aiohttp
import pytest
import yaml

from auditpipeline.core import report as reports
from auditpipeline.core.report import Report
from tests.cli.running import COMMAND, EVENTS, Bench, archive, call, end, identity, pipeline
from tests.dataplane.faults import FAIL_TO_READ_THE_LOG, Fault
from tests.dataplane.setting import Destination, until
from tests.reliability.namespace import Disk, small_disk
from tests.reliability.test_delivered_at_least_once import free_port


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A folder; nothing runs yet."""
    return Bench(tmp_path)


def fill(disk: Disk) -> Path:
    """Takes all the room that there is; the file to remove."""
    ballast = disk.outside / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def on(bench: Bench, disk: Disk) -> None:
    """Lets the process have its data on that disk."""
    bench.data = disk.folder / "data"


async def ask(bench: Bench, disk: Disk, port: int, path: str) -> tuple[int, str]:
    """What the listener for operations answers to the holder of the client certificate."""
    data = disk.outside / "data"
    context = ssl.create_default_context(cafile=data / "ca.crt")
    context.load_cert_chain(data / "client.crt", data / "client.key")
    url = f"https://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        return response.status, await response.text()


async def status(bench: Bench, disk: Disk, port: int) -> Report:
    """What it says of itself."""
    return reports.decode((await ask(bench, disk, port, "/status"))[1].encode())


def everything() -> set[str]:
    """The events that `replay` sends."""
    return set(map(identity, map(json.loads, EVENTS.read_text().splitlines())))


async def test_the_first_start_waits_for_room(bench: Bench) -> None:
    """It says what is missing and for which file, and starts when there is room; nothing is left behind that keeps it
    from that. A signal ends it meanwhile."""
    bench.write(pipeline(archive()))
    waiting = "the first start waits: the disk is full"
    with small_disk(bench.folder / "small", "16m") as disk:
        on(bench, disk)
        ballast = fill(disk)
        async with bench.running(until_event=waiting, prefix=disk.command) as process:
            assert str(disk.folder) in bench.lines(waiting)[0]["error"]
            assert "No space left on device" in bench.lines(waiting)[0]["error"]
            assert await end(process) == 0
        async with bench.running(until_event=waiting, prefix=disk.command) as process:
            ballast.unlink()
            await until(lambda: bench.lines("ready"))
            assert len(bench.lines(waiting)) == 1
            assert await end(process) == 0


@pytest.mark.timeout(120)
async def test_a_start_on_a_full_disk_delivers_what_is_there(bench: Bench) -> None:
    """With a pipeline that was edited meanwhile, and with another port, so that a kubeconfig has to be written: health
    is served, the spool is delivered, and when there is room, all is as it should be."""
    target, (listen, ops) = free_port(), (free_port(), free_port())
    siem = {"name": "siem", "http": {"url": f"http://127.0.0.1:{target}/in"}}
    destination = Destination()
    with small_disk(bench.folder / "small", "32m") as disk:
        on(bench, disk)
        bench.write(pipeline(siem))
        async with bench.running(prefix=disk.command) as process:
            kubeconfig = bench.folder / "copy"
            kubeconfig.write_bytes((disk.outside / "data" / "webhook.kubeconfig").read_bytes())
            assert (await call("replay", str(EVENTS), "--kubeconfig", str(kubeconfig)))[0] == 0
            process.kill()
            await process.wait()
        bench.write(pipeline(siem, archive()))
        ballast = fill(disk)
        arguments = ("--listen", f"127.0.0.1:{listen}", "--listen-ops", f"127.0.0.1:{ops}")
        unwritten = "kubeconfig and configuration cannot be written; trying again"
        async with (
            destination.listening(port=target),
            bench.running(*arguments, until_event="listening", prefix=disk.command) as process,
        ):
            assert (await ask(bench, disk, ops, "/healthz"))[0] == 200
            await until(lambda: {identity(event) for event in destination.events} == everything(), 60)
            ballast.unlink()
            await until(lambda: bench.lines("ready"))
            assert len(bench.lines(unwritten)) <= 1
            server = f"https://127.0.0.1:{listen}/audit"
            found = (disk.outside / "data" / "webhook.kubeconfig").read_bytes()
            assert yaml.safe_load(found)["clusters"][0]["cluster"]["server"] == server
            kubeconfig.write_bytes(found)

            async def replayed() -> bool:
                return (await call("replay", str(EVENTS), "--kubeconfig", str(kubeconfig)))[0] == 0

            await until(replayed, 60)
            await until(lambda: set(bench.delivered()) == everything())
            assert await end(process) == 0


async def test_a_start_that_changes_nothing_writes_nothing(bench: Bench) -> None:
    """Of certificates, kubeconfig and configuration."""
    bench.write(pipeline(archive()))
    arguments = ("--listen", f"127.0.0.1:{free_port()}")
    async with bench.running(*arguments) as process:
        assert await end(process) == 0
    written = [bench.data / name for name in ("config.json", "webhook.kubeconfig", "ca.crt", "tls/tls.crt")]
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in written]
    async with bench.running(*arguments) as process:
        assert await end(process) == 0
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in written] == before


@pytest.mark.timeout(120)
async def test_an_edit_on_a_full_disk_comes_into_force(bench: Bench) -> None:
    """At once, if the spool's reserve does for it, or when there is room; and the status never says otherwise."""
    ops = free_port()
    with small_disk(bench.folder / "small", "32m") as disk:
        on(bench, disk)
        bench.write(pipeline(archive()))
        async with bench.running("--listen-ops", f"127.0.0.1:{ops}", prefix=disk.command) as process:
            before = (await status(bench, disk, ops)).config
            ballast = fill(disk)
            bench.write(pipeline(archive(), archive("second")))

            async def told() -> bool:
                report = await status(bench, disk, ops)
                in_force = report.config != before and len(report.outputs) == 2
                return in_force or "No space left" in report.config_error or "full" in report.config_error

            await until(told)
            ballast.unlink()

            async def in_force() -> bool:
                report = await status(bench, disk, ops)
                return report.config != before and not report.config_error and len(report.outputs) == 2

            await until(in_force)
            assert "auditpipeline_config_valid 1.0" in (await ask(bench, disk, ops, "/metrics"))[1]
            kept = disk.outside / "data" / "config.json"
            await until(lambda: len(json.loads(kept.read_text())["routes"]) == 2)
            assert await end(process) == 0


async def test_a_refused_edit_is_in_the_status_until_it_is_mended(bench: Bench) -> None:
    """An edit that is taken back counts as mended, too."""
    ops = free_port()
    here = Disk(bench.folder, (), bench.folder)
    bench.write(pipeline(archive()))
    async with bench.running("--listen-ops", f"127.0.0.1:{ops}"):
        bench.write("spec: [")

        async def refused() -> bool:
            return "pipeline.yaml" in (await status(bench, here, ops)).config_error

        await until(refused)
        assert "auditpipeline_config_valid 0.0" in (await ask(bench, here, ops, "/metrics"))[1]
        bench.write(pipeline(archive()))

        async def mended() -> bool:
            return not (await status(bench, here, ops)).config_error

        await until(mended)


async def test_a_reader_of_the_log_that_fails_is_started_again(bench: Bench) -> None:
    """The listener goes on meanwhile; log, status and metrics say what happened, and no line is passed over."""
    ops = free_port()
    here = Disk(bench.folder, (), bench.folder)
    fault = Fault(bench.folder, FAIL_TO_READ_THE_LOG)
    fault.begin()
    log = bench.folder / "audit.log"
    log.write_bytes(EVENTS.read_bytes())
    bench.write(pipeline(archive()))
    options = ("--listen-ops", f"127.0.0.1:{ops}", "--audit-log", str(log))
    async with bench.running(*options, environment=fault.environment) as process:

        async def said() -> bool:
            return "nobody thought of this" in (await status(bench, here, ops)).source_error

        await until(said)
        assert (await bench.replay())[0] == 0
        await until(lambda: set(bench.delivered()) == everything())
        fault.end()

        async def mended() -> bool:
            return not (await status(bench, here, ops)).source_error

        await until(mended)
        await until(lambda: len(bench.delivered()) == 2 * len(everything()))
        metrics = (await ask(bench, here, ops, "/metrics"))[1].splitlines()
        (restarts,) = (line for line in metrics if line.startswith("auditpipeline_source_restarts_total "))
        assert float(restarts.split()[1]) >= 1
        assert await end(process) == 0
    assert bench.lines("a part ended, and is started again")[0]["part"] == "the reader of the audit log"


async def test_a_log_that_cannot_be_written_ends_nothing(bench: Bench) -> None:
    """Standard error on a full disk: events are taken and delivered all the same, and the end is one in peace."""
    bench.write(pipeline(archive()))
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        process = await asyncio.create_subprocess_exec(*COMMAND, *bench.arguments(), stderr=full)
    finally:
        os.close(full)
    try:
        await until(lambda: bench.kubeconfig.exists() or process.returncode is not None)

        async def replayed() -> bool:
            return (await bench.replay())[0] == 0

        await until(replayed, 60)
        await until(lambda: set(bench.delivered()) == everything())
        bench.write("spec: [")
        assert await end(process) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

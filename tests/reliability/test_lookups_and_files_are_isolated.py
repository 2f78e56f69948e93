"""Promise 3, for what outputs share: names that never resolve and files that never come stop no other output."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from auditpipeline.core.config import Basic, HttpOutput, Tls
from auditpipeline.core.report import OutputReport
from tests.dataplane.dns import Dns
from tests.dataplane.process import Process, serving
from tests.dataplane.setting import Destination, Setting, until
from tests.reliability.conftest import Keep
from tests.reliability.driving import Account, Sender
from tests.reliability.namespace import in_place_of

EVENTS = 4000
STUCK = 6
"""More than the event loop has threads for lookups, and than two processors give its pool."""


@pytest.fixture
async def dns() -> AsyncIterator[Dns]:
    """A server that knows one name, and says nothing of the others."""
    stuck: dict[str, None] = {f"stuck-{number}.example": None for number in range(STUCK)}
    async with Dns({"siem.example": ("127.0.0.1",), **stuck}).listening() as server:
        yield server


def healthy(setting: Setting, port: int) -> HttpOutput:
    """An output to a server with TLS, by name, with everything that takes time."""
    return HttpOutput(f"https://siem.example:{port}/in", ca=setting.authority.ca.read_text(), compression="gzip")


async def outputs_of(process: Process, setting: Setting) -> dict[str, OutputReport]:
    """What /status says of each."""
    return {output.name: output for output in (await process.report(setting)).outputs}


async def all_delivered(process: Process, setting: Setting, sender: Sender) -> None:
    """Waits until the healthy output has every event."""

    async def done() -> bool:
        found = (await outputs_of(process, setting))["healthy"]
        return found.pending == 0 and found.delivered >= sender.events

    await until(done, 60)


def account(name: str, sender: Sender, destination: Destination) -> Account:
    """What was acknowledged and what the healthy server has."""
    found = [f"{event['auditID']}/{event['stage']}" for event in destination.events]
    ids = {id_ for posted in sender.acknowledged for id_ in posted}
    return Account(name, 0, len(ids), len(ids & set(found)), len(ids - set(found)), len(found) - len(set(found)))


async def test_names_that_never_resolve_stop_nobody(
    setting: Setting, sender: Sender, destination: Destination, dns: Dns, keep: Keep
) -> None:
    """The healthy output has every event while the others are still at their first lookup."""
    conf = dns.resolv_conf(setting.folder / "resolv.conf", "options timeout:30 attempts:5")
    prefix = in_place_of(Path("/etc/resolv.conf"), conf)
    context = setting.authority.server(setting.authority.issue("siem", "siem.example"))
    async with destination.listening(context):
        stuck = [
            setting.route(f"stuck-{number}", HttpOutput(f"https://stuck-{number}.example/in", timeout=600.0))
            for number in range(STUCK)
        ]
        setting.write(setting.config(*stuck, setting.route("healthy", healthy(setting, destination.port))))
        async with serving(setting, prefix) as process:
            await process.listening()
            async with sender.sending(lambda: process.ports["audit"]):
                await until(lambda: {f"stuck-{number}.example" for number in range(STUCK)} <= dns.questions, 60)
                await sender.reaches(EVENTS)
            await all_delivered(process, setting, sender)
            found = await outputs_of(process, setting)
    assert {name: (output.delivered, output.last_error) for name, output in found.items() if name != "healthy"} == {
        f"stuck-{number}": (0, "") for number in range(STUCK)
    }
    keep(account("https beside six names that hang", sender, destination))


async def test_a_resolver_that_is_mended_is_used(setting: Setting, destination: Destination, dns: Dns) -> None:
    """resolv.conf names another server than at the start, and no process has to be started again."""
    conf = setting.folder / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1:9\noptions timeout:1 attempts:1\n")
    prefix = in_place_of(Path("/etc/resolv.conf"), conf)
    context = setting.authority.server(setting.authority.issue("siem", "siem.example"))
    async with destination.listening(context):
        setting.write(setting.config(setting.route("healthy", healthy(setting, destination.port))))
        async with serving(setting, prefix) as process:
            await process.listening()
            sender = Sender(setting.authority.client(setting.client_tls), "mended")
            async with sender.sending(lambda: process.ports["audit"]):
                await sender.reaches(1)

            async def failed() -> bool:
                return "cannot be resolved now" in (await outputs_of(process, setting))["healthy"].last_error

            await until(failed)
            conf.write_text(f"nameserver 127.0.0.1:{dns.port}\n")
            await all_delivered(process, setting, sender)


@contextmanager
def files_that_hang(folder: Path) -> Iterator[list[Path]]:
    """Files that can be opened, and then nothing comes: FIFOs, as a volume whose server is gone. They end at last."""
    paths = [folder / f"hanging-{number}" for number in range(STUCK)]
    for path in paths:
        os.mkfifo(path)
    try:
        yield paths
    finally:
        for path in paths:
            number = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            os.close(number)


async def test_files_that_hang_stop_nobody(
    setting: Setting, sender: Sender, destination: Destination, keep: Keep
) -> None:
    """Tokens, passwords, certificates and CAs on a volume that is gone: neither acknowledgements nor others wait."""
    with files_that_hang(setting.folder) as files:
        token, name, certificate, *cas = map(str, files)
        url = f"https://127.0.0.1:{destination.port}/in"
        ways = [
            {"bearer_token_file": token},
            {"basic": Basic(name, name)},
            {"client_tls": Tls(certificate, certificate)},
            *({"ca_file": ca} for ca in cas),
        ]
        context = setting.authority.server(setting.server_tls)
        async with destination.listening(context):
            stuck = [
                setting.route(f"stuck-{number}", HttpOutput(url, compression="gzip", timeout=2.0, **way))  # type: ignore[arg-type]
                for number, way in enumerate(ways)
            ]
            working = HttpOutput(
                f"https://127.0.0.1:{destination.port}/in", ca=setting.authority.ca.read_text(), compression="gzip"
            )
            setting.write(setting.config(*stuck, setting.route("healthy", working)))
            async with serving(setting) as process:
                await process.listening()
                async with sender.sending(lambda: process.ports["audit"]):
                    await sender.reaches(EVENTS)
                await all_delivered(process, setting, sender)

                async def said() -> bool:
                    found = await outputs_of(process, setting)
                    return all("hangs" in output.last_error for name, output in found.items() if name != "healthy")

                await until(said, 60)
                assert [output.delivered for output in (await outputs_of(process, setting)).values()][:-1] == [
                    0
                ] * STUCK
    keep(account("https beside six files that hang", sender, destination))


async def test_what_hangs_is_held_once(setting: Setting, destination: Destination) -> None:
    """Each try of a route that waits for a file adds no thread and no copy of the batch."""
    with files_that_hang(setting.folder) as files:
        config = setting.config(
            setting.route("stuck", HttpOutput(destination.url, bearer_token_file=str(files[0]), timeout=600.0))
        )
        async with destination.listening(), setting.running(config) as plane:
            before = _threads()
            assert await plane.post([{"auditID": "a", "stage": "ResponseComplete", "level": "Metadata"}]) == 200
            sample = 'auditpipeline_output_retries_total{output="stuck"}'

            async def tried() -> bool:
                return (await plane.metric(sample) or 0) >= 3

            await until(tried)
            assert _threads() <= before + 1


def _threads() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/task").iterdir()))

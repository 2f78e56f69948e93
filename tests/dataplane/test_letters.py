"""Dead letters: what is kept of them, and that nobody's push out another's."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from auditpipeline.core import config as contract
from auditpipeline.core.config import HttpOutput
from auditpipeline.dataplane import inspect
from auditpipeline.dataplane import log as logs
from auditpipeline.dataplane.inspect import Chosen
from auditpipeline.dataplane.letters import NO_OUTPUT, Budget, Dead
from auditpipeline.dataplane.requeue import requeue
from auditpipeline.dataplane.spool import Spool, open_spool
from tests.dataplane.setting import Setting
from tests.dataplane.test_spool import opened

SMALL = 2**26
"""The smallest volume's limit: the budget is 4 MiB then."""


def noise(size: int = 2**16) -> bytes:
    """Nothing that zstd could make smaller."""
    return os.urandom(size)


def kept(path: Path) -> Counter[str]:
    """How many letters each output has."""
    return Counter(letter.output for letter in inspect.dead(path, Chosen(), 10_000))


def test_a_budget_is_divided() -> None:
    """Together a sixteenth, unless that is too little for each."""
    budget = Budget(2**33, 3)
    assert budget.none + 3 * budget.each == 2**33 // 16
    assert Budget(2**20, 16) == (2**20, 16)
    assert {Budget(2**20, 16).none, Budget(2**20, 16).each} == {2**20}
    assert Budget(2**33, 0).each > 0


async def test_junk_pushes_out_junk_alone(tmp_path: Path) -> None:
    """20 MiB of bodies that cannot be read: what outputs have refused stays, and so does the newest body."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path, SMALL, ("a", "b"))
    for output in ("a", "b"):
        await spool.append([], dead=[Dead(output, "refused", noise()) for _ in range(10)])
    for number in range(320):
        await spool.append([], dead=[Dead(NO_OUTPUT, f"junk {number}", noise())])
    found = kept(path)
    assert (found["a"], found["b"]) == (10, 10)
    assert 1 <= found[NO_OUTPUT] <= 16
    assert inspect.dead(path, Chosen(output=NO_OUTPUT), 1)[0].reason == "junk 319"
    figures = await spool.figures()
    assert figures.dead_removed_of == {NO_OUTPUT: 320 - found[NO_OUTPUT]}
    assert figures.dead_removed == 320 - found[NO_OUTPUT]
    assert sorted(figures.lost) == [("", "unreadable", 320), ("a", "refused", 10), ("b", "refused", 10)]
    await spool.close()


async def test_an_output_pushes_out_its_own_alone(tmp_path: Path) -> None:
    """However many letters it has, and small ones count with what surrounds them."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path, SMALL, ("loud", "calm"))
    await spool.append([], dead=[Dead("calm", "refused", noise()), Dead(NO_OUTPUT, "junk", noise())])
    for _ in range(30):
        await spool.advance("loud", 0, 0, [Dead("loud", "r" * 2000, b"x") for _ in range(50)])
    found = kept(path)
    assert (found["calm"], found[NO_OUTPUT]) == (1, 1)
    assert 600 < found["loud"] < Budget(SMALL, 2).each / 2000
    await spool.close()


async def test_outputs_that_are_gone_share_one_budget(tmp_path: Path) -> None:
    """Whoever renames outputs again and again must not fill the disk; who comes back has what is left."""
    path = tmp_path / "spool.sqlite"
    spool = await opened(path, SMALL)
    for number in range(10):
        await spool.use(["out", f"was-{number}"])
        await spool.append([], dead=[Dead(f"was-{number}", "refused", noise()) for _ in range(10)])
    await spool.use(["out", "was-9"])
    await spool.append([], dead=[Dead("out", "refused", noise())])
    found = kept(path)
    assert found["out"] == 1
    assert found["was-9"] == 10
    assert 10 < sum(found.values()) - 11 <= 16
    assert found["was-8"] == 10
    assert found["was-0"] == 0
    await spool.close()


async def test_what_goes_is_said_and_not_for_each_letter(tmp_path: Path) -> None:
    """Two lines here: at the first one that goes, and at the end."""
    log = io.StringIO()
    config = contract.Spool(str(tmp_path / "spool.sqlite"), SMALL, dead_letters="whole")
    spool = await open_spool(config, ("out",), logs.make(log))
    await spool.use(["out"])
    for _ in range(100):
        await spool.append([], dead=[Dead(NO_OUTPUT, "junk", noise())])
    removed = (await spool.figures()).dead_removed
    await spool.close()
    found = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in found] == ["dead letters made room for newer ones"] * 2
    assert sum(line["letters"] for line in found) == removed > 50


def bytes_in(folder: Path) -> bytes:
    """All that its files hold."""
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def digested(path: Path) -> Spool:
    """A spool that keeps no content of what cannot be read."""
    return await opened(path, dead_letters="digest")


async def test_a_digest_keeps_nothing_of_a_body(tmp_path: Path) -> None:
    """Its size, SHA-256 and reason; an event that an output refuses stays whole. It cannot be put back, and is told."""
    path, body = tmp_path / "spool.sqlite", b'{"kind":"EventList","secret":"hunter2"'
    spool = await digested(path)
    await spool.append([], dead=[Dead(NO_OUTPUT, "torn", body), Dead("out", "refused", b'{"auditID":"a"}')])
    letter, other = reversed(inspect.dead(path, Chosen(), 10))
    assert (letter.data, other.data) == (b"", b'{"auditID":"a"}')
    assert letter.reason == f"torn ({len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}; not kept)"
    await spool.close()
    assert b"hunter2" not in bytes_in(tmp_path)
    assert requeue(path, Chosen()).left == {1: "only its digest was kept"}


@pytest.mark.parametrize("kept_as", ["whole", "digest"])
async def test_the_configuration_says_what_is_kept(setting: Setting, kept_as: contract.DeadLetters) -> None:
    """At the start, and when it changes."""
    config = setting.config(setting.route("siem", HttpOutput("http://127.0.0.1:1/")))
    setting.write(config)
    async with setting.running() as plane:
        spool = msgspec.structs.replace(config.spool, dead_letters=kept_as)
        await plane.in_force(setting.write(msgspec.structs.replace(config, spool=spool)))
        assert await plane.post(b"{torn") == 200
        (letter,) = inspect.dead(setting.spool, Chosen(), 10)
        assert letter.data == (b"{torn" if kept_as == "whole" else b"")

"""An upgrade can be rolled back: the release before (tests/previous.py) works on a spool of this one, and the other way
round."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from auditpipeline.core import config as contract
from auditpipeline.core.config import HttpOutput
from auditpipeline.dataplane import inspect
from auditpipeline.dataplane.inspect import Chosen
from auditpipeline.dataplane.spool import Spool
from auditpipeline.dataplane.store import Dead
from tests import previous
from tests.dataplane.setting import Setting
from tests.dataplane.test_spool import aside, lines_from, opened

TESTS = Path(__file__).parents[1]
OUTPUTS = ("siem", "archive")


def release_before(path: Path, events: int = 3) -> dict[str, Any]:
    """Lets that release work on the spool; what it found."""
    command = [sys.executable, str(TESTS / "dataplane" / "other_release.py"), str(path), str(events)]
    done = subprocess.run(command, capture_output=True, text=True, env=previous.environment(), check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_the_release_before() -> None:
    """Else the tests below would prove nothing."""
    code = "import auditpipeline.core.spec as spec; print(spec.__file__, hasattr(spec, 'stored_pipeline'))"
    assert previous.run(code).decode() == f"{previous.folder()}/operator/auditpipeline/core/spec.py False\n"


async def used(path: Path) -> Spool:
    """A spool of this release that has used all that is new: budgets that were used up, gaps, digests."""
    spool = await opened(path, 2**26, OUTPUTS, dead_letters="digest")
    for number in range(20):
        await spool.append([b'{"n":%d}' % (2 * number), b'{"n":%d}' % (2 * number + 1)])
    for _ in range(40):
        await spool.append([], "", [Dead("siem", "refused", os.urandom(2**16)), Dead("", "junk", b"torn")])
    await spool.advance("archive", 30, 30)
    return spool


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "not closed cleanly"])
async def test_the_release_before_goes_on_with_a_spool_of_this_one(tmp_path: Path, clean: bool) -> None:
    """It finds every event, cursor and count, loses nothing, and this release goes on where it ended."""
    path = tmp_path / "spool.sqlite"
    spool = await used(path)
    figures = await spool.figures()
    if not clean:
        spool._writer.damaged = True  # not closed cleanly: the whole file is checked
    await spool.close()
    found = release_before(path)
    assert found["lines"] == [f'{{"n":{number}}}' for number in range(40)]
    assert found["cursors"] == {"siem": 0, "archive": 30}
    assert sorted(map(tuple, found["lost"])) == sorted(figures.lost)
    assert (found["dead"], found["removed"], found["healthy"]) == (figures.dead, figures.dead_removed, True)
    assert found["log"] == []
    spool = await opened(path, 2**26, OUTPUTS)
    after = await spool.figures()
    assert await lines_from(spool, 20) == [b'{"n":%d}' % number for number in range(20, 43)]
    assert {name: cursor.next for name, cursor in spool.cursors.items()} == {"siem": 20, "archive": 30}
    assert after.dead == figures.dead + 2
    assert {reason for _, reason, _ in after.lost} == {"refused", "unreadable"}
    await spool.append([b"new"])
    await spool.close()
    assert not aside(tmp_path)


async def test_this_release_goes_on_with_a_spool_of_the_one_before(tmp_path: Path) -> None:
    """And that one again afterwards, as often as somebody likes."""
    path = tmp_path / "spool.sqlite"
    release_before(path, 10)
    for _ in range(2):
        spool = await opened(path, outputs=OUTPUTS)
        start, end = spool.cursors["siem"].next, spool.end
        assert await lines_from(spool, start) == [b'{"n":%d}' % number for number in range(start, end)]
        await spool.append([b'{"n":%d}' % end])
        dead = (await spool.figures()).dead
        await spool.close()
        found = release_before(path)
        assert found["lines"] == [f'{{"n":{number}}}' for number in range(start, end + 1)]
        assert (found["dead"], found["log"]) == (dead, [])
    assert {letter.output for letter in inspect.dead(path, Chosen(), 100)} == {"siem", ""}
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM lost WHERE reason = 'damaged'").fetchone() == (0,)


def test_the_release_before_reads_a_configuration_of_this_one(tmp_path: Path) -> None:
    """With every field that is new in it."""
    setting = Setting(tmp_path)
    config = setting.config(setting.route("siem", HttpOutput("https://siem.example/")))
    spool = contract.Spool(str(setting.spool), dead_letters="digest")
    path = tmp_path / "config.json"
    egress = contract.Egress(("127.0.0.1:8080",), ("10.96.0.1",))
    newest = msgspec.structs.replace(config, spool=spool, egress=egress, metrics_token="0" * 64)
    path.write_bytes(contract.encode(newest))
    code = (
        "import sys; from auditpipeline.core import config\n"
        "print(config.decode(open(sys.argv[1], 'rb').read()).spool.path)"
    )
    assert previous.run(code, str(path)).decode().strip() == str(setting.spool)

"""Looking into a spool that is in use, was killed, or is closed; and putting dead letters back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from auditpipeline.core.config import FileOutput
from auditpipeline.core.errors import AuditPipelineError
from auditpipeline.dataplane import inspect, layout, rows, store
from auditpipeline.dataplane.inspect import Chosen
from auditpipeline.dataplane.requeue import Requeued, requeue
from auditpipeline.dataplane.store import NO_OUTPUT, Dead, Store
from tests.dataplane.setting import EVERYTHING, QUICK, Setting, event, event_list, ids, lines_in, until

ROOT = Path(__file__).parents[2]


def lines(*audit_ids: str) -> list[bytes]:
    """Events as they are stored."""
    return [json.dumps(event(auditID=audit_id)).encode() for audit_id in audit_ids]


def made(path: Path) -> Store:
    """A spool with five events, of which siem got two, and three dead letters."""
    writer = Store(layout.open_checked(path), 2**30, dead_letters="whole")
    with writer.transaction():
        writer.use(["archive", "siem"])
        writer.append(lines("a", "b", "c"), "filter")
        writer.append(lines("d", "e"), "filter")
        writer.advance("archive", 5, 5)
        writer.advance("siem", 2, 1, [Dead("siem", "answered 400", lines("a")[0], "a/key")])
        writer.append(
            [],
            "",
            [
                Dead(NO_OUTPUT, "the body cannot be read", b"{torn"),
                Dead(NO_OUTPUT, "why", event_list([event(auditID="z")])),
            ],
        )
    return writer


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Not a byte, a size, a time or a name in the folder may change."""

    def state() -> dict[str, tuple[int, int, str]]:
        return {
            found.name: (found.stat().st_size, found.stat().st_mtime_ns, hashlib.sha256(found.read_bytes()).hexdigest())
            for found in folder.iterdir()
        }

    before = state()
    yield
    assert state() == before


@pytest.fixture(params=["open", "killed", "closed"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A spool that somebody has open, that was left by a kill, or was closed."""
    path = tmp_path / "live" / "spool.sqlite"
    path.parent.mkdir()
    # SQLite's connections of one process share memory, so that whoever has it open is another process.
    code = (
        "import sys; from pathlib import Path; from tests.dataplane.test_inspect import made\n"
        "writer = made(Path(sys.argv[1])); print('up', flush=True); sys.stdin.read(); writer.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        if request.param == "killed":
            process.kill()
        elif request.param == "closed":
            process.communicate()
        yield path
        process.kill()


def test_a_summary_says_what_is_stored_and_changes_nothing(spool: Path) -> None:
    """Whatever state the spool is in."""
    with unchanged(spool.parent):
        found = inspect.summary(spool)
    assert (found.first, found.end, found.events) == (0, 5, 5)
    assert found.size > 0
    assert [(each.name, each.next, each.delivered, each.waiting, each.lost) for each in found.outputs] == [
        ("archive", 5, 5, 0, 0),
        ("siem", 2, 1, 3, 1),
    ]
    assert found.outputs[0].oldest is None
    assert found.outputs[1].oldest is not None
    assert {(each.output, each.reason, each.letters) for each in found.dead} == {
        ("siem", "answered 400", 1),
        (NO_OUTPUT, "the body cannot be read", 1),
        (NO_OUTPUT, "why", 1),
    }
    assert found.lost == [(NO_OUTPUT, "unreadable", 2), ("siem", "refused", 1)]


def test_events_are_shown_by_number_and_by_what_an_output_lacks(spool: Path) -> None:
    """Bounds are kept within a row."""

    def shown(start: int = 0, end: int | None = None, output: str | None = None) -> list[tuple[int, str]]:
        found = inspect.events(spool, start, end, output)
        return [(each.number, json.loads(each.line or b"")["auditID"]) for each in found]

    with unchanged(spool.parent):
        assert shown() == list(enumerate("abcde"))
        assert shown(1, 4) == [(1, "b"), (2, "c"), (3, "d")]
        assert shown(output="siem") == [(2, "c"), (3, "d"), (4, "e")]
        assert shown(output="archive") == []
        assert shown(9) == []
        with pytest.raises(AuditPipelineError, match="knows no output 'x': it has archive, siem"):
            shown(output="x")


def test_dead_letters_are_listed_the_newest_first(spool: Path) -> None:
    """All, of an output, by id, and no more than asked for."""
    with unchanged(spool.parent):
        letters = inspect.dead(spool, Chosen(), 10)
        assert [letter.id for letter in letters] == [3, 2, 1]
        assert letters[1].data == b"{torn"
        assert [letter.id for letter in inspect.dead(spool, Chosen(output="siem"), 10)] == [1]
        assert [letter.id for letter in inspect.dead(spool, Chosen(output=NO_OUTPUT), 1)] == [3]
        assert [letter.id for letter in inspect.dead(spool, Chosen(ids=(1, 9)), 10)] == [1]


def test_a_journal_without_its_shared_memory_is_told(tmp_path: Path) -> None:
    """As in a copy; what to do is said, and it helps."""
    path = tmp_path / "live" / "spool.sqlite"
    path.parent.mkdir()
    writer = made(path)
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    writer.close()
    shared = copy / "spool.sqlite-shm"
    shared.unlink()
    with pytest.raises(AuditPipelineError, match=f"touch {shared}"):
        inspect.summary(copy / path.name)
    shared.touch()
    assert inspect.summary(copy / path.name).end == 5


@pytest.mark.parametrize("content", [b"", b"no database" * 500])
def test_what_is_no_spool_is_told(tmp_path: Path, content: bytes) -> None:
    """In one line."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(AuditPipelineError, match=r"layout 0|cannot be read"):
        inspect.summary(path)
    with pytest.raises(AuditPipelineError, match="no spool is there"):
        inspect.summary(tmp_path / "nothing")


def test_requeue_puts_letters_back_for_their_output_alone(tmp_path: Path) -> None:
    """As new events; what never belonged to an output goes to all; what cannot be read stays."""
    path = tmp_path / "spool.sqlite"
    made(path).close()
    done = requeue(path, Chosen())
    assert (done.letters, done.events) == (2, 2)
    assert list(done.left) == [2]
    found = inspect.summary(path)
    assert (found.end, found.events, found.requeued, found.clean) == (7, 7, 2, True)
    assert [letter.id for letter in inspect.dead(path, Chosen(), 10)] == [2]
    assert found.lost == [(NO_OUTPUT, "unreadable", 2), ("siem", "refused", 1)]
    with inspect.looking(path) as connection:
        chunks = rows.read(connection, 5, 2**20)
    assert sorted((chunk.digest, json.loads((chunk.lines or [b""])[0])["auditID"]) for chunk in chunks) == [
        ("", "z"),
        (store.only("siem"), "a"),
    ]
    assert requeue(path, Chosen(output="siem")) == Requeued(0, 0, {})


def test_a_letter_whose_output_is_gone_stays(tmp_path: Path) -> None:
    """Nobody would get it."""
    path = tmp_path / "spool.sqlite"
    writer = made(path)
    with writer.transaction():
        writer.use(["archive"])
    writer.close()
    done = requeue(path, Chosen(ids=(1,)))
    assert done.letters == 0
    assert "no output 'siem' any more" in done.left[1]
    assert inspect.summary(path).events == 5


@pytest.mark.parametrize("output", [NO_OUTPUT, "siem"])
def test_a_letter_stays_while_there_is_no_output_at_all(tmp_path: Path, output: str) -> None:
    """Whatever came next would begin behind it: nobody would get the event, and nobody miss it."""
    path = tmp_path / "spool.sqlite"
    writer = Store(layout.open_checked(path), 2**30, dead_letters="whole")
    with writer.transaction():
        writer.append([], "", [Dead(output, "refused", json.dumps(event()).encode())])
    writer.close()
    assert requeue(path, Chosen()) == Requeued(0, 0, {1: "there is no output that would get it"})
    assert [letter.id for letter in inspect.dead(path, Chosen(), 9)] == [1]


async def test_requeued_letters_are_delivered_once_to_their_output(setting: Setting) -> None:
    """A running plane refuses the requeue; the next start delivers. Other outputs get nothing again."""
    other = setting.folder / "out" / "other.jsonl"
    config = setting.config(setting.route("one"), setting.route("two", FileOutput(str(other)), policies=(EVERYTHING,)))
    async with setting.running(config, QUICK) as running:
        assert await running.post([event(auditID="first")]) == 200
        await running.plane.intake.bury([Dead("one", "answered 400", lines("letter")[0])])
        await until(lambda: other.exists() and len(lines_in(other)) == 1)
        assert inspect.in_use(setting.spool) is True
        with pytest.raises(AuditPipelineError, match="is in use: stop the process"):
            requeue(setting.spool, Chosen())
        assert len(inspect.dead(setting.spool, Chosen(), 10)) == 1
    assert inspect.in_use(setting.spool) is False
    assert requeue(setting.spool, Chosen()).events == 1
    async with setting.running(None, QUICK) as running:
        await until(lambda: len(lines_in(setting.file)) == 2)
        assert await running.post([event(auditID="last")]) == 200
        await until(lambda: len(lines_in(other)) == 2)
        await until(lambda: len(lines_in(setting.file)) == 3)

        async def settled() -> bool:
            report = await running.report()
            return report.dead_letters == 0 and {output.pending for output in report.outputs} == {0}

        await until(settled)
    assert [line.split("/")[0] for line in ids(lines_in(setting.file))] == ["first", "letter", "last"]
    assert [line.split("/")[0] for line in ids(lines_in(other))] == ["first", "last"]


async def test_looking_does_not_disturb_a_process_that_writes(tmp_path: Path) -> None:
    """Summaries in a loop beside commits: each is of one state, and the writer meets no error."""
    path = tmp_path / "spool.sqlite"
    code = (
        "import sys, json; from pathlib import Path; from auditpipeline.dataplane import layout, store\n"
        "writer = store.Store(layout.open_checked(Path(sys.argv[1])), 2**30)\n"
        "print('up', flush=True)\n"
        "for number in range(300):\n"
        "    with writer.transaction():\n"
        "        writer.append([b'{}'] * 3, 'f'); writer.use(['a']); writer.advance('a', 3 * number + 3, 3)\n"
        "        writer.prune()\n"
        "writer.close()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert process.stdout
    await process.stdout.readline()
    looks = 0
    while process.returncode is None:
        found = inspect.summary(path)
        assert found.end % 3 == 0
        assert found.events == found.end - found.first
        looks += 1
        await asyncio.sleep(0)
    assert await process.wait() == 0
    assert looks
    assert inspect.summary(path).end == 900


def test_requeue_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in between leaves every letter where it is."""
    path = tmp_path / "spool.sqlite"
    made(path).close()

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Store, "append", fail)
    with pytest.raises(sqlite3.OperationalError):
        requeue(path, Chosen())
    monkeypatch.undo()
    assert len(inspect.dead(path, Chosen(), 10)) == 3
    assert inspect.summary(path).events == 5


def many(path: Path, letters: int, size: int) -> None:
    """A spool with dead letters of incompressible events of that size."""
    writer = Store(layout.open_checked(path), 2**40, dead_letters="whole")
    with writer.transaction():
        writer.use(["siem", "archive"])
    for number in range(letters):
        line = json.dumps(event(auditID=f"{number}", noise=os.urandom(size // 2).hex())).encode()
        with writer.transaction():
            writer.append([], "", [Dead(("siem", "archive", NO_OUTPUT)[number % 3], "a test", line)])
    writer.close()


def test_requeue_needs_little_memory_however_much_it_puts_back(tmp_path: Path) -> None:
    """200 letters of 1 MB, by a process that may have 192 MiB: rows are bounded in bytes, and each letter is there."""
    path = tmp_path / "spool.sqlite"
    many(path, 200, 2**20)
    code = (
        "import sys; from pathlib import Path; from auditpipeline.dataplane import inspect, requeue\n"
        "found = requeue.requeue(Path(sys.argv[1]), inspect.Chosen())\n"
        # Not ru_maxrss: that begins with what the process was forked from.
        "most = Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]\n"
        "print(found.letters, found.events, most)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    letters, events, most = map(int, done.stdout.split())
    assert (letters, events) == (200, 200)
    assert most < 192 * 1024
    with inspect.looking(path) as connection:
        assert connection.execute("SELECT max(size), sum(count) FROM events").fetchone()[0] <= 5 * 2**20
    numbers = [json.loads(each.line or b"")["auditID"] for each in inspect.events(path)]
    assert sorted(numbers, key=int) == [str(number) for number in range(200)]


def test_what_cannot_be_read_of_a_body_stays_and_the_rest_goes_back(tmp_path: Path) -> None:
    """A letter is not refused for one bad event; what stays can be tried again, and is not put back twice."""
    path = tmp_path / "spool.sqlite"
    writer = made(path)
    body = event_list([event(auditID="good"), event(auditID="bad", stage=7), event(auditID="fine")])
    with writer.transaction():
        writer.append([], "", [Dead(NO_OUTPUT, "why", body, events=3)])
    writer.close()
    done = requeue(path, Chosen(ids=(4,)))
    assert (done.letters, done.events) == (0, 2)
    assert done.left[4].startswith("1 parts of it: ")
    assert [json.loads(each.line or b"")["auditID"] for each in inspect.events(path, 5)] == ["good", "fine"]
    (letter,) = inspect.dead(path, Chosen(ids=(4,)), 1)
    assert [found["auditID"] for found in json.loads(letter.data)["items"]] == ["bad"]
    assert requeue(path, Chosen(ids=(4,))).events == 0


def test_a_damaged_letter_costs_itself_alone(tmp_path: Path) -> None:
    """It is listed and stays; the others can be seen and go back."""
    path = tmp_path / "spool.sqlite"
    writer = made(path)
    writer._db.execute("UPDATE dead SET data = substr(data, 1, 9) || x'ff' || substr(data, 11) WHERE id = 3")
    writer.close()
    letters = inspect.dead(path, Chosen(), 10)
    assert [(letter.id, letter.whole) for letter in letters] == [(3, False), (2, True), (1, True)]
    done = requeue(path, Chosen())
    assert (done.letters, done.left[3]) == (1, "the disk has damaged it")


@pytest.mark.parametrize("gone", [False, True], ids=["empty", "gone"])
def test_looking_at_a_journal_without_its_file_deletes_nothing(tmp_path: Path, gone: bool) -> None:
    """SQLite would delete the journal; what to do is said."""
    path = tmp_path / "live" / "spool.sqlite"
    path.parent.mkdir()
    writer = made(path)
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    writer.close()
    os.truncate(copy / path.name, 0)
    if gone:
        (copy / path.name).unlink()
    with unchanged(copy), pytest.raises(AuditPipelineError, match=r"its journal is not|no spool is there"):
        inspect.summary(copy / path.name)
    with pytest.raises(AuditPipelineError, match=r"a start of its process mends it|no spool is there"):
        requeue(copy / path.name, Chosen())
    assert (copy / "spool.sqlite-wal").stat().st_size > 0


ODD = event(auditID="odd", requestObject="DEEP")
READABLE = [
    (json.dumps(event(auditID="a")).encode(), 1),
    (event_list([event(auditID="a"), event(auditID="b")]), 2),
    (event_list([event(auditID="a"), event(auditID="b")]).replace(b'"a"', b'"\\ud800"'), 2),
    (event_list([event(auditID="a"), ODD]).replace(b'"DEEP"', b"[" * 3000 + b"]" * 3000), 2),
    (json.dumps(ODD).encode().replace(b"DEEP", b"\xff\xfe"), 1),
    (event_list([event(auditID="a"), event(auditID="b")])[:-2], 2),
]


@pytest.mark.parametrize(("letter", "events"), READABLE)
def test_a_letter_that_holds_a_readable_event_is_put_back(tmp_path: Path, letter: bytes, events: int) -> None:
    """However odd it is: as many events as would be taken from it today."""
    path = tmp_path / "spool.sqlite"
    writer = made(path)
    with writer.transaction():
        writer.append([], "", [Dead(NO_OUTPUT, "as an older release could not read it", letter)])
    writer.close()
    done = requeue(path, Chosen(ids=(4,)))
    assert done.events == events
    for stored in inspect.events(path, 5):
        json.loads(stored.line or b"")

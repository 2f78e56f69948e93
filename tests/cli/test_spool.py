"""`auditpipeline spool`: what is printed, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auditpipeline.cli import main as command_line
from tests.dataplane.test_inspect import made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A spool that was closed."""
    found = tmp_path / "spool.sqlite"
    made(found).close()
    return found


def call(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str | Path) -> tuple[int, str, str]:
    """Runs `spool` in this process."""
    with pytest.raises(SystemExit) as caught:
        command_line.main(["spool", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    out, err = capsysbinary.readouterr()
    return caught.value.code, out.decode(), err.decode()


def test_ls_is_a_page_for_the_person_on_call(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """State, outputs with cursor and lag, dead letters by reason."""
    code, out, _ = call(capsysbinary, "ls", path)
    assert code == 0
    assert f"{path} (closed)" in out
    assert "events 0 to 4: 5 stored" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["archive", "5", "5", "0", "-", "0"] in rows
    assert next(row[:4] for row in rows if row[:1] == ["siem"]) == ["siem", "2", "1", "3"]
    assert any(row[:2] == ["(none)", "1"] and row[-1] == "read" for row in rows)


def test_ls_as_json_has_every_figure(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Names in camelCase."""
    found = json.loads(call(capsysbinary, "ls", path, "--output", "json")[1])
    assert found["outputs"][1] | {"oldest": 0, "last": 0} == {
        "name": "siem",
        "next": 2,
        "delivered": 1,
        "waiting": 3,
        "oldest": 0,
        "last": 0,
        "lost": 1,
    }
    assert (found["inUse"], found["clean"], found["events"]) == (False, True, 5)
    assert found["lost"][1] == {"output": "siem", "reason": "refused", "events": 1}


def test_show_prints_lines_and_says_where_to_go_on(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """On standard output nothing but events."""
    code, out, err = call(capsysbinary, "show", path, "--limit", "2")
    assert [json.loads(line)["auditID"] for line in out.splitlines()] == ["a", "b"]
    assert err == "auditpipeline: there are more: --from 2, or a larger --limit\n"
    code, out, err = call(capsysbinary, "show", path, "--from", "1", "--to", "2")
    assert ([json.loads(line)["auditID"] for line in out.splitlines()], err, code) == (["b", "c"], "", 0)
    code, out, _ = call(capsysbinary, "show", path, "--of", "siem")
    assert [json.loads(line)["auditID"] for line in out.splitlines()] == ["c", "d", "e"]
    code, _, err = call(capsysbinary, "show", path, "--of", "nobody")
    assert (code, err.count("\n")) == (2, 1)


def test_dead_lists_letters_in_three_forms(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """A table, JSON, and the bytes themselves."""
    _, out, _ = call(capsysbinary, "dead", path)
    assert [line.split()[0] for line in out.splitlines()] == ["ID", "3", "2", "1"]
    _, out, _ = call(capsysbinary, "dead", path, "--of", "siem", "--output", "json")
    (letter,) = json.loads(out)
    assert (letter["id"], letter["reason"], letter["key"]) == (1, "answered 400", "a/key")
    assert json.loads(letter["data"])["auditID"] == "a"
    assert call(capsysbinary, "dead", path, "--id", "2", "--raw")[1] == "{torn\n"
    assert call(capsysbinary, "dead", path, "--id", "99")[1] == "no dead letters\n"


def test_requeue_says_what_stays_and_why(path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """With exit code 1; with 0 where nothing does."""
    code, out, _ = call(capsysbinary, "requeue", path, "--of", "siem")
    assert (code, out) == (0, "put back: 1 dead letter, 1 event\n")
    code, out, err = call(capsysbinary, "requeue", path, "--all")
    assert (code, out) == (1, "put back: 1 dead letter, 1 event\n")
    assert "dead letter 2 stays: the event cannot be read" in err
    assert "dead letters put back: 2" in call(capsysbinary, "ls", path)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["requeue"], "say which: --all, --of OUTPUT, or --id ID"),
        (["requeue", "--all", "--id", "1"], "say which"),
        (["show", "--limit", "0"], "--limit"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    path: Path, capsysbinary: pytest.CaptureFixture[bytes], arguments: list[str], message: str
) -> None:
    """Nothing is changed."""
    code, _, err = call(capsysbinary, arguments[0], path, *arguments[1:])
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_file_that_is_no_spool_is_one_line(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """And exit code 2."""
    (tmp_path / "file").write_bytes(b"x" * 5000)
    code, _, err = call(capsysbinary, "ls", tmp_path / "file")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be read as a spool" in err

"""`auditpipeline redact`: what is shown of logs, and what never is."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from auditpipeline.cli import main as command_line
from auditpipeline.core.redaction.redactor import Redactor
from tests.cli.planted import LAST, WORD, event, is_clean, line, log, secret, token
from tests.cli.running import COMMAND, pipeline


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log."""
    found = tmp_path / "audit.log"
    found.write_bytes(log(event(1), secret(2), token(3)))
    return found


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Runs `redact` in this process: exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as caught:
        command_line.main(["redact", *map(str, arguments)])
    assert isinstance(caught.value.code, int)
    return caught.value.code, *capsys.readouterr()


def test_events_are_shown_as_a_diff_without_the_values(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is named, and each value has its path; counts come at the end."""
    code, out, err = call(capsys, path)
    assert (code, err) == (0, "")
    assert is_clean(out.encode())
    assert out.splitlines() == [
        f"@@ {path}:2: create /api/v1/namespaces/prod/secrets, ResponseComplete, auditID id-2 @@",
        f'  requestObject.metadata.annotations["{LAST}"].stringData.password',
        '-   "********" (9 characters)',
        '+   "REDACTED"',
        "  requestObject.data.password",
        '-   "********" (12 characters)',
        '+   "UkVEQUNURUQ="',
        f"@@ {path}:3: create /api/v1/namespaces/prod/pods/web/exec, ResponseComplete, auditID id-3 @@",
        "  requestURI?token",
        '-   "********" (9 characters)',
        '+   "REDACTED"',
        f"{path}: 3 events read, 2 changed, 3 values taken",
        "",
        *out.splitlines()[13:],
    ]
    rows = [text.split()[-2:] for text in out.splitlines()[14:-1]]
    assert rows == [["1", "1"]] * 3


def test_values_are_shown_if_somebody_asks_for_them(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escaped: a value moves no cursor."""
    path.write_bytes(log(token(1)).replace(WORD.encode(), b"\\u001b[31m"))
    _, out, _ = call(capsys, path, "--show-values")
    assert '-   "\\u001b[31m1"' in out
    assert "\x1b" not in out


@pytest.mark.parametrize("levels", [100, 500, 900, 960, 985, 1500, 10_000])
@pytest.mark.parametrize("more", [[], ["--show-values"], ["--show-values", "--output", "json"]])
def test_an_event_of_many_levels_is_shown(
    path: Path, capsys: pytest.CaptureFixture[str], levels: int, more: list[str]
) -> None:
    """Whatever the stack is when it is printed."""
    body = b'{"data":{"a":' + b'{"a":' * levels + b'"x"' + b"}" * levels + b"}}"
    path.write_bytes(line(secret(1) | {"requestObject": 0}).replace(b'"requestObject":0', b'"requestObject":' + body))
    code, out, err = call(capsys, path, *more)
    assert (code, err) == (0, "")
    assert "requestObject" in out
    if "json" in more:
        assert json.loads(out)["files"][0]["values"] == 1


def test_nothing_of_an_event_moves_the_cursor_of_a_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Users choose keys and names."""
    odd = secret(1) | {"auditID": "\x1b]0;x\x07\u202e", "requestURI": "/\x1b[2J" + "x" * 10_000}
    odd["requestObject"]["data"] = {"\x9b31m\u202e": "eA=="}
    path.write_bytes(log(odd))
    _, out, _ = call(capsys, path)
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(out)
    assert max(map(len, out.splitlines())) < 1000


def test_counts_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --summary."""
    _, out, _ = call(capsys, path, "--summary")
    assert out.startswith(f"{path}: 3 events read, 2 changed, 3 values taken\n")


@pytest.mark.parametrize("more", [[], ["--summary"]])
def test_json_is_one_document(path: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    """Without values."""
    code, out, _ = call(capsys, path, "--output", "json", *more)
    found = json.loads(out)
    assert (code, is_clean(out.encode())) == (0, True)
    assert [each["auditID"] for each in found["events"]] == ([] if more else ["id-2", "id-3"])
    (file,) = found["files"]
    assert {key: file[key] for key in ("events", "changed", "values", "unread")} == {
        "events": 3,
        "changed": 2,
        "values": 3,
        "unread": 0,
    }
    assert {(row["resource"], row["place"], row["values"]) for row in file["places"]} >= {
        ("secrets", "requestObject.data.*", 1),
        ("pods/exec", "requestURI?token", 1),
    }
    if not more:
        change = found["events"][1]["changes"][0]
        assert change["path"] == "requestURI?token"
        assert change["parts"] == [{"characters": 9, "becomes": "REDACTED"}]
        (change,) = json.loads(call(capsys, path, "--output", "json", "--show-values")[1])["events"][1]["changes"]
        assert (change["before"], change["after"]) == (f"{WORD}3", "REDACTED")


def test_a_log_with_nothing_to_take(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Says so; an empty one too."""
    path.write_bytes(log(event(1)))
    assert call(capsys, path) == (0, f"{path}: 1 event read, 0 changed, 0 values taken\n", "")
    path.write_bytes(b"")
    assert json.loads(call(capsys, path, "--output", "json")[1])["files"][0]["events"] == 0


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress])
def test_packed_logs_are_unpacked(path: Path, capsys: pytest.CaptureFixture[str], pack: Any) -> None:
    """By their first bytes; a damaged one is an error behind what can be read of it."""
    data = pack(path.read_bytes())
    path.write_bytes(data)
    assert call(capsys, path, "--summary")[1].startswith(f"{path}: 3 events read, 2 changed")
    path.write_bytes(data[:-9])
    code, out, err = call(capsys, path, "--summary")
    assert (code, err.count("\n")) == (2, 1)
    assert "damaged or incomplete" in err
    assert out.startswith(f"{path}: ")


def test_standard_input_and_several_files(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its counts; one that is not there costs the others nothing."""

    def stdin(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))

    stdin(log(secret(1)))
    code, out, err = call(capsys, "-", path, path.with_name("none"), "--summary")
    assert code == 2
    assert "stdin: 1 event read, 1 changed" in out
    assert f"{path}: 3 events read" in out
    assert err == f"auditpipeline: {path.with_name('none')}: No such file or directory\n"
    stdin(gzip.compress(log(secret(1))))
    code, _, err = call(capsys, "-")
    assert (code, "zcat FILE" in err) == (2, True)


def test_lines_that_are_not_events_are_reported(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With exit code 1: they may hold secrets."""
    path.write_bytes(log(event(1)) + b"password\n" * 7)
    code, out, err = call(capsys, path)
    assert code == 1
    assert "1 event read" in out
    assert [text.split(":")[2] for text in err.splitlines()[:5]] == ["2", "3", "4", "5", "6"]
    assert "7 lines or parts of lines are not audit events" in err
    assert "password" not in err


def write(path: Path, redaction: Any) -> Path:
    """An AuditPipeline with that redaction, between other objects."""
    found = path.with_name("pipeline.yaml")
    document = pipeline({"name": "out", "stdout": {}}, redaction=redaction)
    found.write_text(yaml.safe_dump_all([{"kind": "ConfigMap"}, document]))
    return found


def test_a_pipeline_says_what_is_taken(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its redaction and the key come to the redactor."""
    seen = list[Any]()
    start = Redactor.__init__

    def init(self: Redactor, *arguments: Any) -> None:
        seen.append(arguments)
        start(self, *arguments)

    monkeypatch.setattr(Redactor, "__init__", init)
    key = path.with_name("key")
    key.write_bytes(bytes(range(32)))
    rules = [{"resources": [{"group": "", "resources": ["secrets"]}], "paths": ["data.*"], "action": "hash"}]
    file = write(path, {"default": False, "rules": rules})
    assert call(capsys, path, "--pipeline", file, "--key", key)[0] == 0
    ((redaction, given),) = seen
    assert (redaction.default, redaction.rules[0].action, redaction.rules[0].paths) == (False, "hash", ("data.*",))
    assert given == bytes(range(32))


def test_hashes_are_known_and_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They tell equal values, and not which."""
    key = path.with_name("key")
    key.write_bytes(bytes(range(32)))
    path.write_bytes(log(secret(2), token(2)))
    code, out, _ = call(capsys, path, "--pipeline", write(path, {"method": "hash"}), "--key", key)
    shown = re.findall(r'\+   "(.*)"', out)
    assert code == 0
    assert len(shown) == 3
    assert re.fullmatch("REDACTED-[0-9a-f]{32}", shown[0])
    assert shown[0] == shown[2] == base64.b64decode(shown[1]).decode()
    assert is_clean(out.encode())


def test_a_redaction_that_takes_nothing_is_reported(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the counts would look like those of a clean log."""
    code, out, err = call(capsys, path, "--pipeline", write(path, {"default": False}))
    assert (code, "0 values taken" in out, "takes nothing" in err) == (0, True, True)


def test_a_reader_that_has_seen_enough_is_no_error(path: Path) -> None:
    """As `| head`."""
    path.write_bytes(log(*map(secret, range(2000))))
    command = [*COMMAND, "redact", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith(b"@@")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.parametrize("name", ["a b.log", os.fsdecode(b"\xff\x1b.log")])
def test_names_of_files_are_printed_whatever_they_are(
    path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Without a traceback, and without moving a cursor."""
    other = path.rename(path.with_name(name))
    code, out, _ = call(capsys, other)
    assert (code, "\x1b" in out) == (0, False)
    assert json.loads(call(capsys, other, "--output", "json")[1])["files"][0]["file"] == str(other)


@pytest.mark.parametrize(
    ("redaction", "message"),
    [
        ({"method": "hash"}, "auditpipeline-redaction"),
        ({"rules": [{"paths": ["a.b"], "action": "hash"}]}, "--key"),
        ({"method": "rot13"}, "spec.redaction.method"),
        ({"rules": [{"paths": ["a..b"]}]}, "spec.redaction.rules[0].paths[0]"),
        ({"rule": []}, "spec.redaction"),
        ([], "spec.redaction"),
    ],
)
def test_a_mistake_in_the_redaction_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], redaction: Any, message: str
) -> None:
    """With the field, and the line of the file."""
    code, out, err = call(capsys, path, "--pipeline", write(path, redaction))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [("kind: ConfigMap", "no AuditPipeline in it"), ("a: [", "not valid YAML"), ("", "no AuditPipeline in it")],
)
def test_a_file_that_is_not_a_pipeline_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    """With what is needed."""
    file = path.with_name("pipeline.yaml")
    file.write_text(content)
    code, _, err = call(capsys, path, "--pipeline", file)
    assert (code, err.count("\n"), message in err) == (2, 1, True)


def test_a_key_that_is_too_short_is_refused(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A guess at it would open all hashes."""
    key = path.with_name("key")
    key.write_bytes(b"sesame")
    code, _, err = call(capsys, path, "--key", key, "--pipeline", write(path, {"method": "hash"}))
    assert code == 2
    assert "32" in err
    assert "sesame" not in err


def archived(data: bytes) -> bytes:
    """A tar archive."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w") as archive:
        member = tarfile.TarInfo("audit.log")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return found.getvalue()


def spooled(data: bytes) -> bytes:
    """A database with the lines in it, as a spool has them."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE rows (lines BLOB)")
        database.execute("INSERT INTO rows VALUES (?)", (data,))
        database.commit()
        return database.serialize()


@pytest.mark.parametrize("more", [[], ["--in-place"]])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (archived, "unpack it first"),
        (lambda data: gzip.compress(archived(data)), "unpack it first"),
        (spooled, "auditpipeline spool"),
        (lambda data: b"PAR1\x15\x04" + data, "binary data"),
    ],
)
def test_what_would_break_if_a_line_changed_is_refused(
    path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[bytes], bytes], message: str, more: list[str]
) -> None:
    """Archives and databases hold events, too, and know how long they are."""
    data = make(path.read_bytes())
    path.write_bytes(data)
    code, _, err = call(capsys, path, *more)
    assert (code, err.count("\n"), message in err) == (2, 1, True)
    assert path.read_bytes() == data


def test_what_cannot_be_a_log_is_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders, and what is packed otherwise."""
    packed = path.with_name("log.bz2")
    packed.write_bytes(bz2.compress(line(event(1))))
    for arguments in ([path.parent], [packed], [], ["--in-place", "-"]):
        code, _, err = call(capsys, *arguments)
        assert (code, err.count("\n")) == (2, 1), arguments

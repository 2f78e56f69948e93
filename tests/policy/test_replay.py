"""`policy replay`: the sums are those of the evaluator, and a broken log does not stop it."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from auditpipeline.core.event import cut, decode_event, encode_event, head, narrow
from auditpipeline.core.eventlog import Broken, events
from auditpipeline.core.policyfile import load
from tests.policy.support import EVENTS, POLICIES, ROOT, call

BASELINE, SECURITY = str(POLICIES / "baseline.yaml"), str(POLICIES / "security.yaml")
BATCHES = ROOT / "tests" / "data" / "batches"
EVENT = {
    "level": "RequestResponse",
    "stage": "ResponseComplete",
    "auditID": "a",
    "verb": "create",
    "requestURI": "/x",
    "user": {"username": "alice"},
    "objectRef": {"resource": "pods", "namespace": "default"},
    "requestObject": {"metadata": {"name": "web"}},
}


def replayed(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command prints as JSON."""
    code, out, _ = call("replay", *arguments, "--output", "json", capsys=capsys)
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_sums_are_what_the_data_plane_would_keep(capsys: pytest.CaptureFixture[str]) -> None:
    """Events and bytes by level, against narrow, cut and encode for each event of a real log."""
    policy = load(Path(BASELINE).read_bytes(), BASELINE).rules
    kept: Counter[str] = Counter()
    size = 0
    for line in EVENTS.read_bytes().splitlines():
        event = decode_event(line)
        captured = head(event)
        decision = narrow(captured, (policy,))
        kept[decision.level.title if decision else "None"] += 1
        if decision:
            unchanged = decision.level == captured.level and not decision.omit_managed_fields
            size += len(line.strip() if unchanged else encode_event(cut(event, captured.level, decision)))
    found = replayed(BASELINE, str(EVENTS), capsys=capsys)
    assert {level: total["events"] for level, total in found["levels"].items() if total["events"]} == dict(kept)
    assert found["recorded"]["bytes"] == size
    assert found["read"] == {
        "events": 3159,
        "bytes": sum(len(line.strip()) for line in EVENTS.read_bytes().splitlines()),
    }
    assert sum(rule["events"] for rule in found["rules"]) == 3159
    assert found["neverHit"] == [rule["rule"] for rule in found["rules"] if not rule["events"]]


def test_people_get_a_table_by_level_and_by_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """With the line of each rule, and the rules that were never hit."""
    code, out, err = call("replay", BASELINE, str(EVENTS), capsys=capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{EVENTS}: 3,159 events, 2.7 MiB"
    assert any(line.startswith("LEVEL ") for line in lines)
    (rule,) = (line for line in lines if line.split()[:2] == ["5", "37"])
    assert "Metadata: resources secrets" in rule
    assert lines[-1].startswith("never hit: rules ")


def test_a_change_is_what_it_adds_and_removes(capsys: pytest.CaptureFixture[str]) -> None:
    """Against itself it is nothing, and the other way round it is the opposite."""
    same = replayed(BASELINE, str(EVENTS), "--against", BASELINE, capsys=capsys)
    assert (same["added"]["events"], same["removed"]["events"], same["changes"]) == (0, 0, [])
    there = replayed(BASELINE, str(EVENTS), "--against", SECURITY, capsys=capsys)
    back = replayed(SECURITY, str(EVENTS), "--against", BASELINE, capsys=capsys)
    assert there["added"] == back["removed"]
    assert there["removed"] == back["added"]
    assert there["recorded"]["bytes"] - back["recorded"]["bytes"] == sum(each["bytes"] for each in there["changes"])
    _, out, _ = call("replay", BASELINE, str(EVENTS), "--against", SECURITY, "--top", "2", capsys=capsys)
    assert f"against {SECURITY}: adds {there['added']['events']:,} events" in out
    assert out.splitlines()[-1].startswith("and ")


def test_bodies_of_a_webhook_are_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    """An EventList in one line, or spread over many."""
    body = next(BATCHES.glob("*.json"))
    events_in = len(json.loads(body.read_bytes())["items"])
    assert replayed(BASELINE, str(body), capsys=capsys)["read"]["events"] == events_in


def test_a_body_over_many_lines_and_a_gz_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What jq and log rotation make of a log."""
    spread = tmp_path / "list.json"
    body = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": [EVENT, EVENT]}
    spread.write_text(json.dumps(body, indent=2))
    assert replayed(BASELINE, str(spread), capsys=capsys)["read"]["events"] == 2
    packed = tmp_path / "audit.log.gz"
    packed.write_bytes(gzip.compress(EVENTS.read_bytes()))
    assert replayed(BASELINE, str(packed), capsys=capsys) == replayed(BASELINE, str(EVENTS), capsys=capsys)
    packed.write_bytes(packed.read_bytes()[:1000])
    code, _, err = call("replay", BASELINE, str(packed), capsys=capsys)
    assert code == 2
    assert f"{packed}: its gzip data is damaged or incomplete" in err


def test_broken_lines_are_counted_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first ones are told with file, line and column."""
    log = tmp_path / "audit.log"
    good = json.dumps(EVENT)
    log.write_text("\n".join([good, '{"level": nope}', "", good[:50], '{"level":"Metadata"}', "[]", good, *["x"] * 9]))
    code, out, err = call("replay", BASELINE, str(log), capsys=capsys)
    assert code == 0
    assert "2 events, " in out
    assert "13 broken lines passed over" in out
    assert f"{log}:2:12: " in err
    assert f"{log}:4:51: " in err
    assert f"{log}:5:1: " in err
    assert err.splitlines()[-1] == f"auditpipeline: {log}: and 8 more broken lines"


def test_a_broken_line_ends_explain_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer a line would otherwise no longer fit the log."""
    log = tmp_path / "audit.log"
    log.write_text(f"{json.dumps(EVENT)}\n{{\n")
    code, out, err = call("explain", BASELINE, "--events", str(log), capsys=capsys)
    assert code == 2
    assert out.count("\n") == 1
    assert err.startswith(f"auditpipeline: {log}:2:2: ")


@pytest.mark.parametrize(
    ("line", "column"),
    [(b"{nope}", 2), (b'  {"a": b}', 9), (b'{"a": "b"', 10), (b"[]", 1), (b"nope", 5)],
)
def test_the_column_is_where_reading_ended(line: bytes, column: int) -> None:
    """One line a case."""
    found: list[Broken] = []
    assert list(events([line], found.append)) == []
    assert [each.column for each in found] == [column]


def test_a_big_log_has_a_progress_bar_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, and nowhere else."""
    log = tmp_path / "big.log"
    log.write_bytes(EVENTS.read_bytes() * 2)
    monkeypatch.setattr("auditpipeline.cli.policy_io._terminal", lambda: True)
    _, out, err = call("replay", BASELINE, str(log), capsys=capsys)
    assert "6,318 events" in out
    assert "big.log" in err
    assert "100%" in err or err.startswith("big.log")

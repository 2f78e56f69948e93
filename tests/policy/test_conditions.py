"""Conditions in the policy tools: lint type-checks, explain says which decided, replay counts; union ignores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.policy.support import call, findings

CONDITIONS = [
    {"name": "no-probes", "expression": "!event.userAgent.startsWith('kube-probe/')"},
    {"name": "team", "expression": "event.annotations['team'] == 'a' || event.verb == 'create'"},
]
REFUSED = [{"name": "refused", "expression": "event.responseStatus.code == 403"}]
EVENT = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "RequestResponse",
    "stage": "ResponseComplete",
    "auditID": "a",
    "verb": "create",
    "requestURI": "/api/v1/namespaces/default/pods",
    "user": {"username": "alice"},
    "userAgent": "kubectl/v1.34.0",
    "objectRef": {"resource": "pods", "namespace": "default"},
    "responseStatus": {"code": 201},
    "requestObject": {"metadata": {"name": "web"}},
}
PROBE = {**EVENT, "userAgent": "kube-probe/1.34", "auditID": "b"}
READ = {**EVENT, "verb": "get", "auditID": "c"}
FLOOR = {
    **PROBE,
    "auditID": "d",
    "objectRef": {"resource": "auditpipelines", "apiGroup": "auditpipeline.dev", "name": "security"},
}


def pipeline(conditions: Any = CONDITIONS, output: Any = REFUSED, **policy: Any) -> str:
    """An AuditPipeline as a file."""
    narrower = {"policy": {"rules": [{"level": "Metadata"}]}} | policy
    body = {
        "apiVersion": "auditpipeline.dev/v1alpha1",
        "kind": "AuditPipeline",
        "metadata": {"name": "security"},
        "spec": {
            "policy": {"rules": [{"level": "Metadata"}]},
            "matchConditions": conditions,
            "outputs": [{"name": "alerts", "stdout": {}, "matchConditions": output, **narrower}],
        },
    }
    return yaml.safe_dump(body, sort_keys=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The pipeline in a file."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(pipeline())
    return path


def log(path: Path, *events: dict[str, Any]) -> str:
    """The events as a log."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return str(path)


BAD = [
    ([{"name": "a", "expression": "event.vrb == 'x'"}], "^matchConditions[0].expression", "undefined field 'vrb'"),
    ([{"name": "a b", "expression": "true"}], "^matchConditions[0].name", "must be a name"),
    ([{"name": "a", "expression": "true"}] * 2, "^matchConditions[1].name", "is taken"),
    ([{"name": "a", "expression": "true"}] * 9, "^matchConditions", "at most 8"),
    ([{"name": "a", "expresion": "true"}], "^matchConditions[0]", "expresion"),
    ([{"name": "a"}], "^matchConditions[0]", "expression"),
    ([{"name": "a", "expression": 1}], "^matchConditions[0].expression", "str"),
    ("true", "^matchConditions", "array"),
]


@pytest.mark.parametrize(("conditions", "path", "words"), BAD, ids=[path for _, path, _ in BAD])
def test_lint_finds_what_the_operator_would_refuse(conditions: Any, path: str, words: str) -> None:
    """Of the pipeline, and of an output."""
    ((_, found),) = findings(pipeline(conditions))
    assert (found.code, found.path) == ("AP008", path)
    assert words in found.message
    ((_, found),) = findings(pipeline(output=conditions))
    assert found.path == path.replace("^", "^outputs[0].")
    assert words in found.message


def test_lint_says_where_it_stands(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By line, and by the path in the whole object."""
    file.write_text(pipeline([{"name": "a", "expression": "event.userAgent"}]))
    code, out, _ = call("lint", str(file), "--ignore", "AP103", "--output", "json", capsys=capsys)
    (found,) = json.loads(out)
    assert (code, found["code"], found["path"]) == (1, "AP008", "spec.matchConditions[0].expression")
    assert file.read_text().splitlines()[found["line"] - 1].strip() == "expression: event.userAgent"


@pytest.mark.parametrize("command", ["explain", "replay", "union"])
def test_no_tool_uses_a_condition_that_cannot_be_used(
    command: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has file, line and field."""
    file.write_text(pipeline([{"name": "a", "expression": "event.userAgent"}]))
    arguments = {"explain": ["get", "pods"], "replay": [log(tmp_path / "log", EVENT)], "union": []}[command]
    code, _, err = call(command, str(file), *arguments, capsys=capsys)
    assert code != 0
    assert "spec.matchConditions[0].expression: must be true or false" in err


def explained(file: Path, event: dict[str, Any], *more: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What explain says of an event."""
    path = log(file.with_name("event.json"), event)
    code, out, _ = call("explain", str(file), "--event", path, "--output", "json", *more, capsys=capsys)
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    return found


def test_explain_says_which_condition_decided(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first that is false; one that fails keeps the event; one of an output takes nothing from the pipeline."""
    found = explained(file, EVENT, capsys=capsys)
    assert found["recorded"] is True
    assert [(each["name"], each["output"], each["true"]) for each in found["conditions"]] == [
        ("no-probes", "", True),
        ("team", "", True),
        ("refused", "alerts", False),
    ]
    assert explained(file, PROBE, capsys=capsys)["recorded"] is False
    assert explained(file, EVENT, "--policy", "security/alerts", capsys=capsys)["recorded"] is False
    found = explained(file, READ, capsys=capsys)
    assert (found["recorded"], found["conditions"][1]["true"]) == (True, None)
    assert "a key is not there" in found["conditions"][1]["error"]
    floor = explained(file, FLOOR, capsys=capsys)
    assert (floor["recorded"], floor["conditions"]) == (True, [])


def test_explain_tells_people(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For an event, for a log, and that a request alone is not enough."""
    _, out, _ = call("explain", str(file), "--event", log(tmp_path / "e", PROBE), capsys=capsys)
    assert "stage ResponseComplete: not recorded" in out
    assert "condition no-probes: false; the event is not recorded" in out
    assert "condition refused of output alerts: false; output alerts does not get the event" in out
    _, out, _ = call("explain", str(file), "--event", log(tmp_path / "e", READ), capsys=capsys)
    assert "condition team: fails: a key is not there: ask for it with in or has() first; the event is kept" in out
    _, out, _ = call("explain", str(file), "--events", log(tmp_path / "e", EVENT, PROBE), capsys=capsys)
    first, second = out.splitlines()
    assert first.split()[2:] == ["Metadata", "rule", "0"]
    assert second.split()[2:] == ["not", "recorded", "condition", "no-probes"]
    _, out, _ = call("explain", str(file), "get", "pods", capsys=capsys)
    assert "they need an event (--event)" in out


def test_replay_counts_for_each_condition(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Events that the policy records; what a condition is false of is not recorded."""
    path = log(tmp_path / "log", EVENT, PROBE, READ, FLOOR)
    _, out, _ = call("replay", str(file), path, "--output", "json", capsys=capsys)
    found = json.loads(out)
    assert found["recorded"]["events"] == 3
    assert found["conditions"] == [
        {"name": "no-probes", "output": "", "true": 2, "false": 1, "failed": 0},
        {"name": "team", "output": "", "true": 2, "false": 0, "failed": 1},
        {"name": "refused", "output": "alerts", "true": 0, "false": 3, "failed": 0},
    ]
    _, out, _ = call("replay", str(file), path, capsys=capsys)
    assert [line.split() for line in out.splitlines() if line.startswith("no-probes")] == [
        ["no-probes", "-", "2", "1", "0"]
    ]


def test_replay_compares_with_the_conditions_of_the_other_policy(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the same pipeline nothing changes; against one without conditions they take events away."""
    path, plain = log(tmp_path / "log", EVENT, PROBE), tmp_path / "plain.yaml"
    plain.write_text(pipeline([], []))
    _, out, _ = call("replay", str(file), path, "--against", str(file), "--output", "json", capsys=capsys)
    assert json.loads(out)["changes"] == []
    _, out, _ = call("replay", str(file), path, "--against", str(plain), "--output", "json", capsys=capsys)
    assert json.loads(out)["removed"]["events"] == 1


def test_a_condition_sees_what_the_policy_leaves(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No body at level Metadata, and the level that the policy gives."""
    file.write_text(pipeline([{"name": "a", "expression": "!has(event.requestObject) && event.level == 'Metadata'"}]))
    assert explained(file, EVENT, capsys=capsys)["recorded"] is True
    file.write_text(file.read_text().replace("level: Metadata", "level: Request"))
    assert explained(file, EVENT, capsys=capsys)["recorded"] is False


def test_union_and_covers_look_at_policies_alone(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Conditions take events away behind what kube-apiserver emits."""
    plain = tmp_path / "plain.yaml"
    plain.write_text(pipeline([], []))
    said = [call("union", str(path), capsys=capsys)[1].replace(path.name, "") for path in (file, plain)]
    assert said[0] == said[1]
    union = tmp_path / "union.yaml"
    union.write_text(call("union", str(plain), capsys=capsys)[1])
    assert call("covers", str(union), str(file), capsys=capsys)[0] == 0

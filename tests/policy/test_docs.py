"""docs/policy.md says what the tools do: its examples are run, its codes and its schema compared."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import msgspec
import pytest

from auditpipeline.cli.policy import policy
from auditpipeline.core.finding import CHECKS
from auditpipeline.core.policycases import Case, Expect, Request
from tests.policy.support import ROOT, call

TEXT = (ROOT / "docs" / "policy.md").read_text()
EXAMPLES = re.findall(r"```console\n\$ auditpipeline policy (.*)\n((?:.*\n)*?)```", TEXT)


def section(heading: str) -> str:
    """The text below a heading, up to the next one of the same rank."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


@pytest.mark.parametrize(("command", "expected"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_each_example_prints_what_stands_there(
    command: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run from the root of the repository."""
    monkeypatch.chdir(ROOT)
    words, _, tail = command.partition(" | tail -n ")
    _, out, _ = call(*shlex.split(words), capsys=capsys)
    lines = out.splitlines(keepends=True)
    assert "".join(lines[-int(tail) :] if tail else lines) == expected


def test_each_command_has_a_section_with_an_example() -> None:
    """And names each of its options there, or for all of them together at the top."""
    assert {command.split()[0] for command, _ in EXAMPLES} == policy.commands.keys()
    for name, command in policy.commands.items():
        options = [each for each in command.params if isinstance(each, click.Option)]
        text = section(name) + TEXT.partition("## lint")[0]
        missing = [each.opts[-1] for each in options if each.opts[-1] not in text and each.name != "output"]
        assert missing == [], name


def test_each_code_has_a_section_with_its_severity() -> None:
    """In order, and none that is gone."""
    found = re.findall(r"^### (AP\d{3}): (.*)\n\n(Error|Warning)\. [^#]+?\n\nWrite: .+", section("Codes"), re.MULTILINE)
    expected = [(code, check.title, check.severity.capitalize()) for code, check in CHECKS.items()]
    assert found == expected


def test_the_schema_of_cases_is_the_one_that_is_read() -> None:
    """Every field, by path."""
    fields = {f"cases[].{field.encode_name}" for field in msgspec.structs.fields(Case)} - {
        "cases[].request",
        "cases[].expect",
    }
    fields |= {f"cases[].request.{field.encode_name}" for field in msgspec.structs.fields(Request)}
    fields |= {f"cases[].expect.{field.encode_name}" for field in msgspec.structs.fields(Expect)}
    assert set(re.findall(r"^\| `(cases[^`]+)` ", TEXT, re.MULTILINE)) == fields


def test_the_cases_of_the_example_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And are met by the policy that is meant."""
    (example,) = re.findall(r"```yaml\n(.*?)```", section("test"), re.DOTALL)
    cases = tmp_path / "cases.yaml"
    cases.write_text(example)
    code, out, _ = call("test", str(ROOT / "manifests" / "policies" / "baseline.yaml"), str(cases), capsys=capsys)
    assert code == 0, out


def test_links_lead_somewhere() -> None:
    """To files that are there, and to headings of this page."""
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert link[1:] in headings if link.startswith("#") else (ROOT / "docs" / link).exists(), link

"""Mistakes are one line with file, line and column and exit code 2; help has examples; completion works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from auditpipeline.cli.policy import policy
from tests.policy.support import EVENTS, POLICIES, ROOT, call

BASELINE = str(POLICIES / "baseline.yaml")
HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [", ":2:1: this is not valid YAML"),
        ("a: b: c\n", ":1:5: this is not valid YAML"),
        ("a: \t- b\n@", "this is not valid YAML"),
        ("a: \x00\n", "this is not valid YAML"),
        ("a: 2026-99-99\n", "this is not valid YAML"),
        ("&a [*a]\n", "this is no audit policy"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("&a {a: *a, rules: *a}\n", "this is no audit policy"),
        ("kind: List\nitems: &a [{kind: List, items: *a}]\n", "no policy in it"),
        (f"{HEAD}rules: &a [*a]\n", "rules[0]: expected object, got array"),
        ("", "no policy in it"),
        ("{}", "no policy in it"),
        ("rules: []\n", ":1:1: this is no audit policy: apiVersion missing, kind missing"),
        ("- a\n", ":1:1: this is no audit policy"),
        (f"{HEAD}", ":1:1: a policy with 0 rules is refused"),
        (f"{HEAD}rules: []\n", "a policy with 0 rules is refused"),
        (f"{HEAD}rules:\n- level: None\n  user: [a]\n", ":5:3: rules[0].user: unknown field 'user'"),
        (f"{HEAD}rules:\n- level: none\n", ":4:3: rules[0].level: "),
        (f"{HEAD}rules:\n-\n", ":4:2: rules[0]: expected object, got null"),
        (f"{HEAD}rules: {{}}\n", ":3:1: rules: expected array, got object"),
        (f"{HEAD}rules: [{{level: None}}]\n---\n{HEAD}rules: [{{level: None}}]\n", "several policies"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback."""
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    code, _, err = call("explain", str(file), "get", "pods", capsys=capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"auditpipeline: {file}")
    assert said in err


def test_a_file_that_is_no_text_is_told_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Line and column of the first byte that is no UTF-8."""
    file = tmp_path / "policy.yaml"
    file.write_bytes(b"a: b\nc: \xff\n")
    code, _, err = call("lint", str(file), capsys=capsys)
    assert (code, err) == (2, f"auditpipeline: {file}:2:4: this is no UTF-8 text\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lint"], "FILES"),
        (["lint", "/nowhere"], "/nowhere: No such file or directory"),
        (["lint", BASELINE, "--ignore", "AP999"], "AP999"),
        (["explain", BASELINE], "name a request"),
        (["explain", BASELINE, "get"], "name a request"),
        (["explain", BASELINE, "get", "pods", "--event", "x"], "one of the three"),
        (["explain", BASELINE, "--events", str(EVENTS), "--as", "alice"], "describe a request, not an event"),
        (["explain", BASELINE, "get", "pods", "--group", "dev"], "--group needs --as"),
        (["explain", BASELINE, "get", "/healthz", "-n", "default"], "/healthz is a path"),
        (["explain", BASELINE, "--event", "/dev/null"], "/dev/null: no event in it"),
        (["test", BASELINE, "/nowhere"], "/nowhere: No such file or directory"),
        (["test", BASELINE, BASELINE], "baseline.yaml:5:1: apiVersion: "),
        (["replay", BASELINE, "/nowhere"], "/nowhere: No such file or directory"),
        (["replay", BASELINE, str(ROOT)], "Is a directory"),
        (["union", "/nowhere"], "/nowhere: No such file or directory"),
        (["covers", BASELINE, str(POLICIES / "baseline.cases.yaml")], "no policy in it"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for every other command."""
    code, _, err = call(*arguments, capsys=capsys)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(policy.commands))
def test_help_has_examples_and_says_what_each_option_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every command of the group."""
    code, out, _ = call(name, "--help", capsys=capsys)
    assert code == 0
    assert f"auditpipeline policy {name} " in out.partition("Example")[2]
    options = (parameter for parameter in policy.commands[name].params if isinstance(parameter, click.Option))
    assert all(option.help or option.show_default for option in options)


def test_every_example_of_the_help_is_a_command_that_exists() -> None:
    """Its options, too."""
    for name, command in policy.commands.items():
        for line in (command.help or "").splitlines():
            if f"auditpipeline policy {name} " in line:
                words = line.partition(f"policy {name} ")[2].partition(" > ")[0].split()
                command.make_parser(click.Context(command)).parse_args(words)


def test_shell_completion_knows_commands_and_options() -> None:
    """In the way that docs/policy.md describes."""
    environment = {**os.environ, "_AUDITPIPELINE_COMPLETE": "bash_complete"}
    for words, expected in (("auditpipeline policy re", "replay"), ("auditpipeline policy lint --o", "--output")):
        asked = {**environment, "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        command = [sys.executable, "-m", "auditpipeline.cli.main"]
        found = subprocess.run(command, env=asked, capture_output=True, text=True, check=False)
        assert expected in found.stdout, found.stderr

# ruff: noqa: E501
"""`spec.redaction.rules`: what paths lead to, in every form that an object comes in; and paths that are not any."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.model import Action, Redaction, Rule, Selector
from auditpipeline.core.redaction.paths import ANY, ONE, parse, problems
from auditpipeline.core.redaction.redactor import Redactor

KEY = b"k" * 32
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
WIDGETS = (Selector("example.com", ("widgets",)),)


def redacted(
    body: Any, *rules: Rule, resource: str = "widgets", verb: str = "create", field: str = "requestObject"
) -> Any:
    """Returns what is left of a body, and of it again."""
    reference = {"resource": resource, "apiGroup": "example.com", "name": "a"}
    event = {"level": "RequestResponse", "stage": "ResponseComplete", "auditID": "1", "requestURI": "/", "verb": verb}
    line = json.dumps({**event, "user": {}, "objectRef": reference, field: body}).encode()
    redactor = Redactor(Redaction(rules=rules), KEY)
    found = redactor.line(line)
    assert redactor.line(found.line) == (found.line, 0)
    return json.loads(found.line)[field]


def rule(*paths: str, action: Action = "mask") -> Rule:
    """A rule for widgets."""
    return Rule(paths, WIDGETS, action)


@pytest.mark.parametrize(
    ("path", "body", "left"),
    [
        ("spec.a.b", {"spec": {"a": {"b": "x", "c": "y"}, "b": "z"}}, {"spec": {"a": {"b": "REDACTED", "c": "y"}, "b": "z"}}),
        ("spec.users.pin", {"spec": {"users": [{"pin": 7}, {"pin": "x"}]}}, {"spec": {"users": [{"pin": 0}, {"pin": "REDACTED"}]}}),
        ("spec.*.b", {"spec": {"a": {"b": "x"}, "c": "y"}}, {"spec": {"a": {"b": "REDACTED"}, "c": "y"}}),
        ("**.b", {"b": "x", "c": [{"b": ["x", True, None]}]}, {"b": "REDACTED", "c": [{"b": ["REDACTED", True, None]}]}),
        ("spec.**.b", {"b": "x", "spec": {"b": "y", "c": {"d": {"b": "z"}}}}, {"b": "x", "spec": {"b": "REDACTED", "c": {"d": {"b": "REDACTED"}}}}),
        ('metadata.labels["a.b/c"]', {"metadata": {"labels": {"a.b/c": "x", "a": "y"}}}, {"metadata": {"labels": {"a.b/c": "REDACTED", "a": "y"}}}),
        ("spec.a", {"spec": {"a": {"k": "x", "l": ["y"]}}}, {"spec": {"a": {"k": "REDACTED", "l": ["REDACTED"]}}}),
        ("spec.a", {"status": {"a": "x"}}, {"status": {"a": "x"}}),
        ("spec.a", {"items": [{"spec": {"a": "x"}}]}, {"items": [{"spec": {"a": "REDACTED"}}]}),
        ("spec.a", {"rows": [{"cells": ["x"], "object": {"spec": {"a": "x"}}}]}, {"rows": [{"cells": ["x"], "object": {"spec": {"a": "REDACTED"}}}]}),
        ("spec.a", [{"op": "add", "path": "/spec/a", "value": "x"}], [{"op": "add", "path": "/spec/a", "value": "REDACTED"}]),
        ("spec.a.b", [{"op": "add", "path": "/spec", "value": {"a": {"b": "x"}}}], [{"op": "add", "path": "/spec", "value": {"a": {"b": "REDACTED"}}}]),
        ("spec.a.b", [{"op": "add", "path": "/spec/a/0/b", "value": "x"}], [{"op": "add", "path": "/spec/a/0/b", "value": "REDACTED"}]),
        ("spec.a.b", [{"op": "add", "path": "/spec/a/-", "value": {"b": "x"}}], [{"op": "add", "path": "/spec/a/-", "value": {"b": "REDACTED"}}]),
        ('spec["a/b"]', [{"op": "test", "path": "/spec/a~1b", "value": "x"}], [{"op": "test", "path": "/spec/a~1b", "value": "REDACTED"}]),
        ("spec.a", [{"op": "add", "path": "/spec/b", "value": "x"}], [{"op": "add", "path": "/spec/b", "value": "x"}]),
    ],
)  # fmt: skip
def test_a_path_takes_what_it_leads_to(path: str, body: Any, left: Any) -> None:
    """And leaves what is beside it."""
    assert redacted(body, rule(path)) == left
    assert redacted(body, rule(path), field="responseObject") == left


def test_an_object_is_found_as_it_was_applied() -> None:
    """In the annotation, and in a patch of the annotation."""
    old, new = (
        {"metadata": {"annotations": {APPLIED: json.dumps({"spec": {"a": each}})}}} for each in ("x", "REDACTED")
    )
    left = redacted(old, rule("spec.a"))
    assert json.loads(left["metadata"]["annotations"][APPLIED]) == json.loads(new["metadata"]["annotations"][APPLIED])
    pointer = f"/metadata/annotations/{APPLIED.replace('/', '~1')}"
    patch = [{"op": "replace", "path": pointer, "value": json.dumps({"spec": {"a": "x"}})}]
    assert json.loads(redacted(patch, rule("spec.a"), verb="patch")[0]["value"]) == {"spec": {"a": "REDACTED"}}


def test_a_key_that_is_spelt_with_escapes_is_found() -> None:
    """As whoever writes a patch may spell it."""
    line = (
        rb'{"level":"Request","stage":"ResponseComplete","auditID":"1","requestURI":"/","verb":"patch","user":{},'
        rb'"objectRef":{"resource":"widgets","apiGroup":"example.com"},"requestObject":{"sp\u0065c":{"\u0061":"x"}}}'
    )
    found = Redactor(Redaction(rules=(rule("spec.a"),))).line(line)
    assert json.loads(found.line)["requestObject"] == {"spec": {"a": "REDACTED"}}


def test_what_is_removed_is_gone_with_its_key() -> None:
    """Of a list, too; the value of a patch stays, without its content."""
    gone = rule("spec.a", "**.pin", action="remove")
    assert redacted({"spec": {"a": "x", "b": [{"pin": 1, "c": 2}]}}, gone) == {"spec": {"b": [{"c": 2}]}}
    assert redacted([{"op": "add", "path": "/spec/a", "value": "x"}], gone) == [{"op": "add", "path": "/spec/a", "value": "REDACTED"}]  # fmt: skip


def test_equal_values_have_equal_hashes() -> None:
    """And without a key, all values are masked."""
    left = redacted({"spec": {"a": "x", "b": "x", "c": "y"}}, rule("spec.*", action="hash"))["spec"]
    assert left["a"] == left["b"] != left["c"]
    assert all(value.startswith("REDACTED-") and len(value) == 41 for value in left.values())


def test_a_rule_is_for_its_resources_alone() -> None:
    """And for their subresources, most of which are answered with the whole object; without resources, for all."""
    body = {"spec": {"a": "x"}}
    assert redacted(body, rule("spec.a"), resource="gadgets") == body
    assert redacted(body, Rule(("spec.a",)), resource="gadgets") != body
    line = json.dumps(
        {
            "level": "Request", "stage": "ResponseComplete", "auditID": "1", "requestURI": "/", "verb": "update", "user": {},
            "objectRef": {"resource": "widgets", "subresource": "status", "apiGroup": "example.com"}, "requestObject": body,
        }
    ).encode()  # fmt: skip
    assert Redactor(Redaction(rules=(rule("spec.a"),))).line(line).values == 1
    every = Rule(("spec.a",), (Selector("*"),))
    assert redacted(body, every, resource="gadgets") != body
    other = Rule(("spec.a",), (Selector("other.example"),))
    assert redacted(body, other) == body


def test_what_a_server_says_of_a_value_goes_as_well() -> None:
    """Of the objects that a rule is for."""
    event = {
        "level": "Metadata", "stage": "ResponseComplete", "auditID": "1", "requestURI": "/", "verb": "create", "user": {},
        "objectRef": {"resource": "widgets", "apiGroup": "example.com"},
        "responseStatus": {"message": 'spec.a: Invalid value: "hunter2": too short', "code": 422},
    }  # fmt: skip
    found = Redactor(Redaction(rules=(rule("spec.a"),))).line(json.dumps(event).encode())
    assert b"hunter2" not in found.line


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("spec.a-b.$c", ("spec", "a-b", "$c")),
        ("*.**.a", (ONE, ANY, "a")),
        ('a["b.c"].d', ("a", "b.c", "d")),
        (r'a["b\"\\c"]', ("a", 'b"\\c')),
    ],
)
def test_paths_are_read(path: str, segments: tuple[Any, ...]) -> None:
    """Keys, `*` and `**`."""
    assert parse(path) == segments


@pytest.mark.parametrize("path", ["", ".a", "a.", "a..b", "a b", "a[b]", 'a["b', "**", "*.**", "a" * 257])
def test_what_is_no_path_is_refused(path: str) -> None:
    """With the field, and what to do."""
    (found,) = problems(Redaction(rules=(Rule((path,)),)), "spec.redaction")
    assert found.path == "spec.redaction.rules[0].paths[0]"


@given(st.text(max_size=40))
def test_every_text_is_a_path_or_refused(path: str) -> None:
    """Nothing else is raised."""
    with suppress(Invalid):
        assert parse(path)


def test_rules_are_bounded() -> None:
    """In number, and each in its paths; resources and groups have names that there can be."""
    deep = Redaction(rules=(Rule(("**.a",)),) * 64)
    assert problems(deep, "r") == []
    assert [each.path for each in problems(Redaction(rules=(*deep.rules[1:], Rule(("**.a", "**.b")))), "r")] == [
        "r.rules"
    ]
    many = Redaction(rules=(Rule(("a",)),) * 65)
    assert [each.path for each in problems(many, "r")] == ["r.rules"]
    assert [each.path for each in problems(Redaction(rules=(Rule(()),)), "r")] == ["r.rules[0].paths"]
    wrong = Rule(("a",), (Selector("A B", ("pods/", "x y")),))
    assert [each.path for each in problems(Redaction(rules=(wrong,)), "r")] == [
        "r.rules[0].resources[0].group",
        "r.rules[0].resources[0].resources[0]",
        "r.rules[0].resources[0].resources[1]",
    ]

"""Conditions: what an expression may be, what it is told that it may not, and what it says of an event."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.conditions.check import problems
from auditpipeline.core.conditions.grammar import MAX_CHAIN, MAX_DEPTH
from auditpipeline.core.conditions.model import MAX_CONDITIONS, MAX_EXPRESSION, MatchCondition
from auditpipeline.core.conditions.program import compile_expression, problem_of
from auditpipeline.core.conditions.regex import MAX_SIZE
from auditpipeline.core.conditions.static import MAX_ITEMS, MAX_SUMS
from auditpipeline.core.conditions.values import MAX_EACH, MAX_VALUES

EVENT: dict[str, Any] = {
    "level": "RequestResponse",
    "auditID": "a",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/default/pods/web",
    "verb": "update",
    "user": {"username": "alice", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["all"]}},
    "sourceIPs": ["10.1.2.3"],
    "userAgent": "kubectl/v1.34.0",
    "objectRef": {"resource": "pods", "namespace": "default", "name": "web"},
    "responseStatus": {"metadata": {}, "code": 200},
    "requestObject": {"metadata": {"resourceVersion": "7", "labels": {"app": "web"}}, "spec": {"n": 3, "nil": None}},
    "responseObject": {"metadata": {"resourceVersion": "7"}, "items": [1, 2]},
    "requestReceivedTimestamp": "2026-01-02T03:04:05.678901Z",
    "stageTimestamp": "2026-01-02T03:04:06.678901Z",
    "annotations": {"authorization.k8s.io/decision": "allow"},
}
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def said(expression: str, event: dict[str, Any] | None = None, **changed: Any) -> bool | str:
    """What an expression says of an event; None for a field that it does not have."""
    whole = {**(EVENT if event is None else event), **changed}
    fields = _FIELDS.decode(json.dumps({name: value for name, value in whole.items() if value is not None}))
    return compile_expression(expression).decide(fields.get)


@pytest.mark.parametrize(
    "expression",
    [
        "event.user.username == 'alice'",
        "event.verb in ['update', 'patch']",
        "'dev' in event.user.groups",
        "event.user.groups.exists(group, group.startsWith('system:'))",
        "event.user.groups.filter(group, group != 'dev').size() == 1",
        "event.user.groups.map(group, group == 'dev').size() == 2",
        "event.user.extra['scopes'].all(scope, scope == 'all')",
        "['curl/', 'kubectl/'].exists(agent, event.userAgent.startsWith(agent))",
        r"event.userAgent.matches('^kubectl/v[0-9]+\\.')",
        "event.sourceIPs.all(ip, ip.matches('^10[.]'))",
        "event.responseStatus.code == 200 && event.responseStatus.code < 300",
        'event.objectRef.namespace == "default" // of the request',
        "event.annotations['authorization.k8s.io/decision'] == 'allow'",
        "'authorization.k8s.io/decision' in event.annotations",
        "event.requestObject.metadata.labels.app == event.requestObject.metadata.labels['app']",
        "event.requestObject.spec.n == 3",
        "event.requestObject.spec == event.requestObject.spec",
        "event.responseObject.items[1] == 2",
        "event.requestObject.spec.nil == null",
        "event.requestReceivedTimestamp < event.stageTimestamp",
        "event.stageTimestamp - event.requestReceivedTimestamp == duration('1s')",
        "event.requestReceivedTimestamp.getHours() == 3 && event.requestReceivedTimestamp.getHours('+02:00') == 5",
        "event.requestURI.size() > 10 ? event.verb != '' : false",
        "has(event.user) && has(event.user.username) && has(event.requestObject.metadata.labels)",
        "!has(event.impersonatedUser)",
        "event . user\n. username\n== 'alice'",
    ],
)
def test_an_expression_is_true_of_an_event(expression: str) -> None:
    """Of fields of every type, in every way to write them."""
    assert problem_of(expression) == ""
    assert said(expression) is True
    assert said(f"!({expression}\n)") is False


@pytest.mark.parametrize(
    "expression",
    [
        "event.objectRef.name == '' && event.verb == '' && event.userAgent == '' && event.impersonatedUser.uid == ''",
        "event.responseStatus.code == 0",
        "event.user.groups == [] && event.sourceIPs.size() == 0",
        "event.annotations.size() == 0 && !('a' in event.user.extra)",
        "!has(event.objectRef.name) && !has(event.objectRef) && !has(event.user.groups) && !has(event.verb)",
        "!has(event.requestObject) && !has(event.requestObject.metadata) && !has(event.requestObject.a.b.c.d)",
        "!has(event.annotations.team)",
    ],
)
def test_what_is_absent_reads_as_the_zero_value_of_its_type(expression: str) -> None:
    """As a Go program has it. has() says whether it is there, and never fails."""
    assert said(expression, {}) is True
    nulls = _FIELDS.decode(json.dumps(dict.fromkeys(EVENT)))
    assert compile_expression(expression).decide(nulls.get) is True


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("event.requestObject.metadata.uid == ''", "event.requestObject.metadata.uid is not there: ask has("),
        ("event.requestObject.nothing.at.all == ''", "event.requestObject.nothing.at.all is not there"),
        ("event.annotations['team'] == 'a'", "a key is not there"),
        ("event.annotations[event.userAgent] == 'a'", "a key is not there"),
        ("event.responseObject.items[7] == 1", "a list has no item of that index"),
        ("event.requestObject.metadata.resourceVersion > 1", "another type"),
        ("int(event.userAgent) == 1", "converted"),
        ("timestamp(event.userAgent) == timestamp(event.userAgent)", "converted"),
        ("event.responseStatus.code / 0 == 1", "divided by zero"),
        ("event.responseStatus.code * 9223372036854775807 == 1", "out of range"),
        ("event.requestObject.spec.n.m.k == 1", "event.requestObject.spec.n.m.k is not there"),
    ],
)
def test_a_failure_says_why_and_nothing_of_the_event(expression: str, reason: str) -> None:
    """An event may hold secrets; a reason stands in a status."""
    found = said(expression)
    assert isinstance(found, str)
    assert reason in found
    assert "kubectl" not in found


@pytest.mark.parametrize(
    ("changed", "expression"),
    [
        ({"verb": 5}, "event.verb == ''"),
        ({"user": []}, "event.user.username == ''"),
        ({"user": {"groups": "dev"}}, "'dev' in event.user.groups"),
        ({"responseStatus": {"code": 2**70}}, "event.responseStatus.code == 0"),
        ({"requestObject": {"spec": {"n": 2**70}}}, "event.requestObject.spec.n == 0"),
        ({"annotations": {"a": 1}}, "'a' in event.annotations"),
        ({"requestReceivedTimestamp": "yesterday"}, "event.requestReceivedTimestamp.getHours() == 1"),
        ({"user": {"groups": ["g"] * (MAX_EACH + 1)}}, "event.user.groups.exists(g, g == 'x')"),
        ({"user": {"extra": {"k": ["g"] * (MAX_EACH + 1)}}}, "event.user.extra['k'].exists(g, g == 'x')"),
        ({"requestObject": {"spec": "x" * MAX_VALUES}}, "event.requestObject.spec == ''"),
        ({"requestObject": json.loads("[" * 400 + "]" * 400)}, "event.requestObject.a == 1"),
    ],
)
def test_what_cannot_be_read_or_is_too_much_is_a_failure(changed: dict[str, Any], expression: str) -> None:
    """Whatever somebody sends; or it reads as absent, which is then said."""
    found = said(expression, **changed)
    assert isinstance(found, str) or changed == {"user": []}


def test_only_the_fields_that_are_named_are_looked_at() -> None:
    """Others need not even be valid."""
    asked = list[str]()

    def get(name: str) -> msgspec.Raw | None:
        asked.append(name)
        return msgspec.Raw(b'{"username":"alice","groups":no}') if name == "user" else None

    assert compile_expression("event.verb == 'a'").decide(asked.append) is False
    assert asked == ["verb"]
    assert isinstance(compile_expression("event.user.username == 'alice'").decide(get), str)
    assert compile_expression("true").decide(get) is True


REFUSED = [
    ("event.usr.username == 'a'", "undefined field 'usr' of event: is user meant?"),
    ("event.objectRef.nam == 'a'", "undefined field 'nam' of event.objectRef: is name meant?"),
    ("event.user.username.first == 'a'", "at character 20: expression of type 'string' cannot be"),
    ("event.user == 1", "is an object: name one of its fields (username, "),
    ("event == 1", "is an object"),
    ("event.user.username", "must be true or false, and is of type string"),
    ("event.requestObject.flag", "must be true or false"),
    ("event.user.username + 1 == 'a'", "at character 21: found no matching overload"),
    ("event.user.username ==\n 1", "at character 21"),
    ("event.verb == 'ä' && event.verb == 1", "at character 33"),
    ("event.responseStatus.code == 'a'", "no matching overload"),
    ("user.username == 'a'", "undeclared name user: fields begin with event"),
    ("object.metadata.name == 'a'", "undeclared name object"),
    ("event.verb.lowerAscii() == 'a'", "there is no function lowerAscii"),
    ("authorizer.check() == 'a'", "there is no function check"),
    ("event.verb ==", "the end is not expected here"),
    ("event.verb == 'a", "has no end"),
    ("event.verb == 'a\\q'", "is not an escape"),
    ("event.verb == '\\ud800'", "is not a character"),
    ("event.verb = 'a'", "is not expected here"),
    ("event.?verb == 'a'", "is not expected here"),
    ("Event{verb: 'a'} == 1", "is not expected here"),
    ("__0 == 'a'", "is a reserved word"),
    ("event.requestObject.items.exists(i, i == 1)", "not through bodies"),
    ("event.annotations.exists(i, i == 'a')", "not through bodies"),
    ("event.requestObject.all(i, true)", "not through bodies"),
    ("event.user.groups.map(g, g).exists(g, g == 'a')", "not through bodies"),
    ("event.user.groups.all(g, event.sourceIPs.all(ip, ip == g))", "may not stand within"),
    ("event.user.groups.all(event, true)", "choose another name"),
    ("event.user.groups.map(g, g + g).size() == 1", "texts would grow"),
    ("[event.verb].all(v, v == 'a')", "must be written out"),
    ("event.userAgent.matches(event.verb)", "must be written out as a string"),
    ("event.userAgent.matches('(')", "cannot be used"),
    ("event.userAgent.matches('[z-a]')", "invalid character class range"),
    ("event.userAgent.matches('a{1000}')", "repetitions written out"),
    ("event.userAgent.matches('((a{10}){10}){10}')", "repetitions written out"),
    (r"event.userAgent.matches('\\pL{200}')", "not supported"),
    ("event.user.groups.exists(g, g.matches('[0-9]{65}'))", "repetitions written out"),
    ("event.stageTimestamp.getHours('Europe/Berlin') == 1", "a time zone is"),
    ("event.stageTimestamp.getHours('file:/etc/passwd') == 1", "a time zone is"),
    ("event.stageTimestamp.getHours(event.verb) == 1", "a time zone is"),
    ("has(event['verb'])", "has() takes one field"),
    ("\ud800", "valid Unicode"),
    ("\x00", "is not expected here"),
]


@pytest.mark.parametrize(("expression", "words"), REFUSED, ids=[repr(expression) for expression, _ in REFUSED])
def test_an_expression_that_cannot_be_used_is_refused_with_the_reason(expression: str, words: str) -> None:
    """A misspelt field, a wrong type, what Kubernetes does not have, and what could cost too much."""
    assert words in problem_of(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1),
        "(" * 900,
        "[" * 900,
        "!" * 1900 + "true",
        "-" * 1900 + "1 == 1",
        "true ? " * 120 + "true" + " : true" * 120,
        "true ? true : " * 100 + "true",
        "event.requestObject" + ".a" * (MAX_CHAIN + 1) + " == 1",
        "event.requestObject" + "[0]" * 500 + " == 1",
        "1" + " + 1" * (MAX_SUMS + 1) + " == 1",
        "1" + " * 1" * (MAX_CHAIN + 1) + " == 1",
        "event.verb.size" + "()" * 500,
        f"[{', '.join(['1'] * (MAX_ITEMS + 1))}].all(x, x == 1)",
        f"event.userAgent.matches('{'a' * (MAX_SIZE + 1)}')",
        "[1,2,3,4,5,6,7,8].all(a, " * 60,
        "'" * 1999,
        '"""' * 600,
        "'\\" * 900,
        "{" * 900,
        "event." * 300,
        "0x" * 900,
        "\n" * 2000,
    ],
    ids=range(22),
)
def test_absurd_expressions_are_refused(expression: str) -> None:
    """Before the native library sees them, or by it. None ends the process."""
    assert len(expression) <= MAX_EXPRESSION
    assert problem_of(expression)


WORDS = st.sampled_from(
    [
        *(
            "event",
            ".",
            "user",
            "username",
            "groups",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            "?",
            ":",
            "&&",
            "||",
            "!",
            "-",
        ),
        *("+", "*", "/", "%", "==", "!=", "<", "in", "true", "null", "'a'", '"b"', "1", "2u", "0x1F", "1.5", "1e9"),
        *("9223372036854775808", r"r'\d'", "b'x'", "has", "exists", "all", "map", "size", "matches", "requestObject"),
        *("event.annotations", "event.verb", "event.sourceIPs", "event.requestObject", "x", "string", "int", "type"),
        *("timestamp", "duration", "dyn", "\n", "//c\n", "'''m'''", ".5", "é", "\\", r"'\x41'", "\x00", "__0"),
    ]
)
TEXTS = st.sampled_from(["event.verb", "event.user.username", "event.requestURI", "'a'", "'pods'", "''", r"'\n'"])
BODIES = st.sampled_from(["event.requestObject", "event.requestObject.metadata.labels", "event.responseObject.a['b']"])
TESTS = st.recursive(
    st.one_of(
        st.tuples(TEXTS, st.sampled_from(["==", "!=", "<"]), TEXTS).map(" ".join),
        st.tuples(TEXTS, st.sampled_from([".startsWith(", ".contains(", ".endsWith("]), TEXTS).map(
            lambda parts: "".join(parts) + ")"
        ),
        st.tuples(BODIES, TEXTS).map(lambda parts: f"{parts[0]} == {parts[1]}"),
        BODIES.map(lambda body: f"has({body}.x)"),
        TEXTS.map(lambda text: f"event.user.groups.exists(g, g == {text})"),
        st.just("event.responseStatus.code >= 400"),
    ),
    lambda inner: st.one_of(
        inner.map(lambda test: f"!({test})"),
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
    ),
    max_leaves=6,
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        )
        for name in ("verb", "user", "requestURI", "requestObject", "responseObject", "annotations", "responseStatus")
    },
)


@given(st.lists(WORDS, max_size=60).map(" ".join) | st.lists(WORDS, max_size=60).map("".join) | st.text())
@settings(max_examples=400, deadline=None)
def test_any_text_is_compiled_or_refused(expression: str) -> None:
    """Whatever stands in it: no other exception, and no crash."""
    assert isinstance(problem_of(expression), str)


@given(TESTS, EVENTS)
@settings(max_examples=400, deadline=None)
def test_any_condition_is_true_false_or_fails_on_any_event(expression: str, event: dict[str, Any]) -> None:
    """Whatever stands in it."""
    assert problem_of(expression) == ""
    fields = _FIELDS.decode(msgspec.json.encode(event))
    assert isinstance(compile_expression(expression).decide(fields.get), bool | str)


NAMES = [("a", True), ("no-probes", True), ("example.com/No_probes.2", True), ("", False), ("a/b/c", False)]
NAMES += [("-a", False), ("a-", False), ("a b", False), ("a\n", False), ("Example.com/a", False), ("/a", False)]
NAMES += [("a" * 63, True), ("a" * 64, False), ("ä", False)]


@pytest.mark.parametrize(("name", "good"), NAMES)
def test_names_are_those_of_kubernetes(name: str, good: bool) -> None:
    """Qualified names."""
    assert bool(problems([MatchCondition(name, "true")], "spec")) is not good


def test_numbers_and_sizes_are_bounded_and_names_unique() -> None:
    """Each with its field."""

    def first(*conditions: MatchCondition) -> str:
        return next((str(found) for found in problems(conditions, "spec.matchConditions")), "")

    many = [MatchCondition(f"c{number}", "true") for number in range(MAX_CONDITIONS + 1)]
    assert first(*many[:-1]) == ""
    assert first(*many).startswith("spec.matchConditions: at most 8")
    assert first(many[0], many[0]).startswith("spec.matchConditions[1].name: 'c0' is taken")
    assert first(MatchCondition("a", " ")).startswith("spec.matchConditions[0].expression: an expression is needed")
    long = "true" + " " * (MAX_EXPRESSION - 4)
    assert first(MatchCondition("a", long)) == ""
    assert "at most 2048 bytes" in first(MatchCondition("a", long + " "))
    assert "at most 2048 bytes" in first(MatchCondition("a", f"event.verb == '{'é' * 1020}'"))
    assert first(many[0], MatchCondition("b", "event.vrb == 'a'")).startswith(
        "spec.matchConditions[1].expression: at character 1: undefined field 'vrb' of event: is verb meant?"
    )

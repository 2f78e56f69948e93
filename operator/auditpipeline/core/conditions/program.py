"""An expression, compiled and type-checked by the CEL library, and evaluated for each event.

The library is imported when the first expression is compiled: a process without conditions pays no memory for it.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from auditpipeline.core.conditions.fields import Kind
from auditpipeline.core.conditions.grammar import fault
from auditpipeline.core.conditions.model import MAX_EXPRESSION, size_of
from auditpipeline.core.conditions.static import Ref, Static, examine
from auditpipeline.core.conditions.values import Get, Values
from auditpipeline.core.errors import Invalid, Permanent

if TYPE_CHECKING:
    from collections.abc import Mapping

_CACHED = 1024
"""Answers that are kept: an operator looks at the same specs again and again."""
_PLACE = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")
_VARIABLE = re.compile(r"__\d+")
_ABSENT = re.compile(r'No value with name "(__\d+)"')
_CODE = re.compile(r"^[A-Z_]+: ")
_RAISED = (RuntimeError, ValueError, TypeError, OverflowError)
"""What the library raises: its own errors are RuntimeErrors, the others come from taking values over."""
_MOST = 200
_REASONS = (
    ("Key not found", "a key is not there: ask for it with in or has() first"),
    ("Index error", "a list has no item of that index: ask for its size() first"),
    ("overload", "a value has another type than the expression expects"),
    ("SELECT", "a field is asked of what is not an object"),
    ("ut of range", "a number is out of range"),
    ("overflow", "a number is out of range"),
    ("by zero", "a number is divided by zero"),
    ("conversion", "a value cannot be converted"),
    ("convert", "a value cannot be converted"),
)


class Program:
    """A compiled expression. Not for several threads at once."""

    def __init__(self, static: Static, expression: Any) -> None:
        self.variables = static.variables
        self._values = Values(static)
        self._eval = expression.eval

    def decide(self, get: Get) -> bool | str:
        """Whether it is true of the event whose fields `get` finds; why that cannot be said, if it fails."""
        try:
            found = self._eval(data=self._values.of(get)).value()
        except Permanent as error:
            return str(error)
        except _RAISED as error:
            found = error
        return found if isinstance(found, bool) else self._reason(str(found))

    def _reason(self, error: str) -> str:
        """Why it failed, with nothing of the event: the library's own words repeat values."""
        absent = _ABSENT.search(error)
        if absent:
            ref = self.variables[absent[1]]
            return f"{ref} is not there: ask has({ref}) first"
        return next((said for words, said in _REASONS if words in error), "it cannot be evaluated")


@lru_cache(_CACHED)
def problem_of(expression: str) -> str:
    """Lists what is wrong with an expression, and where; empty if nothing is."""
    try:
        compile_expression(expression)
    except Invalid as error:
        return error.message
    return ""


def compile_expression(expression: str) -> Program:
    """The expression as a program, which takes some 100 kB of memory; Invalid, with no path, that says what is wrong
    with it and where."""
    if size_of(expression) > MAX_EXPRESSION:
        raise Invalid("", f"must have at most {MAX_EXPRESSION} bytes")
    static = examine(expression)
    _check_patterns(static)
    cel = _library()
    types = {name: _type(ref) for name, ref in static.variables.items()}
    try:
        compiled = cel.NewEnv(variables=types).compile(static.text)
    except _RAISED as error:
        raise Invalid("", _refusal(str(error), expression, static)) from None
    found = compiled.return_type()
    if found != cel.Type.BOOL:
        raise Invalid("", f"must be true or false, and is of type {found.name().lower()}: compare it with a value")
    return Program(static, compiled)


@cache
def _library() -> Any:
    try:
        from cel_expr_python import cel
    except ImportError as error:
        raise Invalid("", f"the CEL library (cel-expr-python) cannot be loaded: {error}") from None
    return cel


def _type(ref: Ref) -> Any:
    kinds = _library().Type
    if ref.presence:
        return kinds.BOOL
    return {
        Kind.TEXT: kinds.STRING,
        Kind.NUMBER: kinds.INT,
        Kind.TEXTS: kinds.List(kinds.STRING),
        Kind.PAIRS: kinds.Map(kinds.STRING, kinds.STRING),
        Kind.LISTS: kinds.Map(kinds.STRING, kinds.List(kinds.STRING)),
        Kind.TIME: kinds.TIMESTAMP,
        Kind.BODY: kinds.DYN,
    }[ref.kind]


@cache
def _matcher() -> Any:
    cel = _library()
    return cel.NewEnv(variables={"pattern": cel.Type.STRING}).compile("''.matches(pattern)")


def _check_patterns(static: Static) -> None:
    """A pattern that cannot be compiled would fail on each event."""
    for place, pattern in static.patterns:
        try:
            found = _matcher().eval(data={"pattern": pattern}).value()
        except _RAISED as error:
            found = error
        if not isinstance(found, bool):
            raise fault(place, _CODE.sub("", str(found))[:_MOST])


def _refusal(error: str, expression: str, static: Static) -> str:
    """The library's words, with the place in the text as people count it."""
    match = _PLACE.search(error)
    if not match or int(match[1]) < 1:
        deep = "recursion" in error
        return "is too deeply nested" if deep else _named(error, static.variables)[:_MOST]
    lines = expression.split("\n")
    at = sum(len(line) + 1 for line in lines[: int(match[1]) - 1]) + int(match[2])
    return f"at character {at}: {_named(match[3], static.variables)[:_MOST]}"


def _named(text: str, variables: Mapping[str, Ref]) -> str:
    """The text with the fields that variables stand for."""
    return _VARIABLE.sub(lambda match: str(variables.get(match[0], match[0])), text)

"""From the tree of an expression to what the library is given, and what is refused before it is given anything. Pure.

Each field that an expression names becomes a variable of its own: the library is given the values of these and never a
whole event, and a type for each, so that a misspelt field and a wrong type are errors when the expression is compiled.

    event.user.username == 'bob' && has(event.objectRef.name)
    __0                 == 'bob' && __1                         the same length, so that places in errors stay

The bounds make the work for one event proportional to the size of the fields that are named: lists are looked through
one by one and not within each other, and nothing grows by being looked through.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from auditpipeline.core.conditions.fields import EVENT, Fields, Kind
from auditpipeline.core.conditions.grammar import Node, fault, parse
from auditpipeline.core.conditions.regex import MAX_PATTERN, MAX_SIZE, MAX_SIZE_EACH, size_of
from auditpipeline.core.errors import Invalid

EACH = frozenset({"all", "exists", "exists_one", "map", "filter"})
"""What looks through a list."""
TIMES = frozenset(
    [
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getFullYear",
        "getHours",
        "getMilliseconds",
        "getMinutes",
        "getMonth",
        "getSeconds",
    ]
)
METHODS = TIMES | {"contains", "endsWith", "matches", "size", "startsWith"}
FUNCTIONS = frozenset(
    ["bool", "bytes", "double", "duration", "dyn", "int", "matches", "size", "string", "timestamp", "type", "uint"]
)
TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})
MAX_ITEMS = 64
"""Items of a list that is written out and looked through."""
MAX_SUMS = 16
"""Times that `+` stands in an expression: texts grow by it."""

_ZONE = re.compile(r"UTC|[+-]?[0-9]{2}:[0-9]{2}", re.ASCII)


class Ref(NamedTuple):
    """A field that is named, from `event` down: its value, or whether it is there."""

    path: tuple[str, ...]
    kind: Kind
    presence: bool = False

    def __str__(self) -> str:
        text = "event"
        for name in self.path:
            text += f".{name}" if name.isidentifier() else f"[{name!r}]"
        return text


class Static(NamedTuple):
    """What the library is given: the text, and the variables in it by name. `each` are those that are looked through,
    `patterns` the regular expressions, each with its place."""

    text: str
    variables: Mapping[str, Ref]
    each: frozenset[str] = frozenset()
    patterns: tuple[tuple[int, str], ...] = ()


def examine(text: str) -> Static:
    """The expression as the library is given it; Invalid, with no path, if it cannot be read or is out of bounds."""
    if not text.isascii() and any("\ud800" <= character < "\ue000" for character in text):
        raise Invalid("", "must be valid Unicode")
    walk = _Walk()
    walk.visit(parse(text), {}, within=False)
    variables = {name: ref for ref, name in walk.names.items()}
    return Static(_replaced(text, walk.places), variables, frozenset(walk.each), tuple(walk.patterns))


class _Walk:
    """Goes through a tree once."""

    def __init__(self) -> None:
        self.names: dict[Ref, str] = {}
        self.places: list[tuple[int, int, str]] = []
        self.each: set[str] = set()
        self.patterns: list[tuple[int, str]] = []
        self._sums = 0
        self._sizes = {False: 0, True: 0}

    def visit(self, node: Node, bound: Mapping[str, None], *, within: bool) -> None:
        """`bound` are the names of the macros around; `within` is whether there are any."""
        if _root(node) and _of_event(node):
            self._field(node, bound, within=within)
        elif node.kind == "name":
            self._name(node, bound)
        elif node.kind == "call" and node.target is not None and node.text in EACH:
            self._each(node, node.target, within=within)
        elif node.kind == "call":
            self._call(node, bound, within=within)
        else:
            if node.kind == "operator" and node.text == "+":
                self._sum(node, within=within)
            for part in node.parts:
                self.visit(part, bound, within=within)

    def _name(self, node: Node, bound: Mapping[str, None]) -> None:
        if node.text not in bound and node.text not in TYPES:
            raise fault(node.start, f"undeclared name {node.text}: fields begin with event, as in event.user.username")

    def _sum(self, node: Node, *, within: bool) -> None:
        self._sums += 1
        if within or self._sums > MAX_SUMS:
            said = "+ is not allowed in what is asked of each item" if within else f"+ is allowed {MAX_SUMS} times"
            raise fault(node.parts[1].start, f"{said}: texts would grow")

    def _call(self, node: Node, bound: Mapping[str, None], *, within: bool) -> None:
        if node.target is None and node.text == "has":
            self._has(node, bound, within=within)
            return
        if node.text not in (FUNCTIONS if node.target is None else METHODS):
            known = ", ".join(sorted((*FUNCTIONS, "has") if node.target is None else (*METHODS, *EACH)))
            raise fault(node.start, f"there is no function {node.text}: allowed are {known}")
        if node.text == "matches":
            self._matches(node, within=within)
        if node.text in TIMES:
            _check_zone(node)
        for part in node.inner():
            self.visit(part, bound, within=within)

    def _has(self, node: Node, bound: Mapping[str, None], *, within: bool) -> None:
        if len(node.parts) != 1 or node.parts[0].kind != "select":
            raise fault(node.start, "has() takes one field, as in has(event.objectRef.name)")
        chain = node.parts[0]
        if _root(chain) and _of_event(chain):
            names = list(_chain(chain))
            path, kind, used = _resolved(chain, names)
            if used == len(names):
                self._use(node, Ref(path, kind or Kind.BODY, presence=True))
                return
        self.visit(chain, bound, within=within)

    def _matches(self, node: Node, *, within: bool) -> None:
        """RE2 compiles a pattern for each event, so that it is ours to know what it is."""
        pattern = node.parts[-1] if node.parts else node
        if pattern.kind != "string":
            raise fault(node.start, "the pattern of matches() must be written out as a string")
        size = size_of(pattern.text)
        if isinstance(size, str):
            raise fault(pattern.start, f"this regular expression cannot be used: {size}")
        self._sizes[within] += size
        most = MAX_SIZE_EACH if within else MAX_SIZE
        if len(pattern.text) > MAX_PATTERN or self._sizes[within] > most:
            where = "that are asked of each item" if within else "of an expression"
            said = f"regular expressions {where} may have {most} characters together, repetitions written out"
            raise fault(pattern.start, said)
        self.patterns.append((pattern.start, pattern.text))

    def _each(self, node: Node, over: Node, *, within: bool) -> None:
        if within:
            raise fault(node.start, f"{node.text}() may not stand within all(), exists(), map() or filter()")
        if len(node.parts) not in ((2, 3) if node.text == "map" else (2,)) or node.parts[0].kind != "name":
            raise fault(node.start, f"{node.text}() takes a name and an expression, as in {node.text}(x, x != '')")
        variable = node.parts[0]
        if variable.text == "event":
            raise fault(variable.start, "event is the event: choose another name for the items")
        self._range(node, over)
        for part in node.parts[1:]:
            self.visit(part, {variable.text: None}, within=True)

    def _range(self, node: Node, over: Node) -> None:
        """A list that is looked through: one of texts of the event, or one that is written out."""
        if over.kind == "list":
            _check_items(over)
            return
        if _root(over) and _of_event(over):
            names = list(_chain(over))
            path, kind, used = _resolved(over, names)
            if kind is Kind.TEXTS and used == len(names):
                self.each.add(self._use(over, Ref(path, kind)))
                return
            if kind is Kind.LISTS and len(names) == used + 1:
                self.each.add(self._use(_first(over, 1), Ref(path, kind)))
                return
        said = "looks through event.user.groups, event.sourceIPs or a list that is written out, and not through bodies"
        raise fault(node.start, f"{node.text}() {said}")

    def _field(self, node: Node, bound: Mapping[str, None], *, within: bool) -> None:
        names = list(_chain(node))
        path, kind, used = _resolved(node, names)
        if kind is None:
            said = str(Ref(path, Kind.BODY))
            fields = ", ".join(_below(path))
            raise fault(node.start, f"{said} is an object: name one of its fields ({fields})")
        self._use(_first(node, len(names) - used), Ref(path, kind))
        for index in _indexes(node, len(names) - used):
            self.visit(index, bound, within=within)

    def _use(self, node: Node, ref: Ref) -> str:
        """The variable that stands for a field in the place of this node."""
        name = self.names.setdefault(ref, f"__{len(self.names)}")
        self.places.append((node.start, node.end, name))
        return name


def _check_items(over: Node) -> None:
    """A list that is written out."""
    if len(over.parts) > MAX_ITEMS:
        raise fault(over.start, f"a list that is looked through has at most {MAX_ITEMS} items")
    if any(part.kind not in ("string", "literal") for part in over.parts):
        raise fault(over.start, "the items of a list that is looked through must be written out")


def _check_zone(node: Node) -> None:
    """The library would open a file of that name."""
    for zone in node.parts:
        if zone.kind != "string" or not _ZONE.fullmatch(zone.text):
            raise fault(zone.start, "a time zone is 'UTC' or an offset that is written out, such as '+02:00'")


def _of_event(node: Node) -> bool:
    while node.kind in ("select", "index"):
        node = node.parts[0]
    return node.kind == "name" and node.text == "event"


def _root(node: Node) -> bool:
    return node.kind in ("select", "index", "name")


def _chain(node: Node) -> Iterator[str | Node]:
    """The fields from `event` down: names, and what is no constant."""
    steps = list[str | Node]()
    while node.kind in ("select", "index"):
        if node.kind == "select":
            steps.append(node.text)
        else:
            index = node.parts[1]
            steps.append(index.text if index.kind == "string" else index)
        node = node.parts[0]
    return reversed(steps)


def _resolved(node: Node, names: list[str | Node]) -> tuple[tuple[str, ...], Kind | None, int]:
    """The field that a chain names, its type (None: it has fields), and how many steps of the chain lead to it."""
    at: Kind | Fields = EVENT
    path: list[str] = []
    for name in names:
        if isinstance(at, Kind):
            if at is not Kind.BODY or not isinstance(name, str):
                break
        elif not isinstance(name, str) or name not in at:
            raise _undefined(node, name, tuple(path), at)
        else:
            at = at[name]
        path.append(name)
    return tuple(path), at if isinstance(at, Kind) else None, len(path)


def _undefined(node: Node, name: str | Node, path: tuple[str, ...], at: Fields) -> Invalid:
    """A field that is not there, and the one that may be meant."""
    where = str(Ref(path, Kind.BODY))
    if not isinstance(name, str):
        return fault(node.start, f"a field of {where} must be named: it has {', '.join(at)}")
    near = difflib.get_close_matches(name, at, 1)
    hint = f"is {near[0]} meant?" if near else f"it has {', '.join(at)}"
    return fault(node.start, f"undefined field {name[:64]!r} of {where}: {hint}")


def _below(path: tuple[str, ...]) -> Iterable[str]:
    at: Kind | Fields = EVENT
    for name in path:
        at = at if isinstance(at, Kind) else at[name]
    return () if isinstance(at, Kind) else at


def _first(node: Node, behind: int) -> Node:
    """The chain without its last steps."""
    for _ in range(behind):
        node = node.parts[0]
    return node


def _indexes(node: Node, behind: int) -> Iterator[Node]:
    """The indexes in the last steps of a chain."""
    for _ in range(behind):
        if node.kind == "index":
            yield node.parts[1]
        node = node.parts[0]


def _replaced(text: str, places: Iterable[tuple[int, int, str]]) -> str:
    """The text with names of variables in these places, each as long as what stood there, line ends included."""
    parts, at = list[str](), 0
    for start, end, name in sorted(places):
        gone = text[start + len(name) : end]
        parts += text[at:start], name, "".join(char if char in "\r\n" else " " for char in gone)
        at = end
    return "".join([*parts, text[at:]])

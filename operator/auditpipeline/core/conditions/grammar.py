"""CEL's text as a syntax tree, with the place of each node: what is checked before the native library sees anything.

    or      and ("||" and)*             and  relation ("&&" relation)*
    ternary or ["?" or ":" ternary]     relation  sum (("<" | "==" | "in" ...) sum)*
    member  primary ("." name ["(" args ")"] | "[" expr "]")*

The language is CEL's (github.com/google/cel-spec, doc/langdef.md) without messages, optional fields and names in
backquotes. Nesting is bounded, so that neither this parser nor the library's can exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from auditpipeline.core.errors import Invalid

MAX_DEPTH = 16
"""Brackets, conditional expressions and signs within each other; the library's limit is near this."""
MAX_CHAIN = 24
"""Fields, indexes and operators of one kind in a row: `a.b.c` is a chain, and so is `a + b + c`."""
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n\f]+|//[^\n]*)
    |(?P<string>(?P<prefix>[rR][bB]?|[bB][rR]?)?(?P<quote>\"{3}|'{3}|\"|'))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[uU]?)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>\|\||&&|==|!=|<=|>=|[-+*/%!<>?:.,()\[\]{}])""",
    re.VERBOSE | re.ASCII,
)
_RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"}
) | {
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
}
_CONSTANTS = frozenset({"true", "false", "null"})
_KEYWORDS = _CONSTANTS | {"in"}
_LEVELS = (("||",), ("&&",), ("<", "<=", ">", ">=", "==", "!=", "in"), ("+", "-"), ("*", "/", "%"))
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2})|(.))", re.DOTALL)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Token(NamedTuple):
    """A token; of a string, `text` is what it stands for."""

    kind: str
    text: str
    start: int
    end: int


class Node(NamedTuple):
    """A part of an expression, from `start` to `end` in the text.

    kind       text               parts
    name       the name
    string     its value
    literal    as it is written
    select     the field          (operand,)
    index                         (operand, index)
    call       the function       arguments; `target` is what it is called on
    operator   the operator       operands
    list, map                     elements; keys and values in turn
    """

    kind: str
    start: int
    end: int
    text: str = ""
    parts: Sequence[Node] = ()
    target: Node | None = None

    def inner(self) -> Iterator[Node]:
        """The nodes directly below."""
        if self.target:
            yield self.target
        yield from self.parts


def parse(text: str) -> Node:
    """The tree of an expression; Invalid, with no path, that says where the text cannot be read."""
    parser = _Parser(text, list(_tokens(text)))
    tree = parser.expression(0)
    parser.end()
    return tree


def fault(position: int, message: str) -> Invalid:
    """The fault at a position of the expression."""
    return Invalid("", f"at character {position + 1}: {message}")


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise fault(at, f"{text[at]!r} is not expected here")
        at = match.end()
        kind = match.lastgroup or ""
        if match["string"]:
            value, at = _string(text, match)
            yield Token("bytes" if "b" in (match["prefix"] or "").lower() else "string", value, match.start(), at)
        elif kind != "space":
            yield Token(kind, match[0], match.start(), at)
    yield Token("end", "the end", len(text), len(text))


def _string(text: str, match: re.Match[str]) -> tuple[str, int]:
    """The value of a string that begins with `match`, and where it ends."""
    raw, quote, at = "r" in (match["prefix"] or "").lower(), match["quote"], match.end()
    while not text.startswith(quote, at):
        if at >= len(text) or (len(quote) == 1 and text[at] in "\r\n"):
            raise fault(match.start(), "this string has no end")
        at += 2 if text[at] == "\\" and not raw else 1
    inner = text[match.end() : at]
    return (inner if raw else _unescaped(inner, match.end())), at + len(quote)


def _unescaped(inner: str, start: int) -> str:
    def value(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        if code or match[4]:
            number = int(code, 16) if code else int(match[4], 8)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise fault(start + match.start(), f"{match[0]} is not a character")
            return chr(number)
        if match[5] not in _SIMPLE and match[5] not in "\\?\"'`":
            raise fault(start + match.start(), f"{match[0]} is not an escape: write \\\\ for a backslash")
        return _SIMPLE.get(match[5], match[5])

    return _ESCAPE.sub(value, inner)


class _Parser:
    """Recursive descent over the tokens; `depth` counts what lies within each other."""

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self._text = text
        self._tokens = tokens
        self._at = 0

    def end(self) -> None:
        if self._next.kind != "end":
            raise self._unexpected()

    def expression(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise fault(self._next.start, f"more than {MAX_DEPTH} brackets or conditions lie within each other")
        condition = self._operators(0, depth)
        if not self._take("?"):
            return condition
        yes = self._operators(0, depth + 1)
        self._want(":")
        no = self.expression(depth + 1)
        return Node("operator", condition.start, no.end, "?:", (condition, yes, no))

    def _operators(self, level: int, depth: int) -> Node:
        if level == len(_LEVELS):
            return self._unary(depth)
        left, length = self._operators(level + 1, depth), 0
        while self._next.text in _LEVELS[level] and self._next.kind in ("sign", "word"):
            operator, length = self._step().text, length + 1
            if length > MAX_CHAIN and level > 1:
                raise fault(left.end, f"more than {MAX_CHAIN} operators follow each other: use brackets or a list")
            right = self._operators(level + 1, depth)
            left = Node("operator", left.start, right.end, operator, (left, right))
        return left

    def _unary(self, depth: int) -> Node:
        if self._next.text not in ("!", "-") or self._next.kind != "sign":
            return self._member(depth)
        if depth >= MAX_DEPTH:
            raise fault(self._next.start, f"more than {MAX_DEPTH} signs or brackets lie within each other")
        token = self._step()
        operand = self._unary(depth + 1)
        return Node("operator", token.start, operand.end, token.text, (operand,))

    def _member(self, depth: int) -> Node:
        node, length = self._primary(depth), 0
        while self._next.kind == "sign" and self._next.text in (".", "["):
            length += 1
            if length > MAX_CHAIN:
                raise fault(node.end, f"more than {MAX_CHAIN} fields follow each other")
            if self._take("["):
                index = self.expression(depth + 1)
                node = Node("index", node.start, self._want("]").end, "", (node, index))
                continue
            self._step()
            name = self._name()
            if self._take("("):
                parts, end = self._list(")", depth)
                node = Node("call", node.start, end, name.text, parts, node)
            else:
                node = Node("select", node.start, name.end, name.text, (node,))
        return node

    def _primary(self, depth: int) -> Node:
        token = self._step()
        if token.kind == "sign":
            return self._bracket(token, depth)
        if token.kind == "string":
            return Node("string", token.start, token.end, token.text)
        if token.kind in ("bytes", "number") or token.text in _CONSTANTS:
            return Node("literal", token.start, token.end, token.text)
        if token.kind != "word" or token.text in _KEYWORDS:
            raise self._unexpected(token)
        self._check(token)
        if self._take("("):
            parts, end = self._list(")", depth)
            return Node("call", token.start, end, token.text, parts)
        return Node("name", token.start, token.end, token.text)

    def _bracket(self, token: Token, depth: int) -> Node:
        if token.text == "(":
            inner = self.expression(depth + 1)
            return inner._replace(start=token.start, end=self._want(")").end)
        if token.text == "[":
            parts, end = self._list("]", depth)
            return Node("list", token.start, end, "", parts)
        if token.text == "{":
            parts, end = self._list("}", depth, pairs=True)
            return Node("map", token.start, end, "", parts)
        raise self._unexpected(token)

    def _list(self, close: str, depth: int, *, pairs: bool = False) -> tuple[tuple[Node, ...], int]:
        """What stands between brackets, and where they end."""
        found = list[Node]()
        while not self._is(close):
            found.append(self.expression(depth + 1))
            if pairs:
                self._want(":")
                found.append(self.expression(depth + 1))
            if not self._take(","):
                break
        return tuple(found), self._want(close).end

    def _name(self) -> Token:
        token = self._step()
        if token.kind != "word" or token.text in _KEYWORDS:
            raise self._unexpected(token)
        return token

    def _check(self, token: Token) -> None:
        if token.text in _RESERVED or token.text.startswith("__"):
            raise fault(token.start, f"{token.text} is a reserved word: choose another name")

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _step(self) -> Token:
        token = self._tokens[self._at]
        self._at += token.kind != "end"
        return token

    def _is(self, sign: str) -> bool:
        return self._next.kind == "sign" and self._next.text == sign

    def _take(self, sign: str) -> bool:
        found = self._is(sign)
        self._at += found
        return found

    def _want(self, sign: str) -> Token:
        if not self._is(sign):
            raise self._unexpected(wanted=sign)
        return self._step()

    def _unexpected(self, token: Token | None = None, wanted: str = "") -> Invalid:
        token = token or self._next
        expected = f", {wanted!r} is" if wanted else ""
        found = "the end" if token.kind == "end" else repr(self._text[token.start : token.end][:40])
        return fault(token.start, f"{found} is not expected here{expected}")

"""JSON in the spellings that an API server, or whoever writes a patch, may choose.

Values are those of the json module, and two more: `Pairs`, an object whose keys may come twice, and `Spelt`, a value
that is written already (which need not be JSON at all).
"""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

_HTML = {"<": r"\u003c", ">": r"\u003e", "&": r"\u0026", "\u2028": r"\u2028", "\u2029": r"\u2029"}


class Pairs(list[tuple[str, Any]]):
    """An object, as pairs of key and value."""


class Spelt(NamedTuple):
    """A value as it is written."""

    data: bytes


class Style(NamedTuple):
    """`html`: as Go escapes it. `ascii`: only ASCII. `white`: with white space. `unicode`: the share of letters that
    are escaped, in keys and values; `/` is then `\\/` too, as with `slash`."""

    html: bool = False
    ascii: bool = False
    white: str = ""
    unicode: float = 0.0
    slash: bool = False


GO = Style(html=True)
"""What kube-apiserver encodes itself."""
STYLES = (
    Style(),
    Style(ascii=True),
    Style(white=" "),
    Style(slash=True),
    Style(white="\n\t"),
    Style(unicode=0.3),
    Style(unicode=1.0),
    GO,
)
"""What a client may send as a patch."""


def spelt(value: Any, style: Style = GO, chance: random.Random | None = None) -> bytes:
    """The value as JSON; `chance` decides which letters are escaped."""
    parts = list[bytes]()
    _write(value, style, chance or random.Random(0), parts)
    return b"".join(parts)


def text(value: Any, style: Style = GO) -> str:
    """The same as text, for JSON within JSON."""
    return spelt(value, style).decode()


def _write(value: Any, style: Style, chance: random.Random, parts: list[bytes]) -> None:
    white = style.white.encode()
    match value:
        case Spelt():
            parts.append(value.data)
        case dict() | Pairs():
            for number, (key, inner) in enumerate(value if isinstance(value, Pairs) else value.items()):
                parts += [b"," if number else b"{", white, _string(key, style, chance), white, b":", white]
                _write(inner, style, chance, parts)
            parts.append((b"" if value else b"{") + white + b"}")
        case list():
            for number, inner in enumerate(value):
                parts += [b"," if number else b"[", white]
                _write(inner, style, chance, parts)
            parts.append((b"" if value else b"[") + white + b"]")
        case str():
            parts.append(_string(value, style, chance))
        case _:
            parts.append(json.dumps(value).encode())


def _string(value: str, style: Style, chance: random.Random) -> bytes:
    if style.unicode:
        return b'"' + b"".join(_letter(letter, style.unicode, chance) for letter in value) + b'"'
    plain = json.dumps(value, ensure_ascii=style.ascii)
    if style.html:
        for letter, escape in _HTML.items():
            plain = plain.replace(letter, escape)
    return (plain.replace("/", r"\/") if style.slash else plain).encode()


def _letter(letter: str, share: float, chance: random.Random) -> bytes:
    if letter == "/":
        return rb"\/"
    if ord(letter) < 0x10000 and chance.random() < share:
        return (rb"\u%04x" if chance.random() < 0.5 else rb"\u%04X") % ord(letter)
    return json.dumps(letter, ensure_ascii=False)[1:-1].encode()

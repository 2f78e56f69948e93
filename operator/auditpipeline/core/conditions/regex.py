"""What a regular expression costs, from its text: RE2 takes time in proportion to the text that it searches, but it is
compiled for each event, and repetitions multiply what there is to compile. Pure."""

from __future__ import annotations

import re

MAX_PATTERN = 512
"""Characters of a pattern."""
MAX_SIZE = 256
"""Characters and classes of all patterns of an expression, with their counted repetitions written out."""
MAX_SIZE_EACH = 64
"""Likewise, of patterns that are searched for in each item of a list."""
_PIECE = re.compile(
    r"\\[pP](?P<property>)|\\Q|(?P<atom>\\x\{[^}]*\}|\\.|\[\^?\]?(?:\[:[^\]]*:\]|\\.|[^\]\\])*\]|[^\\\[(){}?*+|])"
    r"|(?P<open>\()|(?P<close>\))|\{(?P<least>[0-9]+)(?P<comma>,)?(?P<most>[0-9]*)\}|.",
    re.DOTALL,
)
_PROPERTY = re.compile(r"\\[pP]")
_FOLDED = 4


def size_of(pattern: str) -> int | str:
    """The number of characters and classes, with repetitions written out; or why that cannot be said."""
    if _PROPERTY.search(pattern) or "\\Q" in pattern or "\\C" in pattern:
        return r"\p, \P, \Q and \C are not supported: write the characters, as in [a-z]"
    groups: list[list[int]] = [[]]
    for piece in _PIECE.finditer(pattern):
        if piece["atom"]:
            groups[-1].append(_FOLDED if piece[0][0] == "[" and len(piece[0]) > 16 else 1)
        elif piece["open"]:
            groups.append([])
        elif piece["close"]:
            inner = sum(groups.pop())
            if not groups:
                return "there is a ) without a ("
            groups[-1].append(inner)
        elif piece["least"] and groups[-1]:
            groups[-1][-1] *= max(int(piece["least"][:5]), int(piece["most"][:5] or 1), 1)
    if len(groups) > 1:
        return "there is a ( without a )"
    size = sum(groups[0])
    return size * _FOLDED if "(?i" in pattern else size

"""Secrets that can be found again: each holds a mark of its own, at its beginning, its end, and between odd characters.

    plnt0000042x       in text; `plnt` and seven digits and `x`
    7319500000042      in numbers

`marks_in` finds them in any spelling: plain, JSON escapes in any number of levels, percent-encoding, base64.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_MARK = re.compile(rb"plnt(\d{7})x|731950(\d{7})")
_ESCAPE = re.compile(rb"\\+u00([0-7][0-9a-fA-F])|%(?:25)*([2-7][0-9a-fA-F])")
_RUN = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


class Mint:
    """Makes secrets, each with another mark, and takes decisions; the same ones for the same seed. `made` are the
    numbers of what was made so far, `kept` texts that must stay."""

    def __init__(self, seed: int, first: int = 0) -> None:
        self.chance = random.Random(seed)
        self.next = first
        self.made = list[int]()
        self.kept = list[str]()

    def mark(self) -> str:
        """Another mark."""
        return f"plnt{self._number():07}x"

    def number(self) -> int:
        """A secret that is a number."""
        return 7319500000000 + self._number()

    def word(self) -> str:
        """A secret without white space, quotes, and what separates words in a URL or a shell."""
        mark = self.mark()
        return self.pick(mark, f"{mark}-{mark}", f"S3cr{mark}_{mark}", f"{mark}.{mark}", f"{mark}{mark}")

    def text(self) -> str:
        """A secret of any characters."""
        mark = self.mark()
        return self.pick(
            mark,
            f"{mark}<&>{mark}",
            f'{mark}"\\{mark}',
            f"{mark}'{mark}",
            f"{mark}\n{mark}\t{mark}\n",
            f"{mark}/+={mark}",
            f"{mark} {mark}",
            f"${mark}",
            f"-{mark}",
            f"{mark}\u00e9\u2603\U0001f512\u2028{mark}",
            f"{mark}{{}}[],:{mark}",
            f"{mark}\\u003c{mark}",
            f"-----BEGIN PRIVATE KEY-----\n{mark}{'A' * self.chance.randrange(2000)}{mark}\n-----END PRIVATE KEY-----",
            f'{{"auths":{{"r.example":{{"auth":"{encoded(mark)}","password":"{mark}"}}}}}}',
        )

    def jwt(self) -> str:
        """A secret that looks like a token of a ServiceAccount."""
        mark = self.mark()
        claims = encoded(f'{{"iss":"{mark}","sub":"system:serviceaccount:team:app"}}').rstrip("=")
        return f"eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.{claims}.{mark}"

    def pick(self, *choices: T) -> T:
        """One of them."""
        return self.chance.choice(choices)

    def one_of(self, *choices: Callable[[], T]) -> T:
        """What one of them makes."""
        return self.pick(*choices)()

    def often(self, share: float = 0.5) -> bool:
        """True in so many of all cases."""
        return self.chance.random() < share

    def keep(self, text: str) -> str:
        """The text, which must still be there afterwards."""
        self.kept.append(text)
        return text

    def _number(self) -> int:
        self.next += 1
        self.made.append(self.next)
        return self.next


def encoded(text: str) -> str:
    """As base64."""
    return base64.b64encode(text.encode()).decode()


def marks_in(data: bytes) -> set[int]:
    """The numbers of all marks in it, however they are spelt."""
    found = set(_plain(data))
    opened = _ESCAPE.sub(_character, data) if b"\\u00" in data or b"%" in data else data
    if opened is not data:
        found.update(_plain(opened))
    for match in _RUN.finditer(opened):
        run = match[0]
        if b"bnQ" in run or b"G50" in run or b"xud" in run:  # what `plnt` is at each place of a group
            found.update(_decoded(run))
    return found


def _plain(data: bytes) -> Iterator[int]:
    return (int(text or number) for text, number in _MARK.findall(data))


def _character(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1] or match[2], 16)])


def _decoded(run: bytes) -> Iterator[int]:
    """The marks in what may be base64, from any of the places where a group can begin."""
    standard = run.translate(_TO_STANDARD).rstrip(b"=")
    for start in range(4):
        whole = standard[start : start + (len(standard) - start) // 4 * 4]
        yield from _plain(base64.b64decode(whole))
        rest = standard[start:]
        if len(rest) % 4 > 1:
            yield from _plain(base64.b64decode(rest + b"=" * (-len(rest) % 4)))

"""Events as JSON lines, many at once: joined in memory as they are encoded, stored and written.

    text    {"level":...}\n{"level":...}\n{"level":...}\n        every line with its end
    lines   {"level":...}, {"level":...}, {"level":...}          none with it

A row of the spool is one text from the encoder to the disk and to a file output, so nothing is copied on the way. Who
looks at single lines (narrowing, an output that sends them otherwise) gets them: they are split once, when first asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import overload


class Lines(Sequence[bytes]):
    """An immutable sequence of lines, without line ends; no line may hold one. `size` is their bytes."""

    __slots__ = ("_count", "_lines", "_texts", "size")

    def __init__(self, count: int, size: int, texts: Sequence[bytes] | None, lines: Sequence[bytes] | None) -> None:
        self.size = size
        self._count = count
        self._texts = texts
        self._lines = lines

    @classmethod
    def joined(cls, text: bytes, count: int) -> Lines:
        """The `count` lines of a text in which each has its end."""
        return cls(count, len(text) - count, (text,) if count else (), None)

    @classmethod
    def chained(cls, parts: Sequence[Lines]) -> Lines:
        """All lines of the parts, in order; nothing is copied."""
        if len(parts) == 1:
            return parts[0]
        texts = list(chain.from_iterable(part.texts for part in parts))
        return cls(sum(map(len, parts)), sum(part.size for part in parts), texts, None)

    @property
    def texts(self) -> Sequence[bytes]:
        """The lines with their ends, in as few pieces as there are in memory."""
        if self._texts is None:
            self._texts = (b"\n".join([*self, b""]),) if self._count else ()
        return self._texts

    @property
    def text(self) -> bytes:
        """The lines with their ends, in one piece."""
        return self.texts[0] if len(self.texts) == 1 else b"".join(self.texts)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._each())

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Lines: ...
    def __getitem__(self, index: int | slice) -> bytes | Lines:
        return as_lines(self._each()[index]) if isinstance(index, slice) else self._each()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _each(self) -> Sequence[bytes]:
        if self._lines is None:
            self._lines = [line for text in self._texts or () for line in text.split(b"\n")[:-1]]
        return self._lines


def as_lines(lines: Sequence[bytes]) -> Lines:
    """The lines, which may be `Lines` already; the sequence must not change any more."""
    return lines if isinstance(lines, Lines) else Lines(len(lines), sum(map(len, lines)), None, lines)

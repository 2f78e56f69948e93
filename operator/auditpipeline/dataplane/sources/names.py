"""Which files are parts of a log, by their names, and in which order: pure.

    audit-2026-11-24T01-56-04.123.log                        lumberjack (kube-apiserver itself)
    audit-2026-11-24T01-56-04.123.log.1                      the same, rotated once more by logrotate
    audit.log.1   audit.1.log   audit.log.old                numbers: the higher, the older
    audit.log-20261124   audit-20261124.log   audit.log-2026-11-24   audit.log.20261124   audit.log-2026112413
    audit.log-2026-11-24-1795485600   audit.log.20261124-143445 (kubelet)   audit.log.1795485600 (seconds)

    0.log   0.log.20261124-143445   1.log                    kubelet: a file more with each restart of the container

Any of them may end in .gz, .xz or .zst. Within one scheme names have the order of their numbers or dates. Between
schemes they say nothing: there the time of the last change decides (`ordered`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

PACKED = re.compile(r"\.(?:gz|xz|zst)$")
_DATE = r"20\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])"
_TIME = r"[T_-]?(?:[01]\d|2[0-3])(?:[-:]?[0-5]\d(?:[-:]?[0-5]\d(?:[.,]\d{1,9})?)?)?"
_DATED = re.compile(rf"{_DATE}(?:{_TIME}|-\d{{1,10}}|{_TIME}-\d{{1,10}})?Z?")
_SECONDS = re.compile(r"1\d{9}|1\d{12}")
_NUMBER = re.compile(r"\d{1,9}")
_AGAIN = re.compile(r"\.\d{1,9}")
_BETWEEN = re.compile(r"[-._]")
_RESTARTED = re.compile(r"(\d{1,9})\.log(?:\.(\d{8}-\d{6}))?")
_UNFINISHED = ".tmp"
_WRITTEN = "~"

T = TypeVar("T")


class Place(NamedTuple):
    """Where a part stands: `scheme` is how it is named, `order` goes from old to new within that."""

    scheme: str
    order: tuple[int | str, ...]

    @property
    def is_written(self) -> bool:
        """Whether the name is one of a file that is written to."""
        return self.order[-1:] == (_WRITTEN,)


class Names:
    """The names of the parts of the log that is called `name`, such as audit.log. If it `may_restart`, the restarts of
    a container are counted, and a later one is written beside it."""

    def __init__(self, name: str) -> None:
        stem, dot, suffix = name.rpartition(".")
        self.name = name
        self._stem, self._suffix = (stem, dot + suffix) if stem else (name, "")
        self.may_restart = _RESTARTED.fullmatch(name) is not None

    def place(self, name: str) -> Place | None:
        """Where the part of that name stands; None if it is not one, or the log itself: that one has a place only if
        the restarts of a container are counted."""
        name = PACKED.sub("", name)
        if self.may_restart and (restarted := _RESTARTED.fullmatch(name)):
            return Place("restart", (int(restarted[1]), restarted[2] or _WRITTEN))
        if name == f"{self.name}.old":
            return Place("old", ())
        behind = _place(name.removeprefix(self.name), "behind") if name.startswith(self.name) else None
        return behind or self._within(name)

    def _within(self, name: str) -> Place | None:
        """The place of a name that has a date or a number before its suffix; a date may have a number behind it too."""
        if not (self._suffix and name.startswith(self._stem)):
            return None
        middle, suffix, rest = name[len(self._stem) :].partition(self._suffix)
        found = _place(middle, "within") if suffix else None
        if not found or (rest and (found.scheme == "within number" or not _AGAIN.fullmatch(rest))):
            return None
        return found._replace(order=(*found.order, -int(rest[1:] or 0)))

    def resembles(self, name: str) -> bool:
        """Whether a file that is not a part has a name like one, so that somebody may take it for one."""
        if name == self.name or self.place(name) or name.endswith(_UNFINISHED):
            return False
        if name.startswith(self.name):
            return True
        rest = name[len(self._stem) :] if name.startswith(self._stem) else ""
        return bool(_BETWEEN.match(rest)) and (self._suffix in rest or any(map(str.isdigit, rest)))


def _place(text: str, where: str) -> Place | None:
    """The place of a number or date with what separates it from the name."""
    if not _BETWEEN.match(text):
        return None
    said = text[1:]
    if _DATED.fullmatch(said):
        return Place(f"{where} date", (re.sub(r"\D", "", said),))
    if _SECONDS.fullmatch(said):
        return Place(f"{where} seconds", (said,))
    if text[0] == "." and _NUMBER.fullmatch(said):
        return Place(f"{where} number", (-int(said),))
    return None


def ordered(found: Iterable[tuple[Place, int, T]]) -> list[T]:
    """What has a place, oldest first; the number is the time of the last change."""
    schemes: dict[str, list[tuple[tuple[int | str, ...], int, T]]] = {}
    for place, changed, item in found:
        schemes.setdefault(place.scheme, []).append((place.order, changed, item))
    queues = [sorted(items, key=lambda item: item[:2], reverse=True) for _, items in sorted(schemes.items())]
    merged = list[T]()
    while queues := [queue for queue in queues if queue]:
        merged.append(min(queues, key=lambda queue: queue[-1][1]).pop()[2])
    return merged

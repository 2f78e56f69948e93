"""Rotated files by their names: which there are, what the next one is called, which go and which are compressed. Pure.

    events.jsonl                                     the file that is written
    events.jsonl.20260102T030405.678901Z             rotated then; never renamed again, so that archives can follow
    events.jsonl.20260102T030405.678901Z.zst         the same, compressed (.gz, .zst): always whole
    events.jsonl.20260102T030405.678901Z.zst.partial being compressed, or left by a crash: never whole

1. Names sort by age, also when the clock was set back: a new stamp is always later than those that are there.
2. A stamp is one rotated file, whatever its forms are: between the renaming of what was compressed and the removal of
   what it was made of a crash leaves both, and the compressed one is whole.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from typing import NamedTuple

ENDINGS = {"gzip": ".gz", "zstd": ".zst"}
PARTIAL = ".partial"
_FORMAT = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"\.([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)((?:\.gz|\.zst)?)((?:\.partial)?)")


class Rotated(NamedTuple):
    """One file that was rotated away; `ending` is "", ".gz" or ".zst"."""

    stamp: str
    ending: str
    partial: bool

    @property
    def name(self) -> str:
        """What stands behind the name of the file that is written."""
        return f".{self.stamp}{self.ending}{PARTIAL if self.partial else ''}"


class Plan(NamedTuple):
    """What to do in a folder, as names behind that of the file that is written."""

    remove: list[str]
    compress: list[str]


def rotated(live: str, names: Iterable[str]) -> list[Rotated]:
    """Those of the names in a folder that were rotated away from the file `live`, oldest first."""
    found = [_NAME.fullmatch(name, len(live)) for name in names if name.startswith(live)]
    return sorted(
        Rotated(match[1], match[2], bool(match[3]))
        for match in found
        if match and _time(match[1]) is not None and (match[2] or not match[3])
    )


def next_stamp(now: float, files: Iterable[Rotated]) -> str:
    """The stamp of a file that is rotated at `now` (seconds since the epoch): later than all that are there."""
    time = dt.datetime.fromtimestamp(now, dt.UTC)
    after = [found + dt.timedelta(microseconds=1) for file in files if (found := _time(file.stamp))]
    return max([time, *after]).strftime(_FORMAT)


def newest_time(files: Iterable[Rotated]) -> float:
    """When the newest of the files was rotated, in seconds since the epoch; 0 where there is none."""
    return max((found.timestamp() for file in files if (found := _time(file.stamp))), default=0.0)


def plan(files: Iterable[Rotated], keep: int, compress: bool) -> Plan:
    """The newest `keep` stamps stay, each in one form; what is half-written goes."""
    whole: dict[str, list[Rotated]] = {}
    remove = []
    for file in files:
        if file.partial:
            remove.append(file.name)
        else:
            whole.setdefault(file.stamp, []).append(file)
    stamps = sorted(whole, reverse=True)
    for stamp in stamps[keep:]:
        remove += [file.name for file in whole[stamp]]
    # The compressed one is the last by its ending; what it was made of need not be there any more.
    kept = [max(whole[stamp]) for stamp in stamps[:keep]]
    remove += [file.name for stamp, best in zip(stamps, kept, strict=False) for file in whole[stamp] if file != best]
    return Plan(remove, [file.name for file in reversed(kept) if compress and not file.ending])


def _time(stamp: str) -> dt.datetime | None:
    """The time that a stamp stands for; None where there is no such day or hour, or nobody lives to see it."""
    try:
        time = dt.datetime.strptime(stamp, _FORMAT).replace(tzinfo=dt.UTC)
    except ValueError:
        return None
    return time if 1970 <= time.year < 9000 else None

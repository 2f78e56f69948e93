"""Lines of an audit log that a container runtime wrote, and what stands between audit events in such a log.

    2026-03-03T14:28:05.286Z stdout P {"kind":"Event",...      CRI (containerd, CRI-O): tag P until the line's end, F
    {"log":"{\\"kind\\":...}\\n","stream":"stdout",...}          docker: no line feed at the end of `log` until then
    I0303 14:28:05.286000       1 controller.go:1] ...          klog; or, as JSON, {"ts":...,"msg":...}
    2020-01-01T00:00:00.0Z AUDIT: id="..." stage="..." ...      --audit-log-format=legacy

A runtime cuts what it reads into pieces of 16 KiB. They are joined by stream, up to a number of bytes. kube-apiserver
writes audit events to standard output only: what is on standard error may repeat a user's words, and is never an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from auditpipeline.core.event import Raw
from auditpipeline.core.intact import BLANK

Foreign = Literal["component", "legacy", "other"]
"""What a line is that is not meant as an event: kube-apiserver's own log, audit's legacy format, or anything else."""

_CRI = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP])(?::\S*)?(?: |$)"
)
_DOCKER = b'{"log":"'
_KLOG = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ")
_LEGACY = re.compile(rb'\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) AUDIT: id="')
_PLAIN = b'{"kind":'
_AUDIT = re.compile(rb'"auditID"|audit\.k8s\.io/|"stageTimestamp"|"requestReceivedTimestamp"')


class Text(NamedTuple):
    """A line as kube-apiserver wrote it, without its line feed; `ended` is False if it never got one."""

    data: bytes
    ended: bool = True
    stderr: bool = False


class Frame(NamedTuple):
    """One line of a runtime."""

    stream: str
    data: bytes
    partial: bool


class _Docker(msgspec.Struct):
    log: str
    stream: str = "stdout"


_decode_docker = msgspec.json.Decoder(_Docker).decode


class Joiner:
    """Joins what a runtime cut; `most` is how many bytes a joined line may have. Other lines go through it as they
    are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, bytearray] = {}

    def add(self, line: bytes, ended: bool = True) -> Iterator[Text]:
        """The lines that are complete with this one, which comes without its line feed. A line that becomes too long
        comes in parts that have not ended."""
        frame = frame_of(line)
        if frame is None:
            yield Text(line, ended)
            return
        whole = self._open.pop(frame.stream, bytearray())
        whole += frame.data
        if not (frame.partial and ended):
            yield Text(bytes(whole), ended, frame.stream == "stderr")
        elif len(whole) > self._most:
            yield Text(bytes(whole), False, frame.stream == "stderr")
        else:
            self._open[frame.stream] = whole

    def rest(self) -> Iterator[Text]:
        """What was not joined to its end."""
        for stream, data in self._open.items():
            yield Text(bytes(data), False, stream == "stderr")
        self._open.clear()


def reframed(lines: Sequence[bytes], text: bytes) -> list[bytes]:
    """The lines of a runtime that hold the pieces of one line, with the pieces of another one: each keeps its header
    and its length, as far as the text goes, and the last one takes the rest."""
    found, rest = list[bytes](), text
    for number, line in enumerate(lines, 1):
        blank = line[: len(line) - len(line.lstrip(BLANK))] if line.startswith((b"\0", b"\r")) else b""
        framed = line[len(blank) :].rstrip(BLANK) if blank else line
        put = _as_docker if framed.startswith(_DOCKER) else _as_cri
        framed_anew, rest = put(framed, rest, number == len(lines))
        found.append(blank + framed_anew)
    return found


def _as_cri(line: bytes, text: bytes, last: bool) -> tuple[bytes, bytes]:
    match = _CRI.match(line)
    start = match.end() if match else 0
    most = len(text) if last else len(line) - start
    return line[:start] + text[:most], text[most:]


def _as_docker(line: bytes, text: bytes, last: bool) -> tuple[bytes, bytes]:
    """Cuts between characters, since what docker writes is text."""
    record = msgspec.json.decode(line, type=Raw)
    log = msgspec.json.decode(record["log"], type=str)
    whole = text.decode()
    most = len(whole) if last else len(log)
    piece = whole[:most] + ("\n" if log.endswith("\n") else "")
    return msgspec.json.encode({**record, "log": piece}), whole[most:].encode()


def settled(data: bytes) -> int:
    """Up to where lines can be taken: behind the last line feed at which no line of a runtime is open; 0 if there is
    none. Lines of standard error hold no event, and nothing waits for their end."""
    end = data.rfind(b"\n") + 1
    if not end or not (_is_framed(data) or _is_framed(data[data.rfind(b"\n", 0, end - 1) + 1 : end])):
        return end
    found = at = 0
    waiting = False
    while at < end:
        behind = data.index(b"\n", at) + 1
        if (frame := frame_of(data[at : behind - 1])) and frame.stream != "stderr":
            waiting = frame.partial
        found, at = found if waiting else behind, behind
    return found


def foreign_text(text: bytes) -> Foreign | None:
    """What a line that is not JSON is, if it is known not to be an event."""
    if _KLOG.match(text):
        return "component"
    return "legacy" if _LEGACY.match(text) else None


def foreign_object(event: Raw) -> Foreign | None:
    """What a JSON object is, if it is not meant as an audit event."""
    if "auditID" in event or ("level" in event and "stage" in event):
        return None
    return "component" if "ts" in event and "msg" in event else "other"


def may_be_torn(text: bytes) -> bool:
    """Whether a line that cannot be read may be a part of an event."""
    return text.startswith(b"{") or text.endswith(b"}") or bool(_AUDIT.search(text))


def _is_framed(line: bytes) -> bool:
    return not line.startswith(_PLAIN) and bool(line.startswith(_DOCKER) or _CRI.match(line))


def frame_of(line: bytes) -> Frame | None:
    """The line, if a runtime wrote it."""
    if line.startswith(_PLAIN):
        return None
    line = line.strip(BLANK) if line.startswith((b"\0", b"\r")) else line
    if found := _CRI.match(line):
        return Frame(found[1].decode(), line[found.end() :], found[2] == b"P")
    if not line.startswith(_DOCKER):
        return None
    try:
        record = _decode_docker(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    stream = "stderr" if record.stream == "stderr" else "stdout"
    whole = record.log.endswith("\n")
    return Frame(stream, record.log.rstrip("\n").encode() if whole else record.log.encode(), not whole)

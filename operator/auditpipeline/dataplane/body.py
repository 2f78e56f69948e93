"""A request's body, bounded on the wire and again when it is inflated: memory is never a sender's to choose."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from aiohttp import web

from auditpipeline.core.errors import Permanent
from auditpipeline.dataplane.room import Guest

_STEP = 2**20
_WINDOW = 2**16
"""Bytes that are handed to zlib at once: it copies what it leaves."""
_GZIP = ("gzip", "x-gzip")
_MEMBERS = 1000
"""More than anybody makes of one body; each costs as much time as some kilobytes of events."""


def coding(written: Iterable[str]) -> str | None:
    """The coding that the values of Content-Encoding name: `gzip`, or nothing; None if it is one that is not known.
    Names have no case, and `x-gzip` is another name of gzip (RFC 9110, 8.4.1)."""
    named = [name for value in written for each in value.split(",") if (name := each.strip().lower())]
    wanted = [name for name in named if name != "identity"]
    if not wanted:
        return ""
    return "gzip" if len(wanted) == 1 and wanted[0] in _GZIP else None


async def read_bounded(request: web.Request, most: int, guest: Guest | None = None) -> bytes | None:
    """The body; None, and the rest unread, where it is larger than `most` bytes. Retryable where the guest finds no
    room for it."""
    chunks, size = list[bytes](), 0
    # Not `iter_chunks`, which copies less: of a body with broken chunks aiohttp 3.14 gives empty ones without end.
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > most:
            return None
        if guest:
            await guest.take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def inflate_within(guest: Guest, body: bytes, coded: str, most: int) -> bytes | None:
    """As `inflate`, a piece at a time as the guest finds room for it; Retryable where it does not."""
    parts = list[bytes]()
    for part in _pieces(body, coded, most):
        if part is None:
            return None
        await guest.take(len(part) if part is not body else 0)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate(body: bytes, coded: str, most: int) -> bytes | None:
    """The body without its `coding`; None if it becomes larger than `most` bytes, Permanent if it cannot be undone."""
    parts = list(_pieces(body, coded, most))
    return None if None in parts else b"".join(part for part in parts if part)


def _pieces(body: bytes, coded: str, most: int) -> Iterator[bytes | None]:
    """The body in pieces; None, as the last one, as soon as they are more than `most` bytes together."""
    if not coded:
        yield body
        return
    size = 0
    for part in _gunzip(memoryview(body)):
        size += len(part)
        yield part if size <= most else None
        if size > most:
            return


def _gunzip(body: memoryview) -> Iterator[bytes]:
    """What is in the members of a gzip (RFC 1952, 2.2), one behind the other, in pieces of at most _STEP bytes. Zeros
    may follow the last one, as gzip itself has it."""
    stream, at, members = zlib.decompressobj(wbits=31), 0, 1
    while True:
        given = body[at : at + _WINDOW]
        try:
            part = stream.decompress(given, _STEP)
        except zlib.error as error:
            raise Permanent(f"the body is no gzip: {error}") from None
        at += len(given) - len(stream.unconsumed_tail) - len(stream.unused_data)
        yield part
        if stream.eof:
            if at == len(body) or (body[at] == 0 and not bytes(body[at:]).strip(b"\0")):
                return
            stream, members = zlib.decompressobj(wbits=31), members + 1
            if members > _MEMBERS:
                raise Permanent(f"the body's gzip has more than {_MEMBERS} members: send fewer")
        elif not part and at == len(body):
            raise Permanent("the body's gzip stream is torn")

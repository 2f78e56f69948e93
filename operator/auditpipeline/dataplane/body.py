"""A request's body, bounded on the wire and again when it is inflated: memory is never a sender's to choose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from aiohttp import web

from auditpipeline.core.errors import Permanent
from auditpipeline.dataplane.room import Guest

_STEP = 2**20


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


async def inflate_within(guest: Guest, body: bytes, encoding: str, most: int) -> bytes | None:
    """As `inflate`, a piece at a time as the guest finds room for it; Retryable where it does not."""
    parts = list[bytes]()
    for part in _pieces(body, encoding, most):
        if part is None:
            return None
        await guest.take(len(part) if part is not body else 0)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate(body: bytes, encoding: str, most: int) -> bytes | None:
    """The body without its Content-Encoding; None where it becomes larger than `most` bytes. Permanent where it cannot
    be undone."""
    parts = list(_pieces(body, encoding, most))
    return None if None in parts else b"".join(part for part in parts if part)


def _pieces(body: bytes, encoding: str, most: int) -> Iterator[bytes | None]:
    """The body in pieces; None, as the last one, as soon as they are more than `most` bytes together."""
    if encoding in ("", "identity"):
        yield body
        return
    if encoding != "gzip":
        raise Permanent(f"content encoding {encoding[:64]!r} is unknown: use gzip, or none")
    stream, size = zlib.decompressobj(wbits=31), 0
    while not stream.eof:
        try:
            part = stream.decompress(body, _STEP)
        except zlib.error as error:
            raise Permanent(f"the body is no gzip: {error}") from None
        size += len(part)
        if size > most:
            yield None
            return
        body = stream.unconsumed_tail
        if not (part or body or stream.eof):
            raise Permanent("the body's gzip stream is torn")
        yield part

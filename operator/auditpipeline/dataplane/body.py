"""A request's body, bounded on the wire and again when it is inflated: memory is never a sender's to choose."""

from __future__ import annotations

import zlib

from aiohttp import web

from auditpipeline.core.errors import Permanent


async def read_bounded(request: web.Request, most: int) -> bytes | None:
    """The body; None, and the rest unread, where it is larger than `most` bytes."""
    chunks, size = list[bytes](), 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > most:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def inflate(body: bytes, encoding: str, most: int) -> bytes | None:
    """The body without its Content-Encoding; None where it becomes larger than `most` bytes. Permanent where it cannot
    be undone."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise Permanent(f"content encoding {encoding[:64]!r} is unknown: use gzip, or none")
    stream = zlib.decompressobj(wbits=31)
    try:
        data = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise Permanent(f"the body is no gzip: {error}") from None
    if len(data) > most:
        return None
    if not stream.eof:
        raise Permanent("the body's gzip stream is torn")
    return data

"""zstd frames of the spool, undone within bounds: what a frame says of itself is not believed.

A frame's header claims a size and a window of any number of bytes, and a disk may flip a bit of it. Up to `_AT_ONCE`
bytes the claim is taken at its word, since as much memory does no harm. What claims more is undone in pieces, so that
memory grows with what is really there; a claim above `MOST` is damage.
"""

from __future__ import annotations

import zstandard

MOST = 2**30
"""Bytes that a row or a dead letter may have. A row is a request's body, of 20 MiB by default, and UTF-8 mended in it
makes it three times as large at most. The release before made rows of up to 400 dead letters: as many of the largest
events that an API server takes (1.5 MiB each for request and response) are within this bound as well."""
_AT_ONCE = 64 * 2**20
_WINDOW = 8 * 2**20
"""Every level below 20 has a smaller window, and rows are made at levels -7 and 1."""
_STEP = 2**20


def inflated(data: bytes) -> bytes:
    """What is in the frame. zstandard.ZstdError if it is not a whole frame, or claims to hold too much."""
    size = zstandard.frame_content_size(data)
    if not 0 <= size <= MOST:
        raise zstandard.ZstdError(f"the frame claims {size} bytes: at most {MOST} are valid")
    if size <= _AT_ONCE:
        return zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompress(data)
    parts, found = list[bytes](), 0
    for part in zstandard.ZstdDecompressor(max_window_size=_WINDOW).read_to_iter(data, write_size=_STEP):
        found += len(part)
        if found > size:
            break
        parts.append(part)
    if found != size:
        raise zstandard.ZstdError(f"the frame claims {size} bytes and holds {found}")
    return b"".join(parts)

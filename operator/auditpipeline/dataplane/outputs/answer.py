"""What an HTTP server's answer means, and what of it may be repeated where people read it.

    2xx                     arrived
    413                     TooLarge: the route sends halves, at last single events
    400, 422                Permanent: refused; halves likewise, and only what is refused alone becomes a dead letter
    408, 425, 429, 5xx      Retryable, with the server's Retry-After (at most five minutes)
    401, 403, 404, 405,
    any other 4xx           Retryable: somebody has to mend an address, a token or a certificate, and until then nothing
                            may be lost. The state of the output says so
    1xx, 3xx                Retryable likewise: redirects are not followed, since they would carry events elsewhere

The words of a server end up in a status that more people read than may read events or Secrets. So they are bounded,
have no control characters, are left out as a whole where they repeat a credential, and each word of theirs that stands
in what was sent is left out: `failed to parse 'hunter2'` becomes `failed to parse '…'`.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Sequence
from http import HTTPStatus

from auditpipeline.core.errors import AuditPipelineError, Permanent, Retryable, TooLarge

MAX_AFTER = 300.0
MAX_TEXT = 200
_STATUSES = frozenset(HTTPStatus)
_PERMANENT = (400, 422)
_TO_MEND = (401, 403, 404, 405, 407)
_WORD = re.compile(r"""[^\s"'`\\\[\]{}()<>.,:;=/&|]{4,}""")


def judge(status: int, words: str, after: str | None) -> AuditPipelineError | None:
    """The error that an answer stands for; None where the events arrived. `words` is what its body says, as far as
    that may be repeated."""
    if 200 <= status < 300:
        return None
    phrase = HTTPStatus(status).phrase if status in _STATUSES else "?"
    message = f"answered {status} {phrase}" + (f": {words}" if words else "")
    if status == 413:
        return TooLarge(message)
    if status in _PERMANENT:
        return Permanent(message)
    if status in _TO_MEND or 300 <= status < 400:
        return Retryable(f"{message}: mend the output's url or its credentials; events are kept meanwhile")
    return Retryable(message, retry_after(after))


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date (RFC 9110, 10.2.3), at most `MAX_AFTER`; None where
    it says nothing usable."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdecimal():
        return min(float(value), MAX_AFTER)
    try:
        date = email.utils.parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=dt.UTC)
        seconds = (date - dt.datetime.now(dt.UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, seconds), MAX_AFTER)


def plain(text: str, most: int = MAX_TEXT) -> str:
    """The text as one line of at most `most` characters, none of which controls a terminal or hides."""
    words = "".join(character if character.isprintable() else " " for character in text[: 4 * most]).split()
    line = " ".join(words)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def quotable(text: str, sent: bytes, secrets: Sequence[str]) -> str:
    """What of a server's words may be repeated: `plain`, without the words that stand in `sent`; nothing of what holds
    a secret."""
    if any(secret in text for secret in secrets):
        return ""
    return _WORD.sub(lambda word: "…" if word[0].encode() in sent else word[0], plain(text))

"""Who may post events: whoever showed a client certificate in the handshake, or shows the token.

    Authorization: Bearer TOKEN         a client that has no certificate
    POST /audit/TOKEN                   kube-apiserver's own dynamic backend (1.13 to 1.18), which has neither

Asked before anything of a body is read. The token is read from its file for each such request: a changed one counts at
once, and where the file cannot be read, or is empty, nobody without a certificate comes in.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from aiohttp import web

MAX_TOKEN = 4096


class Admission:
    """`token_file` None: certificates alone count."""

    def __init__(self, token_file: str | None) -> None:
        self.token_file = token_file

    def admits(self, request: web.Request) -> bool:
        """Whether the sender of a request may post."""
        if request.transport and request.transport.get_extra_info("peercert"):
            return True
        wanted, shown = self._token(), _shown(request)
        return bool(wanted) and hmac.compare_digest(wanted, shown)

    def _token(self) -> bytes:
        if self.token_file is None:
            return b""
        try:
            with Path(self.token_file).open("rb") as file:
                return file.read(MAX_TOKEN).strip()
        except OSError:
            return b""


def _shown(request: web.Request) -> bytes:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip().encode(errors="surrogateescape")
    return request.match_info.get("token", "").encode()

"""A few plain requests to kube-apiserver, for the harness itself: JSON in and out, as the administrator.

One connection, used by one thread; it is made anew when the API server went away meanwhile.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from .pki import Authority, Pair

MERGE = "application/merge-patch+json"


class Refused(RuntimeError):
    """The API server answered with an error; `code` is its HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Rest:
    """Requests with an administrator's certificate."""

    def __init__(self, url: str, authority: Authority, admin: Pair) -> None:
        context = ssl.create_default_context(cafile=authority.certificate)
        context.load_cert_chain(admin.certificate, admin.key)
        address = urlsplit(url)
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=10, context=context
        )

    def __call__(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", accept: str = "*/*"
    ) -> Any:
        """The decoded answer. Raises Refused for an error's status and OSError when nobody answers."""
        payload = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, payload, {"Content-Type": content_type, "Accept": accept})
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(f"{method} {path}: {error}") from error
        if answer.status >= 400:
            raise Refused(answer.status, content.decode(errors="replace")[:500])
        return json.loads(content)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

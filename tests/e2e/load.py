"""Makes ConfigMaps, one after the other, until SIGTERM; then prints how many were made. Standard library alone.

load.py URL CA CERTIFICATE KEY PAUSE
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import ssl
import sys
import time
from urllib.parse import urlsplit


def main(url: str, authority: str, certificate: str, key: str, pause: str) -> None:
    """One connection, made anew if it breaks."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    address = urlsplit(url)
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, timeout=10, context=context)
    going, made, number = [True], 0, 0
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    while going:
        number += 1
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"load-{number}"}}
        try:
            connection.request(
                "POST", "/api/v1/namespaces/default/configmaps", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            answer.read()
            made += answer.status == http.HTTPStatus.CREATED
        except (OSError, http.client.HTTPException):
            with contextlib.suppress(OSError):
                connection.close()
        time.sleep(float(pause))
    sys.stdout.write(f"made {made}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

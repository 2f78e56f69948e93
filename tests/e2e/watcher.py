"""Watches AuditPipelines, AuditSinks and the Events on them with a client of its own; prints a line for each change.

    python -m tests.e2e.watcher URL CA CERTIFICATE KEY

Each line is JSON: {"at": seconds since the epoch, "what": ..., "object": ...}. `seen` has an object as it is now,
`gone` one that is no longer there, `away` and `back` say that the API server stopped answering and answers again. After
every interruption it lists anew, so that no state that lasts is missed. A process of its own, so that nothing that
happens in the tests holds it up.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

KINDS = {
    "AuditPipeline": "/apis/auditpipeline.dev/v1alpha1/auditpipelines",
    "AuditSink": "/apis/auditregistration.k8s.io/v1alpha1/auditsinks",
    "Event": "/apis/events.k8s.io/v1/namespaces/default/events",
}
PAUSE = 0.05
"""Seconds between two attempts while nobody answers."""
_printing = threading.Lock()


def say(what: str, body: dict[str, Any] | None = None) -> None:
    """Print one line."""
    with _printing:
        print(json.dumps({"at": time.time(), "what": what, "object": body or {}}), flush=True)


class Follower:
    """Follows one kind for ever; the one of AuditPipelines says besides whether the API server answers."""

    def __init__(self, kind: str, url: str, context: ssl.SSLContext) -> None:
        self._kind = kind
        self._address = urlsplit(url)
        self._context = context
        self._known: dict[str, dict[str, Any]] = {}
        self._answers: bool | None = None

    def run(self) -> None:
        """List and watch, again and again."""
        while True:
            try:
                self._follow()
            except (OSError, http.client.HTTPException, ValueError):
                self._answer(answers=False)
                time.sleep(PAUSE)

    def _follow(self) -> None:
        listed = json.load(self._get(""))
        self._answer(answers=True)
        found = {entry["metadata"]["uid"]: entry | {"kind": self._kind} for entry in listed["items"]}
        for uid in self._known.keys() - found.keys():
            say("gone", self._known[uid])
        for entry in found.values():
            say("seen", entry)
        self._known = found
        with suppress(OSError, http.client.HTTPException):  # whether anybody still answers, the next list shows
            self._watch(listed["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> None:
        answer = self._get(f"?watch=1&resourceVersion={version}")
        while line := answer.readline():
            change = json.loads(line)
            body = change["object"]
            if change["type"] == "ERROR":
                return
            if change["type"] == "DELETED":
                self._known.pop(body["metadata"]["uid"], None)
                say("gone", body)
            else:
                self._known[body["metadata"]["uid"]] = body
                say("seen", body)

    def _get(self, query: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(
            self._address.hostname or "", self._address.port, timeout=None if query else 5, context=self._context
        )
        connection.request("GET", KINDS[self._kind] + query)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            connection.close()
            raise OSError(f"status {answer.status}")
        return answer

    def _answer(self, *, answers: bool) -> None:
        if self._kind == "AuditPipeline" and self._answers is not answers:
            self._answers = answers
            say("back" if answers else "away")


def main() -> None:
    """Watch until killed."""
    url, authority, certificate, key = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    threads = [threading.Thread(target=Follower(kind, url, context).run) for kind in KINDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

"""A mutating admission webhook that writes a value into Secrets and into the environment of Pods.

kube-apiserver puts the whole patch into an annotation of the audit event, `patch.webhook.admission.k8s.io/round_*`.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.dataplane.pki import Authority

LABEL = {"inject": "yes"}
"""Labels of the objects that are patched."""
Patches = Mapping[str, list[dict[str, Any]]]


@contextmanager
def webhook(folder: Path, patches: Patches) -> Iterator[dict[str, Any]]:
    """Serves; yields the configuration to apply. `patches` are JSON patches by kind of object."""
    authority = Authority(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(patches))
    server.socket = authority.server(authority.issue("mutating")).wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, name="mutating")
    thread.start()
    try:
        yield _configuration(server.server_address[1], authority.ca)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(patches: Patches) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = review.pop("request")
            patch = base64.b64encode(json.dumps(patches[request["kind"]["kind"]]).encode()).decode()
            answer = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
            body = json.dumps(review | {"response": answer}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler


def _configuration(port: int, authority: Path) -> dict[str, Any]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets", "pods"]}
    bundle = base64.b64encode(authority.read_bytes()).decode()
    called = {
        "name": "inject.example.com",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": bundle},
        "rules": [rule],
        "objectSelector": {"matchLabels": LABEL},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "inject"},
        "webhooks": [called],
    }

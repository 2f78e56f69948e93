"""A webhook as one would write it in 1.18: takes EventLists over TLS and prints their events, one line each.

python webhook.py ADDRESS PORT CERTIFICATE KEY
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook(BaseHTTPRequestHandler):
    """Answers every POST with 200."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Print the events of one batch."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for event in json.loads(body)["items"]:
            print(json.dumps(event), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


address, port, certificate, key = sys.argv[1:]
server = ThreadingHTTPServer((address, int(port)), Webhook)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()

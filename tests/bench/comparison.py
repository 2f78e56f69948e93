"""What the servers share that `auditpipeline serve` is compared with: TLS 1.3 with client certificates, and one line
on standard output that says the port."""

from __future__ import annotations

import argparse
import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.Response]]


def parser(text: str | None) -> argparse.ArgumentParser:
    """The arguments that each of them has."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--pki", type=Path, required=True, help="folder made by tests/dataplane/pki.py")
    made.add_argument("--target", type=Path, required=True, help="file to append to")
    made.add_argument("--policy", type=Path, required=True, help="an audit.k8s.io/v1 Policy as JSON")
    return made


async def serve(receive: Handler, pki: Path) -> None:
    """Serves POST /audit until the process is killed."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "server.crt", pki / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application(client_max_size=2**25)
    app.router.add_post("/audit", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

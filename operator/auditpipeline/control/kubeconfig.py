"""What a kubeconfig says of its current context: where to connect, whom to trust and what to show. Pure but for the
files that it names, which are read relative to its own folder.

Source: k8s.io/client-go/tools/clientcmd (`*-data` goes before a file name; paths are relative to the file).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from auditpipeline.core.errors import Invalid


class Target(NamedTuple):
    """One server. `certificate` and `key` are empty where the context shows no client certificate."""

    server: str
    host: str
    port: int
    path: str
    tls_name: str
    ca: str
    certificate: str
    key: str


def load(path: Path) -> Target:
    """The target of the current context; Invalid where the file cannot be used, and OSError where it cannot be read."""
    return parse(path.read_bytes(), str(path), lambda name: (path.parent / name).read_bytes())


def parse(text: bytes, file: str, read: Callable[[str], bytes]) -> Target:
    """The target of the current context; `read` opens a file that the kubeconfig names."""
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError):
        # What the parser says holds a piece of the file, which may be a key.
        raise Invalid(file, "is not valid YAML") from None
    if not isinstance(document, dict):
        raise Invalid(file, "is no kubeconfig")
    context = _named(document, "contexts", str(document.get("current-context") or ""), "context", file)
    cluster = _named(document, "clusters", str(context.get("cluster") or ""), "cluster", file)
    user = _named(document, "users", str(context.get("user") or ""), "user", file) if context.get("user") else {}
    server = str(cluster.get("server") or "")
    split = urlsplit(server)
    try:
        host, port = split.hostname or "", split.port or 443
    except ValueError:
        host, port = "", 0
    if split.scheme != "https" or not host:
        raise Invalid(file, f"the server {server!r} is no https:// address")
    pems = {
        name: _pem(fields, name, file, read)
        for fields, name in (
            (cluster, "certificate-authority"),
            (user, "client-certificate"),
            (user, "client-key"),
        )
    }
    tls_name = str(cluster.get("tls-server-name") or host)
    return Target(server, host, port, split.path or "/", tls_name, *pems.values())


def _named(document: dict[str, Any], kind: str, name: str, field: str, file: str) -> dict[str, Any]:
    entries = document.get(kind)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(field), dict):
            found: dict[str, Any] = entry[field]
            return found
    raise Invalid(file, f"has no {field} {name!r}" if name else "has no current-context")


def _pem(fields: dict[str, Any], name: str, file: str, read: Callable[[str], bytes]) -> str:
    inline, path = fields.get(f"{name}-data"), fields.get(name)
    try:
        if inline:
            return base64.b64decode(str(inline), validate=True).decode("ascii")
        return read(str(path)).decode("ascii") if path else ""
    except (binascii.Error, UnicodeDecodeError):
        raise Invalid(file, f"{name} is no PEM") from None

"""A kubeconfig of an audit webhook: where to post, whom to trust, what to show.

Shape: k8s.io/client-go/tools/clientcmd/api/v1/types.go, of the context that is current. Files in it are relative to it.
"""

from __future__ import annotations

import base64
import binascii
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yarl import URL

from auditpipeline.core.errors import Invalid
from auditpipeline.dataplane.tls import memory_file


class Target(NamedTuple):
    """Where to post. `server_name` is the TLS name where it is not the URL's host; `headers` hold credentials."""

    url: URL
    context: ssl.SSLContext | None
    server_name: str | None
    headers: dict[str, str]


def load(path: Path) -> Target:
    """What the file says; Invalid where it cannot be used, OSError where it cannot be read."""
    return _Kubeconfig(path).target()


class _Kubeconfig:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._document = yaml.safe_load(path.read_bytes())
        except (yaml.YAMLError, UnicodeDecodeError):
            raise self._invalid("this is not valid YAML") from None

    def target(self) -> Target:
        """The context that is current, or the only one."""
        current = self._text(self._document, "current-context")
        context = self._named("contexts", "context", current)
        cluster = self._named("clusters", "cluster", self._text(context, "cluster"))
        user = self._named("users", "user", self._text(context, "user"))
        for field in ("exec", "auth-provider"):
            if field in user:
                raise self._invalid(f"user.{field} is not supported: give a client certificate or a token")
        url = self._url(self._text(cluster, "server"))
        tls = self._tls(cluster, user) if url.scheme == "https" else None
        return Target(url, tls, self._text(cluster, "tls-server-name") or None, self._authorization(user))

    def _url(self, server: str) -> URL:
        try:
            url = URL(server)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise self._invalid("cluster.server is no URL, such as https://127.0.0.1:9443/audit")
        # kube-apiserver posts to the path and drops the query.
        return url.with_query(timeout="30s")

    def _tls(self, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        authority = self._data(cluster, "certificate-authority")
        certificate, key = self._data(user, "client-certificate"), self._data(user, "client-key")
        try:
            if authority is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=authority.decode("ascii"))
            if certificate and key:
                with memory_file(key + b"\n" + certificate) as path:
                    context.load_cert_chain(path, password=lambda: "")
        except (ssl.SSLError, ValueError, OSError):
            raise self._invalid(
                "a certificate or key in it cannot be used: PEM is needed, the key unencrypted"
            ) from None
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _authorization(self, user: Mapping[str, Any]) -> dict[str, str]:
        token = self._text(user, "token")
        if file := self._text(user, "tokenFile"):
            token = (self._path.parent / file).read_text().strip()
        if name := self._text(user, "username"):
            pair = f"{name}:{self._text(user, 'password')}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        return {"Authorization": f"Bearer {token}"} if token else {}

    def _named(self, kind: str, field: str, name: str) -> Mapping[str, Any]:
        entries = self._document.get(kind) if isinstance(self._document, Mapping) else None
        found = [each for each in entries or () if isinstance(each, Mapping)] if isinstance(entries, list) else []
        for each in found:
            if each.get("name") == name or (not name and len(found) == 1):
                value = each.get(field)
                return value if isinstance(value, Mapping) else {}
        raise self._invalid(f"{kind} has no {name!r}" if name else f"{kind} is empty, or current-context is missing")

    def _data(self, node: Mapping[str, Any], field: str) -> bytes | None:
        """The value of `FIELD-data` (base64), or of the file that FIELD names."""
        if inline := self._text(node, f"{field}-data"):
            try:
                return base64.b64decode(inline, validate=True)
            except binascii.Error:
                raise self._invalid(f"{field}-data is no base64") from None
        file = self._text(node, field)
        return (self._path.parent / file).read_bytes() if file else None

    def _text(self, node: Any, field: str) -> str:
        value = node.get(field) if isinstance(node, Mapping) else None
        if value is not None and not isinstance(value, str):
            raise self._invalid(f"{field} must be text")
        return value or ""

    def _invalid(self, message: str) -> Invalid:
        return Invalid(str(self._path), f"no kubeconfig that can be used: {message}")

"""Secrets in the request URI, at every level: Metadata is enough."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus

from tests.redaction.events import Event, Resource, event
from tests.redaction.marks import Mint
from tests.redaction.plant_commands import COMMANDS

EXEC = Resource("pods", "PodExecOptions", subresource="exec")
PROXY = Resource("nodes", "NodeProxyOptions", subresource="proxy")
AT = "/api/v1/namespaces/team/pods/db"
QUERIES = (
    "token",
    "access_token",
    "password",
    "id_token",
    "client_secret",
    "api_key",
    "X-Amz-Signature",
    "Token",
    "PASSWORD",
)


def _percent(mint: Mint, value: str) -> str:
    """The value in one of the ways in which a query may have it."""
    every = "".join(f"%{byte:02{mint.pick('x', 'X')}}" for byte in value.encode())
    return mint.pick(quote_plus(value), quote(value, safe=""), quote(value, safe="/:@=;"), every)


def _level(mint: Mint) -> str:
    return mint.pick("Metadata", "Request", "RequestResponse")


def command(mint: Mint, name: str) -> Event:
    """An exec or attach with a command; each of its words is an argument of the query."""
    words = COMMANDS[name](mint)
    query = "&".join(f"{mint.pick('command', 'command', 'com%6Dand')}={_percent(mint, word)}" for word in words)
    sub = mint.pick("exec", "attach")
    kept = "container=app&stdin=true&tty=true"
    uri = f"{AT}/{sub}?{mint.pick(f'{query}&{kept}', f'{kept}&{query}', f'container=app&{query}&stdin=true&tty=true')}"
    return event(mint, mint.pick("create", "get"), EXEC._replace(subresource=sub), uri=uri, level=_level(mint))


def query(mint: Mint) -> Event:
    """A query with a secret of its own, of a resource or of a path."""
    name = mint.pick(*QUERIES)
    named = mint.pick(name, name, "".join(f"%{byte:02x}" for byte in name.encode()))
    path = mint.pick(f"{AT}/proxy/login", "/oauth/token", "/api/v1/nodes/n/proxy/logs", "/apis/x.example.com/v1/hooks")
    uri = f"{path}?limit=500{mint.pick('&', ';')}{named}={_percent(mint, mint.word())}&{mint.keep('watch=true')}"
    return event(mint, "get", PROXY, uri=uri, level=_level(mint))


def unescaped(mint: Mint) -> Event:
    """A script whose separators are not escaped: a reader of queries may split it there."""
    uri = f"{AT}/exec?command=sh&command=-c&command=cd+/;PGPASSWORD%3D{mint.word()}+psql&tty=true"
    return event(mint, "create", EXEC, uri=uri, level=_level(mint))


def user_information(mint: Mint) -> Event:
    """A URL with a password, as a part of a path, in a query, or the whole."""
    at = f"//app:{mint.word()}@db.example.com/x"
    url = f"https:{at}"
    uri = mint.pick(at, url, f"{AT}/proxy/{url}", f"{AT}/proxy/fetch?url={_percent(mint, url)}&a=b")
    return event(mint, "get", EXEC._replace(subresource="proxy"), uri=uri, level=_level(mint))


def run(mint: Mint) -> Event:
    """A command by kubelet's own API."""
    name = mint.pick("sh: --password=", "sh: NAME=value", "sh: a URL", "sh: -p of mysql")
    script = COMMANDS[name](mint)[-1]
    uri = f"/api/v1/nodes/n/proxy/run/team/db/app?cmd={_percent(mint, script)}"
    return event(mint, "create", PROXY, uri=uri, level=_level(mint))


KINDS: dict[str, Callable[[Mint], Event]] = {
    **{f"URI: command {name}": partial(command, name=name) for name in COMMANDS},
    "URI: an argument of the query": query,
    "URI: user information": user_information,
    "URI: kubelet's run": run,
    "URI: a script that is not escaped": unescaped,
}

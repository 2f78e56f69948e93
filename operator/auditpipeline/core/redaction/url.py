"""Secrets in the URI of a request, which is recorded at every level.

    ?token=x   ?access_token=x   ?password=x         by the names of arguments (`names`)
    ?command=mysql&command=-px                       commands for a container, as its arguments (`text`)
    https://user:x@host/                             user information

A value keeps its place; what is not taken keeps its spelling.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_plus

from auditpipeline.core.redaction.names import is_secret_option, stays
from auditpipeline.core.redaction.taking import Taker
from auditpipeline.core.redaction.text import arguments, text

SUSPECT = re.compile(rb"[?@]|%3[fF]|%40|eyJ|\\")
"""What a URI has of which something may have to be taken, as it stands in an event."""
COMMANDS = ("command", "cmd", "arg", "args", "script")
"""Arguments that hold a command, or a part of one."""
_QUERY = re.compile(r"\?|%3[fF]")
_PARTS = re.compile(r"([&;])")
_MOST = 10_000
_FINE = "-._~!$'()*,;:@/?="


def uri(value: str, taker: Taker) -> str:
    """The URI without the secrets in it."""
    if not taker.look(len(value)):
        return taker.take(value)
    found = _QUERY.search(value)
    if found is None:
        return _path(value, taker)
    return _path(value[: found.start()], taker) + found[0] + _query(value[found.end() :], taker)


def _path(path: str, taker: Taker) -> str:
    plain = unquote(path)
    new = text(plain, taker.take)
    return path if new == plain else quote(new, safe=_FINE)


def _query(query: str, taker: Taker) -> str:
    parts = _PARTS.split(query)
    if len(parts) > _MOST:
        return taker.take(query)
    found = [part.partition("=") for part in parts]
    commands = [number for number, (name, equals, _) in enumerate(found) if equals and _plain(name) in COMMANDS]
    said = [_plain(found[number][2]) for number in commands]
    new = dict(zip(commands, zip(said, arguments(said, taker.take), strict=True), strict=True))
    return "".join(_part(parts[number], found[number], new.get(number), taker) for number in range(len(parts)))


def _part(whole: str, part: tuple[str, str, str], command: tuple[str, str] | None, taker: Taker) -> str:
    name, equals, value = part
    if not equals:
        return whole
    if command:
        before, after = command
        return whole if before == after else f"{name}={quote(after, safe=_FINE)}"
    said, plain = _plain(name), _plain(value)
    secret = is_secret_option(said) and not stays(said, plain)
    new = taker.take(plain) if secret else text(plain, taker.take)
    return whole if new == plain else f"{name}={quote(new, safe=_FINE)}"


def _plain(word: str) -> str:
    """A name or a value without escapes; one that was escaped twice, for a proxy behind the API server, likewise."""
    found = unquote_plus(word)
    return unquote_plus(found) if "%" in found else found

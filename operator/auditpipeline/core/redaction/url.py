"""Secrets in the URI of a request, which is recorded at every level.

    ?token=x   ?access_token=x   ?password=x         by the names of arguments (`names`)
    ?command=mysql&command=-px                       commands for a container, as its arguments (`text`)
    https://user:x@host/                             user information

A value keeps its place; what is not taken keeps its spelling.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_plus

from auditpipeline.core.redaction.model import HASHED, MASK
from auditpipeline.core.redaction.names import is_secret_option, stays
from auditpipeline.core.redaction.taking import Taker
from auditpipeline.core.redaction.text import arguments, hinted, text

CALM = re.compile(
    rb'"[^"?@%;=_\\]{0,120}+(?<!//)(?:\?(?:(?:(?:allowWatchBookmarks|container|continue|dryRun|fieldManager|fieldValidation|follow'
    rb"|force|gracePeriodSeconds|includeObject|limit|orphanDependents|pretty|propagationPolicy|resourceVersion"
    rb"|resourceVersionMatch|sendInitialEvents|stderr|stdin|stdout|timeout|timeoutSeconds|tty|verbose|watch)"
    rb'=[\w.,-]*+|(?:labelSelector|fieldSelector)=[^&;"?@\\]*+)(?:&|\\u0026)?+)*+)?+"'
)
"""A URI, as it stands in an event, that surely holds no secret: most of them. A path with a token in it is longer."""
SELECTORS = ("labelSelector", "fieldSelector", "continue")
"""Arguments that hold no secret, whatever is in them."""
COMMANDS = ("command", "cmd", "arg", "args", "script")
"""Arguments that hold a command, or a part of one."""
_TAKEN = re.compile(rf",(?:{MASK}|{HASHED})\Z")
_PROXIED = re.compile(r"(/https?:[^/:@]*:)([^/@]+)(?=@)")
"""User information where the API server has the scheme, the name and the port of what it is a proxy for."""
_QUERY = re.compile(r"\?|%3[fF]")
_AND, _SEMICOLON = re.compile("(&)"), re.compile("(;)")
_MOST, _LONGEST_PATH = 10_000, 2**11
_FINE = "-._~!$'()*,:@/"


def uri(value: str, taker: Taker) -> str:
    """The URI without the secrets in it."""
    found = _QUERY.search(value)
    path = value[: found.start()] if found else value
    # Policies, and readers, tell requests by their paths: only what is behind a path ever goes whole.
    left = _path_of_any_length(path, taker)
    if found is None:
        return left
    query = value[found.end() :]
    free = "%" not in query and not hinted(query)
    taken = _query(query, taker) if free or taker.look(len(query)) else taker.take(query)
    return left + found[0] + taken


def _path_of_any_length(path: str, taker: Taker) -> str:
    if len(path) <= _LONGEST_PATH:
        return _path(path, taker)
    taken = _TAKEN.search(path)
    if taken and taken.start() <= 2 * _LONGEST_PATH:
        return _path(path[: taken.start()], taker) + taken[0]
    return f"{_path(path[:_LONGEST_PATH], taker)},{taker.take(path[_LONGEST_PATH:])}"


def _path(path: str, taker: Taker) -> str:
    plain = unquote(path)
    new = text(_PROXIED.sub(lambda found: f"{found[1]}{taker.take(found[2])}", plain), taker.take, shell=False)
    return path if new == plain else quote(new, safe=_FINE)


def _query(query: str, taker: Taker) -> str:
    parts = _AND.split(query)
    if len(parts) > _MOST:
        return taker.take(query)
    found = [part.partition("=") for part in parts]
    commands = [number for number, (name, equals, _) in enumerate(found) if equals and _plain(name) in COMMANDS]
    said = [_plain(found[number][2]) for number in commands]
    new = dict(zip(commands, zip(said, arguments(said, taker.take, scripts=len(said) == 1), strict=True), strict=True))
    return "".join(
        _command(part, *new[number]) if number in new else _arguments(part, taker) for number, part in enumerate(parts)
    )


def _command(part: str, before: str, after: str) -> str:
    return part if before == after else f"{part.partition('=')[0]}={quote(after, safe=_FINE)}"


def _arguments(part: str, taker: Taker) -> str:
    """Up to Kubernetes 1.21, arguments may have `;` between them as well."""
    if ";" not in part:
        return _argument(part, taker)
    parts = _SEMICOLON.split(part)
    return taker.take(part) if len(parts) > _MOST else "".join(_argument(each, taker) for each in parts)


def _argument(part: str, taker: Taker) -> str:
    name, equals, value = part.partition("=")
    said, plain = _plain(name), _plain(value)
    if not equals or said in SELECTORS:
        return part
    secret = is_secret_option(said) and not stays(said, plain)
    new = taker.take(plain) if secret else text(plain, taker.take, shell=False)
    return part if new == plain else f"{name}={quote(new, safe=_FINE)}"


def _plain(word: str) -> str:
    """A name or a value without escapes; one that was escaped twice, for a proxy behind the API server, likewise."""
    found = unquote_plus(word)
    return unquote_plus(found) if "%" in found else found

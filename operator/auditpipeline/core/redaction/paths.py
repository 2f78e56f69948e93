"""The paths of a user's rules: where in an object values are taken.

    spec.credentials.password                    a key in a key in a key
    spec.users.password                          lists are looked through: the password of each user
    data.*                                       `*` is any one key
    **.token                                     `**` is any number of keys, none included
    metadata.annotations["example.com/token"]    a key with other characters than letters, digits, `_`, `-`, `$` and `/`

A path that leads to an object or a list takes all values in it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from auditpipeline.core.errors import Invalid
from auditpipeline.core.redaction.model import MAX_DEEP, MAX_PATH, MAX_PATHS, MAX_RULES, Redaction, Rule

_SEGMENT = re.compile(r'(?:^|(?<=.)\.)(\*\*|\*|[\w$/-]+)|\["((?:[^"\\]|\\["\\])*)"\]', re.ASCII)
_SYNTAX = 'write keys with dots between them, `*`, `**`, or ["a key"]'
RESOURCE = re.compile(r"\*|[a-z0-9][a-z0-9.-]*(/[a-z0-9*][a-z0-9.-]*)?", re.ASCII)
GROUP = re.compile(r"|\*|[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.ASCII)


class Wild(Enum):
    """A segment that is not a key."""

    ONE = "*"
    ANY = "**"


Segment = str | Wild
ONE: Final = Wild.ONE
ANY: Final = Wild.ANY


def parse(path: str, where: str = "") -> tuple[Segment, ...]:
    """The segments of a path; Invalid, naming `where`, if it is not one."""
    if not 0 < len(path) <= MAX_PATH:
        raise Invalid(where, f"a path has 1 to {MAX_PATH} characters")
    found, at = list[Segment](), 0
    while at < len(path):
        match = _SEGMENT.match(path, at)
        if match is None:
            raise Invalid(where, f"{path!r} cannot be read from character {at + 1} on: {_SYNTAX}")
        plain, quoted = match.groups()
        found.append(_plain(plain) if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = match.end()
    if all(isinstance(segment, Wild) for segment in found) and found[-1] is ANY:
        raise Invalid(where, f"{path!r} takes everything: name a key")
    return tuple(found)


def _plain(word: str) -> Segment:
    return ONE if word == "*" else ANY if word == "**" else word


def problems(redaction: Redaction, where: str) -> list[Invalid]:
    """Lists what is wrong with a redaction, each with its field."""
    found = list[Invalid]()
    if len(redaction.rules) > MAX_RULES:
        found.append(Invalid(f"{where}.rules", f"at most {MAX_RULES} rules are allowed"))
    if sum("**" in path for rule in redaction.rules[:MAX_RULES] for path in rule.paths[:MAX_PATHS]) > MAX_DEEP:
        found.append(
            Invalid(f"{where}.rules", f"at most {MAX_DEEP} paths with ** are allowed: each looks at every key")
        )
    for number, rule in enumerate(redaction.rules[:MAX_RULES]):
        found += _rule_problems(rule, f"{where}.rules[{number}]")
    return found


def _rule_problems(rule: Rule, where: str) -> list[Invalid]:
    found = list[Invalid]()
    if not 0 < len(rule.paths) <= MAX_PATHS:
        found.append(Invalid(f"{where}.paths", f"1 to {MAX_PATHS} paths are needed"))
    for number, path in enumerate(rule.paths[:MAX_PATHS]):
        try:
            parse(path, f"{where}.paths[{number}]")
        except Invalid as error:
            found.append(error)
    for number, selector in enumerate(rule.resources):
        if not GROUP.fullmatch(selector.group):
            found.append(Invalid(f"{where}.resources[{number}].group", f"{selector.group!r} is not an API group"))
        for index, resource in enumerate(selector.resources):
            if not RESOURCE.fullmatch(resource):
                at = f"{where}.resources[{number}].resources[{index}]"
                found.append(Invalid(at, f"{resource!r} is not a resource: write secrets, pods/exec, or *"))
    return found

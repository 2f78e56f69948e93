"""What a server says about what it refused, without the values that it repeats.

    Secret "a" is invalid: data[x]: Invalid value: "..."   field errors (k8s.io/apimachinery/pkg/util/validation)
    ..., error found in #10 byte of ...|...|..., bigger context ...|...|...      decoders, up to Kubernetes 1.22
    admission webhook "a" denied the request: ...              whatever a webhook, or a policy, says

Fields, reasons and the names of objects stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from auditpipeline.core.redaction.text import text

_CONTEXT = re.compile(r"(?<=byte of )\.\.\.\|.*", re.DOTALL)
_BAD = re.compile(r"((?:Invalid|Unsupported|Duplicate) value|Not found): ")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_WORD = re.compile(r"[^\s:,\]\[{}\"]+(?=: |, |\]|\Z)")
_NUMBER = re.compile(r"(cannot unmarshal number )(\S+)")
_DENIED = re.compile(r"(denied (?:the )?request: )(.+)", re.DOTALL)
_NAMING = ("unknown field ", "duplicate field ", "admission webhook ")
_BEGINNING = re.compile(r"[\w.]+ (?:in version )?")
_SAFE = re.compile(r"already exists\Z|not found\Z|is forbidden: User |has been modified; ")


def message(said: str, take: Callable[[str], str], thorough: bool) -> str:
    """The message without the values that it repeats; `thorough`: without what webhooks say, and without any quotation
    but that of a name."""
    said = _CONTEXT.sub(lambda found: _taken(found[0], take), said)
    said = _without_bad(said, take)
    said = _NUMBER.sub(lambda found: found[1] + _taken(found[2], take), said)
    if not thorough:
        return text(said, take)
    said = _DENIED.sub(lambda found: found[1] + _taken(found[2], take), said)
    return said if _SAFE.search(said[:4096]) else _without_quotations(said, take)


def _without_bad(said: str, take: Callable[[str], str]) -> str:
    """What follows "Invalid value: " is a text in quotes, a word, or something of which nobody can tell where it
    ends."""
    parts, at = list[str](), 0
    while found := _BAD.search(said, at):
        parts.append(said[at : found.end()])
        at = found.end()
        if quoted := _QUOTED.match(said, at):
            parts.append(f'"{_taken(quoted[1], take)}"')
            at = quoted.end()
        elif word := _WORD.match(said, at):
            parts.append(_taken(word[0], take))
            at = word.end()
        else:
            parts.append(_taken(said[at:], take))
            at = len(said)
    return "".join([*parts, said[at:]])


def _without_quotations(said: str, take: Callable[[str], str]) -> str:
    parts, at = list[str](), 0
    for found in _QUOTED.finditer(said):
        parts.append(said[at : found.start()])
        parts.append(found[0] if _is_name(said, found.start()) else f'"{_taken(found[1], take)}"')
        at = found.end()
    return "".join([*parts, said[at:]])


def _is_name(said: str, at: int) -> bool:
    """Whether a quotation is a name: what the message begins with (`Secret "a" is ...`), a field, or a webhook."""
    before = said[max(0, at - 64) : at]
    return before.endswith(_NAMING) or (at == len(before) and _BEGINNING.fullmatch(before) is not None)


def _taken(value: str, take: Callable[[str], str]) -> str:
    return take(value) if value else value

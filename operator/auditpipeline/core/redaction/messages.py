"""What a server says about what it refused, without the values that it repeats.

    Secret "a" is invalid: data[x]: Invalid value: "..."   field errors (k8s.io/apimachinery/pkg/util/validation)
    ..., error found in #10 byte of ...|...|..., bigger context ...|...|...      decoders, up to Kubernetes 1.22
    spec: Forbidden: pod updates may not change fields other than ...            a difference, line by line
    admission webhook "a" denied the request: ...                                whatever a webhook, or a policy, says

Of objects that are secret as a whole, only what is known to be harmless stays: the words that a message of one of these
forms begins with. Of others, what stands where a value stands goes, and so do credentials (`text`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from auditpipeline.core.redaction.text import text

_CONTEXT = re.compile(r"(?<=byte of )\.\.\.\|.*", re.DOTALL)
_DIFFERENCE = re.compile(
    r"(?:(?<=\n)@@ -|(?<=may not change fields other than)[^\n]*\n|(?<=\n)\s*[-+ ]*\s*(?:core|v1)\.[A-Z]\w*\{)(.+)",
    re.DOTALL,
)
_TYPED = re.compile(r"((?:expected|Expected) [\w ]+, got )(.+)", re.DOTALL)
_BAD = re.compile(r"((?:Invalid|Unsupported|Duplicate) value|Not found): ")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_WORD = re.compile(r"[^\s:,\]\[{}\"]+(?=: |, |\]|\Z)")
_NUMBER = re.compile(r"(cannot unmarshal number )(\S+)")
_SAFE = re.compile(
    r'[\w.]+ "[^"]*" (?:already exists|not found)|[\w.]+ (?:"[^"]*" )?is forbidden: User "[^"]*" cannot [^:]*'
    r'|Operation cannot be fulfilled on [\w.]+ "[^"]*": the object has been modified; please apply your changes to the'
    r' latest version and try again|the server could not find the requested resource|[\w.]+ "[^"]*" deleted'
    r"|Connection closed early"
    r'|(?:strict decoding error: )?(?:unknown|duplicate) field "[^"]*"'
)
"""Whole messages of which every part is known."""
_ERROR = (
    r"(?:(?:Invalid|Unsupported|Duplicate|Required) value|Forbidden|Too long|Too many|Not found|Internal error)(?:: )?"
)
_BEGINNING = re.compile(
    r'(?:[\w.]+ "[^"]*" is invalid: )?\[?(?:[\w.$-]+(?:\[[\w./-]*\])?: )?'
    + _ERROR
    + r'|[\w.]+ "[^"]*" is invalid: |[\w.]+ (?:in version )?"[^"]*" cannot be handled as a [\w.]+: '
    r'|admission webhook "[^"]*" denied the request: ?'
    r"|(?:[\w.]+ \"[^\"]*\" is forbidden: )?ValidatingAdmissionPolicy '[^']*' with binding '[^']*' denied request: "
)
"""What a message may begin with that is known."""


def message(said: str, take: Callable[[str], str], thorough: bool) -> str:
    """The message without the values that it repeats; `thorough`: with nothing in it that is not known."""
    if thorough:
        return said if _SAFE.fullmatch(said) else _known(said, take)
    said = _CONTEXT.sub(lambda found: _taken(found[0], take), said)
    said = _DIFFERENCE.sub(lambda found: found[0][: -len(found[1])] + _taken(found[1], take), said)
    said = _TYPED.sub(lambda found: found[1] + _taken(found[2], take), said)
    said = _without_bad(said, take)
    said = _NUMBER.sub(lambda found: found[1] + _taken(found[2], take), said)
    return text(said, take)


def _known(said: str, take: Callable[[str], str]) -> str:
    """What the message begins with, and what stands for the rest."""
    found = _BEGINNING.match(said)
    end = found.end() if found else 0
    return said[:end] + _taken(said[end:], take)


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


def _taken(value: str, take: Callable[[str], str]) -> str:
    return take(value) if value else value

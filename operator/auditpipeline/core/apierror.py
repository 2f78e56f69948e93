"""Validation errors in the words of kube-apiserver, so that what a person reads here can be searched for.

Source: k8s.io/apimachinery/pkg/util/validation/field/errors.go; a string is quoted as Go's %q does, anything else is
Go's JSON. tests/oracle compares both with the real ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from auditpipeline.core.errors import Invalid

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    f" '{_SUBDOMAIN.pattern}')"
)
_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
_ESCAPES |= {"\\": r"\\", '"': r"\""}
_HTML = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def required(path: str) -> Invalid:
    """The field is empty and must not be."""
    return Invalid(path, "Required value")


def invalid(path: str, value: str | int | Sequence[str], detail: str) -> Invalid:
    """The field's value cannot be used."""
    return Invalid(path, f"Invalid value: {quoted(value) if isinstance(value, str) else go_json(value)}: {detail}")


def not_supported(path: str, value: str, supported: Sequence[str]) -> Invalid:
    """The field's value is none of those supported; the value is of a type of its own, which Go shows as JSON."""
    return Invalid(path, f"Unsupported value: {go_json(value)}: supported values: {', '.join(map(quoted, supported))}")


def subdomain_problems(name: str) -> list[str]:
    """Why the name is no DNS subdomain. Source: IsDNS1123Subdomain (k8s.io/apimachinery/pkg/util/validation)."""
    long = ["must be no more than 253 characters"] if len(name.encode(errors="surrogatepass")) > 253 else []
    return long + ([] if _SUBDOMAIN.fullmatch(name) else [_SUBDOMAIN_MESSAGE])


def quoted(text: str) -> str:
    """The text as Go's %q (strconv.Quote) writes it."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in text) + '"'


def _escaped(code: int) -> str:
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def go_json(value: str | int | Sequence[str]) -> str:
    """The value as Go's encoding/json writes it: compact, and safe to put into HTML."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_HTML)

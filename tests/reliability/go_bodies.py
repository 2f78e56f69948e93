"""Request bodies as kube-apiserver passes them on: what Go's `json.Valid` takes, which is more than most parsers do.

Go's scanner wants balanced brackets, at most 10,000 levels, and strings without control characters. It does not look at
whether bytes are UTF-8, nor whether surrogates come in pairs, and keeps numbers of any size.
Source: encoding/json/scanner.go.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from auditpipeline.core.eventlist import encode_body

MOST_LEVELS = 10_000
_ESCAPES = (rb"\"", rb"\\", rb"\/", rb"\b", rb"\n", rb"\u0000", rb"\ud800", rb"\udfff", rb"\uD83D\uDE00", rb"\ufffe")
_PIECES = st.sampled_from(_ESCAPES) | st.binary(max_size=4).map(
    lambda data: bytes(byte for byte in data if byte >= 0x20 and byte not in b'"\\')
)
_HOSTILE = st.sampled_from((b"]}],[{", b'{\\"kind\\":\\"Event\\"}', b"},{", b"\xc3", b"\xf0\x9f\x98\x80", b"\x7f"))
STRINGS = st.lists(_PIECES | _HOSTILE, max_size=4).map(lambda pieces: b'"' + b"".join(pieces) + b'"')
_WORDS = st.sampled_from((b"null", b"true", b"false", b"-0", b"1e999", b"0.10E-5", b"9" * 400))

_BRACKETS = ((b"[", b"]"), (b'{"a":', b"}"), (rb'["]\"",', b"]"), (b'{"":[],"a":', b"}"))


def _array(items: list[bytes]) -> bytes:
    return b"[" + b",".join(items) + b"]"


def _object(members: list[tuple[bytes, bytes]]) -> bytes:
    return b"{" + b",".join(key + b":" + value for key, value in members) + b"}"


_FLAT = st.recursive(
    _WORDS | STRINGS,
    lambda inner: (
        st.lists(inner, max_size=3).map(_array) | st.lists(st.tuples(STRINGS, inner), max_size=3).map(_object)
    ),
    max_leaves=8,
)


@st.composite
def _deep(draw: st.DrawFn) -> bytes:
    """A value within very many levels."""
    levels = draw(st.sampled_from((24, 25, 500, 512, 513, 970, 980, 981, 982, 983, 984, 990, 1000, MOST_LEVELS - 100)))
    opening, closing = draw(
        st.sampled_from(((b"[", b"]"), (b'{"a":', b"}"), (rb'["]\"",', b"]"), (b'{"":[],"a":', b"}")))
    )
    return opening * levels + draw(_FLAT) + closing * levels


VALUES = _FLAT | _deep()


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[dict[str, Any]], bytes]:
    """Events without their bodies, and an EventList of them with bodies of any kind."""
    events, items = list[dict[str, Any]](), list[bytes]()
    for number in range(draw(st.integers(1, 6))):
        level = draw(st.sampled_from(("Metadata", "Request", "RequestResponse")))
        event: dict[str, Any] = {
            "level": level,
            "auditID": f"id-{number}",
            "stage": "ResponseComplete",
            "requestURI": "/api/v1/namespaces/default/configmaps/a",
            "verb": "patch",
            "user": {"username": f"user-{number}", "groups": ["system:authenticated"]},
            "objectRef": {"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"},
        }
        fields = json.dumps(event, separators=(",", ":")).encode()[:-1]
        for name in draw(st.sets(st.sampled_from(("requestObject", "responseObject")))):
            fields += f',"{name}":'.encode() + draw(VALUES)
        events.append(event)
        items.append(fields + b"}")
    return events, encode_body(items)

"""An event that no strict parser takes, made into one that every parser takes; what it says stays.

    "\\ud800"            a lone surrogate becomes U+FFFD, as Go reads it
    bytes not UTF-8     become U+FFFD
    a body of more than `MAX_DEPTH` levels, or that is not valid JSON
                        is removed, and the annotation `auditpipeline.dev/truncated` names it

kube-apiserver passes all of these on, since whoever may write an object chooses what is in its body. User, verb, URI
and objectRef are kube-apiserver's own words: they stay, or the event is not readable.
"""

from __future__ import annotations

import re

import msgspec

from auditpipeline.core import split
from auditpipeline.core.errors import Permanent
from auditpipeline.core.split import Member

Raw = dict[str, msgspec.Raw]

MAX_DEPTH = 512
ANNOTATION = "auditpipeline.dev/truncated"
"""On an event whose bodies were removed: their names, with commas between them."""
BODIES = ("requestObject", "responseObject")
# Of a pair of surrogates the group is empty.
_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|([89a-fA-F][0-9a-fA-F]{2}))")
_KEYS = msgspec.json.Decoder(str)
_VALUES = msgspec.json.Decoder(msgspec.Raw)
_ANNOTATIONS = msgspec.json.Decoder(Raw | None)
UNPARSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises if it does not take its input."""


def mended(data: bytes) -> Raw:
    """The fields of an event, each as JSON that can be parsed. Permanent if it is not an object that comes to its end,
    or if another field than a body cannot be read."""
    text = split.outline(data)
    start = split.first(text)
    if text[start : start + 1] != b"{":
        raise Permanent("the event cannot be read: it is not a JSON object")
    fields, removed, end = Raw(), list[str](), start + 1
    for member in split.members(text, start):
        if not member.value.whole:
            raise Permanent("the event cannot be read: it ends too early")
        end = member.value.end
        name = _name(data[member.key.start : member.key.end])
        if value := _value(data, text, member):
            fields[name] = value
        elif name in BODIES:
            removed.append(name)
        else:
            raise Permanent(f"the event cannot be read: its {name[:64]} is not valid JSON")
    if text[end:].strip() != b"}":
        raise Permanent("the event cannot be read: it is not a JSON object")
    return annotated(fields, removed) if removed else fields


def annotated(event: Raw, removed: list[str]) -> Raw:
    """The event with an annotation that names the bodies that it lost."""
    try:
        before = _ANNOTATIONS.decode(event["annotations"]) if "annotations" in event else None
    except UNPARSED:
        before = None
    after = {**(before or {}), ANNOTATION: msgspec.Raw(msgspec.json.encode(",".join(removed)))}
    return {**event, "annotations": msgspec.Raw(msgspec.json.encode(after))}


def _name(key: bytes) -> str:
    try:
        return _KEYS.decode(b'"' + key + b'"')
    except UNPARSED:
        raise Permanent("the event cannot be read: the name of a field is not valid JSON") from None


def _value(data: bytes, text: bytes, member: Member) -> msgspec.Raw | None:
    """The value of a member, mended; None if it is too deep, or not valid JSON even then."""
    start, end = member.value.start, member.value.end
    if split.depth(text[start:end]) > MAX_DEPTH:
        return None
    value = _readable(data[start:end], text[start:end])
    try:
        return msgspec.Raw(_VALUES.decode(value))
    except UNPARSED:
        return None


def _readable(value: bytes, text: bytes) -> bytes:
    """The value without lone surrogates, and as UTF-8."""
    lone = [found.start() for found in _SURROGATE.finditer(text) if found[1]]
    if lone:
        patched = bytearray(value)
        for at in lone:
            patched[at : at + 6] = rb"\ufffd"
        value = bytes(patched)
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode(errors="replace").encode()
    return value

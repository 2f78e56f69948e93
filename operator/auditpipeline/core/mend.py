"""An event that no strict parser takes, made into one that every parser takes; what it says stays.

    "\\ud800"            a lone surrogate becomes U+FFFD, as Go reads it
    bytes not UTF-8     become U+FFFD
    a body of more than `MAX_DEPTH` levels, or that is not valid JSON
                        is removed, and the annotation `auditpipeline.dev/truncated` names it

kube-apiserver passes all of these on, since whoever may write an object chooses what is in its body. User, verb, URI
and objectRef are kube-apiserver's own words: they stay, or the event is not readable.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

import msgspec

from auditpipeline.core import split
from auditpipeline.core.errors import Permanent
from auditpipeline.core.split import Member

Raw = dict[str, msgspec.Raw]

MAX_DEPTH, MAX_FIELDS = 512, 1000
ANNOTATION = "auditpipeline.dev/truncated"
"""On an event whose bodies were removed: their names, with commas between them."""
BODIES = ("requestObject", "responseObject")
# Of a pair of surrogates the group is empty.
_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|([89a-fA-F][0-9a-fA-F]{2}))")
_WORDS = msgspec.json.Decoder(str)
_VALUES = msgspec.json.Decoder(msgspec.Raw)
_EVENTS = msgspec.json.Decoder(Raw)
_ANNOTATIONS = msgspec.json.Decoder(Raw | None)
_UTF8 = codecs.getincrementaldecoder("utf-8")
_STEP = 2**17
UNPARSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises if it does not take its input."""


def is_tame(data: bytes) -> bool:
    """Whether the data is UTF-8 and surely has neither too many levels nor too many fields: it can be decoded whatever
    the stack of the caller is, and at no great cost."""
    try:
        return _is_within(data) and (data.isascii() or bool(data.decode()))
    except UnicodeDecodeError:
        return False


def _is_within(data: bytes) -> bool:
    return data.count(b"[") + data.count(b"{") <= MAX_DEPTH and data.count(b":") <= MAX_FIELDS


def mended(data: bytes) -> Raw:
    """The fields of an event, each as JSON that can be parsed. Permanent if it is not an object that comes to its end,
    if it has more than `MAX_FIELDS`, or if another field than a body cannot be read."""
    text = split.outline(data)
    if (event := _at_once(data, text)) is not None:
        return event
    start = split.first(text)
    if text[start : start + 1] != b"{":
        raise Permanent("the event cannot be read: it is not a JSON object")
    fields, removed, end = Raw(), dict[str, None](), start + 1
    for number, member in enumerate(split.members(text, start)):
        if not member.value.whole:
            raise Permanent("the event cannot be read: it ends too early")
        if number == MAX_FIELDS:
            raise Permanent(f"the event cannot be read: it has more than {MAX_FIELDS} fields")
        end = member.value.end
        name = _name(data[member.key.start : member.key.end])
        # Of two fields with one name the last one counts, as everywhere.
        removed.pop(name, None)
        if value := _value(data, text, member):
            fields[name] = value
        elif name in BODIES:
            fields.pop(name, None)
            removed[name] = None
        else:
            raise Permanent(f"the event cannot be read: its {name[:64]} is not valid JSON")
    if text[end:].strip() != b"}":
        raise Permanent("the event cannot be read: it is not a JSON object")
    return annotated(fields, list(removed)) if removed else fields


def _at_once(data: bytes, text: bytes) -> Raw | None:
    """The event, if nothing but its text has to be mended: several times as quick as field by field."""
    if not _is_within(data):
        return None
    try:
        return _EVENTS.decode(_readable(data, text))
    except UNPARSED:
        return None


def annotated(event: Raw, removed: list[str]) -> Raw:
    """The event with an annotation that names the bodies that it lost, now or before."""
    try:
        before = _ANNOTATIONS.decode(event["annotations"]) if "annotations" in event else None
    except UNPARSED:
        before = None
    named = [name for name in BODIES if name in removed or name in _named(before or {})]
    after = {**(before or {}), ANNOTATION: msgspec.Raw(msgspec.json.encode(",".join(named)))}
    return {**event, "annotations": msgspec.Raw(msgspec.json.encode(after))}


def _named(annotations: Raw) -> list[str]:
    """The bodies that the event had lost already."""
    try:
        return _WORDS.decode(annotations.get(ANNOTATION, b'""')).split(",")
    except UNPARSED:
        return []


def _name(key: bytes) -> str:
    try:
        return _WORDS.decode(b'"' + key + b'"')
    except UNPARSED:
        raise Permanent("the event cannot be read: the name of a field is not valid JSON") from None


def _value(data: bytes, text: bytes, member: Member) -> msgspec.Raw | None:
    """The value of a member, mended; None if it is too deep, or not valid JSON even then."""
    start, end = member.value.start, member.value.end
    if split.is_deeper(text[start:end], MAX_DEPTH):
        return None
    value = _readable(data[start:end], text[start:end])
    try:
        return msgspec.Raw(_VALUES.decode(value))
    except UNPARSED:
        return None


def _readable(value: bytes, text: bytes) -> bytes:
    """The value without lone surrogates, and as UTF-8."""
    patched = bytearray()
    for found in _SURROGATE.finditer(text):
        if found[1]:
            patched = patched or bytearray(value)
            patched[found.start() : found.end()] = rb"\ufffd"
    value = bytes(patched) or value
    try:
        value.decode()
    except UnicodeDecodeError:
        return b"".join(_as_utf8(value))
    return value


def _as_utf8(value: bytes) -> Iterator[bytes]:
    """In steps, so that other threads get their turn."""
    decoder = _UTF8("replace")
    for at in range(0, len(value), _STEP):
        yield decoder.decode(value[at : at + _STEP]).encode()
    yield decoder.decode(b"", final=True).encode()

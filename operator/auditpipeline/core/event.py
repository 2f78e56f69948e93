"""Audit events as bytes: what the policy needs is decoded, the rest stays as it came.

An event is a dict of field name to raw JSON, so that unknown fields survive and what is not cut is byte for byte. What
a strict parser does not take is mended first (`mend`), so that no limit depends on how deep the caller's stack is.

    line    {"kind":"Event","apiVersion":"audit.k8s.io/v1","level":...}     as in kube-apiserver's own log
    item    {"level":...}                                                   as in an EventList

Shapes: `audit.k8s.io/v1` Event (k8s.io/apiserver/pkg/apis/audit/v1/types.go). `v1beta1` has two fields more, both
deprecated and not part of v1. `eventlist` has the bodies.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from auditpipeline.core import managed
from auditpipeline.core.errors import Permanent
from auditpipeline.core.managed import without_managed_fields
from auditpipeline.core.mend import UNPARSED, is_tame, mended
from auditpipeline.core.policy import STAGES, Attributes, Decision, Level, Policy, decide

Raw = managed.Raw
Kind = tuple[str, str, str | None, str]
"""(verb, group, resource, subresource); the resource is None for a path."""
Rest = tuple[str | None, tuple[str, ...], str, str, str]
"""(user, groups, path, namespace, name)"""


class User(msgspec.Struct, gc=False):
    """Who asked; impersonated requests are judged by the original user, as kube-apiserver does."""

    username: str = ""
    groups: tuple[str, ...] | None = None


class ObjectRef(msgspec.Struct, rename="camel", gc=False):
    """What was asked for, of a resource request."""

    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    api_group: str = ""


class Status(msgspec.Struct, gc=False):
    """How the request ended; 0 before it has."""

    code: int | None = 0


class Head(NamedTuple):
    """What decisions and keys need of one event. `code` is the response's HTTP status, 0 where there is none yet."""

    level: Level
    stage: str
    audit_id: str
    request: Attributes
    code: int = 0


class _Identity(msgspec.Struct):
    audit_id: str = msgspec.field(default="", name="auditID")
    stage: str = ""


_IDENTITIES = msgspec.json.Decoder(_Identity)
_OBJECTS = msgspec.json.Decoder(Raw)
_text = msgspec.json.Decoder(str).decode
_user = msgspec.json.Decoder(User | None).decode
_ref = msgspec.json.Decoder(ObjectRef | None).decode
_STATUSES = msgspec.json.Decoder(Status | None)
_ENCODER = msgspec.json.Encoder()
KIND, VERSION, BETA = "Event", "audit.k8s.io/v1", "audit.k8s.io/v1beta1"
ENVELOPE = f'{{"kind":"{KIND}","apiVersion":"{VERSION}",'.encode()
"""What every line begins with."""
_KIND, _VERSION = msgspec.Raw(f'"{KIND}"'.encode()), msgspec.Raw(f'"{VERSION}"'.encode())
_BETA = f'"{BETA}"'.encode()
_ENVELOPE = frozenset({"kind", "apiVersion"})
_BETA_ONLY = _ENVELOPE | {"metadata", "timestamp"}
_NOT_SO = (ValueError, RecursionError)
"""Raised if a field has another type than the API says: msgspec's errors are ValueErrors."""
_NULL = msgspec.Raw(b'""')
_NONE = msgspec.Raw(b"null")
_LEVELS = {level: msgspec.Raw(f'"{level.title}"'.encode()) for level in Level}


def decode_event(line: bytes) -> Raw:
    """One event, mended if it has to be; Permanent if it is not an object, or cannot be mended."""
    try:
        return _OBJECTS.decode(line)
    except UNPARSED as error:
        refused = error
    try:
        return mended(line)
    except Permanent:
        raise _unreadable(refused) from None


def decode_odd(data: bytes) -> Raw:
    """As `decode_event`, of bytes out of a body that the quick decoders refused: within the limits of `mend`, so that
    no later step can fail at it, whatever its stack is."""
    return decode_event(data) if is_tame(data) else mended(data)


def without_envelope(event: Raw, beta: bool = False) -> Raw:
    """The event as an item of an EventList: without kind and apiVersion, and with the fields of v1 if it is of v1beta1,
    which its apiVersion says, or `beta`."""
    beta = beta or bytes(event.get("apiVersion", b"")).strip() == _BETA
    gone = _BETA_ONLY if beta else _ENVELOPE
    return event if gone.isdisjoint(event) else {name: value for name, value in event.items() if name not in gone}


def with_envelope(event: Raw) -> Raw:
    """The event as a line has it: of kind Event and apiVersion audit.k8s.io/v1, which come first."""
    return {"kind": _KIND, "apiVersion": _VERSION, **without_envelope(event)}


def head(event: Raw) -> Head:
    """What decisions need of the event; Permanent where a field has another type than the API says."""
    request = attributes(event)
    try:
        level, stage = Level.parse(_text(event.get("level", _NULL))), _text(event.get("stage", _NULL))
        audit_id = _text(event.get("auditID", _NULL))
    except _NOT_SO as error:
        raise _unreadable(error) from None
    if stage not in STAGES:
        raise Permanent(f"unknown stage {stage[:64]!r}")
    return Head(level, stage, audit_id, request, response_code(event))


def attributes(event: Raw) -> Attributes:
    """The request that the event tells of: a resource request has an objectRef. Permanent as `head`."""
    _, _, (verb, group, resource, subresource), (user, groups, _, namespace, name) = facts_of(event)
    try:
        path = path_of(_text(event.get("requestURI", _NULL)))
    except _NOT_SO as error:
        raise _unreadable(error) from None
    return Attributes(user, groups, verb, path, resource, subresource, group, namespace, name)


def facts_of(event: Raw) -> tuple[str, str, Kind, Rest]:
    """What decides about the event, at the least cost: level and stage as they are written, and the request, with an
    empty path where it is for a resource. Permanent as `head`."""
    get = event.get
    try:
        level, stage, verb = _text(get("level", _NULL)), _text(get("stage", _NULL)), _text(get("verb", _NULL))
    except _NOT_SO as error:
        raise _unreadable(error) from None
    kind, rest = request_of(verb, get("user", _NONE), get("objectRef", _NONE), get("requestURI", _NULL))
    return level, stage, kind, rest


def request_of(verb: str, user: msgspec.Raw, ref: msgspec.Raw, uri: msgspec.Raw) -> tuple[Kind, Rest]:
    """The request of an event with these fields; Permanent as `head`."""
    try:
        who, what = _user(user), _ref(ref)
        path = path_of(_text(uri)) if what is None or verb == "create" else ""
    except _NOT_SO as error:
        raise _unreadable(error) from None
    # An event always has a user object; an unauthenticated request's is empty.
    name = groups = None
    if who is not None:
        groups = who.groups
        name = who.username if groups else who.username or None
    if what is None:
        return (verb, "", None, ""), (name, groups or (), path, "", "")
    namespace, called = addressed(path, what.namespace, what.name) if path else (what.namespace, what.name)
    return (verb, what.api_group, what.resource, what.subresource), (name, groups or (), "", namespace, called)


def addressed(path: str, namespace: str, name: str) -> tuple[str, str]:
    """Namespace and name in the path of a resource request; those given where it is no such path.

    kube-apiserver decides before it has read a body, and completes the objectRef with it afterwards: what is created
    has no name yet then (LogRequestObject in k8s.io/apiserver/pkg/audit/request.go; NewRequestInfo in
    pkg/endpoints/request/requestinfo.go).
    """
    parts = path.strip("/").split("/")
    parts = parts[{"api": 2, "apis": 3}.get(parts[0], len(parts)) :]
    if not parts:
        return namespace, name
    within = parts[0] == "namespaces" and len(parts) > 1
    inner = parts[2:] if within and len(parts) > 2 and parts[2] not in ("status", "finalize") else parts
    return parts[1] if within else "", inner[1] if len(inner) > 1 else ""


def response_code(event: Raw) -> int:
    """The HTTP status that the request was answered with; 0 before it is. Permanent as `head`."""
    return code_of(event.get("responseStatus", _NONE))


def code_of(status: msgspec.Raw) -> int:
    """The code in a `responseStatus`; Permanent as `head`."""
    try:
        found = _STATUSES.decode(status)
    except _NOT_SO as error:
        raise _unreadable(error) from None
    return (found.code or 0) if found else 0


def _unreadable(error: Exception) -> Permanent:
    return Permanent(f"the event cannot be read: {str(error)[:200]}")


def path_of(uri: str) -> str:
    """The path of a request URI as policies see it: without the query, and with no %-escapes."""
    path = uri.partition("?")[0]
    return unquote(path, errors="surrogateescape") if "%" in path else path


def narrow(captured: Head, policies: tuple[Policy, ...]) -> Decision | None:
    """What is left of an event when every policy has decided: the lowest level; None where one of them omits it."""
    level, stages, managed, rule = captured.level, frozenset[str](), False, None
    for policy in policies:
        decision = decide(policy, captured.request)
        rule = decision.rule
        level = min(level, decision.level)
        stages |= decision.omit_stages
        managed = managed or decision.omit_managed_fields
        if rule is not None and captured.code in policy.rules[rule].omit_response_codes:
            return None
    if level is Level.NONE or captured.stage in stages:
        return None
    return Decision(level, stages, managed, rule)


def is_whole(captured: Level, decision: Decision) -> bool:
    """Whether the decision leaves everything of an event that was captured at that level."""
    return decision.level is captured and not (decision.omit_managed_fields and captured >= Level.REQUEST)


def has_excess(event: Raw, level: Level) -> bool:
    """Whether the event has a body that events of that level do not have. kube-apiserver sends none such."""
    if level >= Level.REQUEST_RESPONSE:
        return False
    return "responseObject" in event or (level < Level.REQUEST and "requestObject" in event)


def cut(event: Raw, captured: Level, decision: Decision) -> Raw:
    """The event at the decision's level: bodies that it must not have are gone, nothing else is touched."""
    if is_whole(captured, decision) and not has_excess(event, captured):
        return event
    kept = dict(event)
    kept["level"] = _LEVELS[decision.level]
    if decision.level < Level.REQUEST_RESPONSE:
        kept.pop("responseObject", None)
    if decision.level < Level.REQUEST:
        kept.pop("requestObject", None)
    if decision.omit_managed_fields:
        for field in ("requestObject", "responseObject"):
            if field in kept:
                kept[field] = without_managed_fields(kept[field])
    return kept


def is_plain(body: bytes) -> bool:
    """Whether every event of a body that could be decoded is one line of UTF-8 already, as kube-apiserver sends it."""
    end = body.find(b"\n")
    try:
        return (end < 0 or end == len(body) - 1) and b"\r" not in body and (body.isascii() or bool(body.decode()))
    except UnicodeDecodeError:
        return False


encode_plain = _ENCODER.encode
"""The fields of an event out of a body that `is_plain`, as one line of JSON: there is nothing to look for."""


encode_lines = _ENCODER.encode_lines
"""Many of them as one text, each with a line end. What is `msgspec.Raw` comes out as it is."""


def encode_line(event: Raw) -> bytes:
    """The event as a line, with no line end; Permanent if it is not UTF-8, which raw JSON is not checked for."""
    return encode_event(with_envelope(event))


def encode_item(event: Raw) -> bytes:
    """The event as an item of an EventList, likewise on one line."""
    return encode_event(without_envelope(event))


def as_item(line: bytes) -> bytes:
    """A line as an item of an EventList; the same if it is one already."""
    return b"{" + line[len(ENVELOPE) :] if line.startswith(ENVELOPE) else line


def encode_event(event: Raw) -> bytes:
    """The event with the fields that it has, likewise; Permanent too if it is too deep for the stack. A line end can
    only stand between tokens: the decoder refuses one within a string."""
    line = encode_plain(event)
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise Permanent(f"the event is not UTF-8: {error.reason}") from None
    try:
        return msgspec.json.format(line, indent=-1) if b"\n" in line or b"\r" in line else line
    except UNPARSED as error:
        raise _unreadable(error) from None


def delivery_key(line: bytes) -> str:
    """What tells a second delivery of an event from another event: auditID, stage and a hash of the line.

    Aggregated API servers share an auditID, so it does not do by itself. Empty identities where the line is no event.
    """
    try:
        identity = _IDENTITIES.decode(line)
    except UNPARSED:
        identity = _Identity()
    return f"{identity.audit_id}/{identity.stage}/{hashlib.blake2b(line, digest_size=8).hexdigest()}"

"""Audit events as bytes: what the policy needs is decoded, the rest stays as it came.

An event is a dict of field name to raw JSON, so that unknown fields survive and what is not cut is byte for byte.
Shapes: `audit.k8s.io/v1` Event and EventList (k8s.io/apiserver/pkg/apis/audit/v1/types.go).
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple

import msgspec

from auditpipeline.core.errors import Permanent
from auditpipeline.core.policy import STAGES, Attributes, Decision, Level, Policy, decide

Raw = dict[str, msgspec.Raw]


class User(msgspec.Struct):
    """Who asked; impersonated requests are judged by the original user, as kube-apiserver does."""

    username: str = ""
    groups: tuple[str, ...] | None = None


class ObjectRef(msgspec.Struct, rename="camel"):
    """What was asked for, of a resource request."""

    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    api_group: str = ""


class Head(NamedTuple):
    """What decisions and keys need of one event."""

    level: Level
    stage: str
    audit_id: str
    request: Attributes


class _List(msgspec.Struct):
    kind: str = ""
    api_version: str = msgspec.field(default="", name="apiVersion")
    items: list[Raw] | None = None


class _Items(msgspec.Struct):
    kind: Literal["EventList"]
    api_version: Literal["audit.k8s.io/v1"] = msgspec.field(name="apiVersion")
    items: list[msgspec.Raw]


class _Identity(msgspec.Struct):
    audit_id: str = msgspec.field(default="", name="auditID")
    stage: str = ""


_LISTS = msgspec.json.Decoder(_List)
_ITEMS = msgspec.json.Decoder(_Items)
_IDENTITIES = msgspec.json.Decoder(_Identity)
_OBJECTS = msgspec.json.Decoder(Raw)
_STRINGS = msgspec.json.Decoder(str)
_USERS = msgspec.json.Decoder(User | None)
_REFS = msgspec.json.Decoder(ObjectRef | None)
_ANY = msgspec.json.Decoder(Any)
_ENCODER = msgspec.json.Encoder()
_NULL = msgspec.Raw(b'""')


def decode_body(body: bytes) -> list[Raw]:
    """The events of a request body: an EventList, or a single Event. Permanent where it is neither."""
    try:
        found = _LISTS.decode(body)
        if found.api_version != "audit.k8s.io/v1" or found.kind not in ("EventList", "Event"):
            raise Permanent(f"not an audit.k8s.io/v1 EventList or Event: {found.api_version[:64]}/{found.kind[:64]}")
        return (found.items or []) if found.kind == "EventList" else [_OBJECTS.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Permanent(f"the body cannot be read: {str(error)[:200]}") from None


def split_body(body: bytes) -> list[bytes]:
    """The items of an EventList in which one is no object, each by itself; Permanent where it is no EventList."""
    try:
        return [bytes(item) for item in _ITEMS.decode(body).items]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Permanent(f"the body cannot be read: {str(error)[:200]}") from None


def decode_event(line: bytes) -> Raw:
    """One event; Permanent where it is no object."""
    try:
        return _OBJECTS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Permanent(f"the event cannot be read: {str(error)[:200]}") from None


def head(event: Raw) -> Head:
    """What decisions need of the event; Permanent where a field has another type than the API says."""
    try:
        level = Level.parse(_STRINGS.decode(event.get("level", _NULL)))
        stage = _STRINGS.decode(event.get("stage", _NULL))
        if stage not in STAGES:
            raise Permanent(f"unknown stage {stage[:64]!r}")
        return Head(level, stage, _STRINGS.decode(event.get("auditID", _NULL)), _attributes(event))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Permanent(f"the event cannot be read: {str(error)[:200]}") from None


def _attributes(event: Raw) -> Attributes:
    user = _USERS.decode(event["user"]) if "user" in event else None
    ref = _REFS.decode(event["objectRef"]) if "objectRef" in event else None
    path = _STRINGS.decode(event.get("requestURI", _NULL)).partition("?")[0]
    verb = _STRINGS.decode(event.get("verb", _NULL))
    # An event always has a user object; an unauthenticated request's is empty.
    name = user.username if user and (user.username or user.groups) else None
    groups = (user.groups or ()) if user else ()
    if ref is None:
        return Attributes(name, groups, verb, path)
    return Attributes(name, groups, verb, path, ref.resource, ref.subresource, ref.api_group, ref.namespace, ref.name)


def narrow(captured: Head, policies: tuple[Policy, ...]) -> Decision | None:
    """What is left of an event when every policy has decided: the lowest level; None where one of them omits it."""
    level, stages, managed, rule = captured.level, frozenset[str](), False, None
    for policy in policies:
        decision = decide(policy, captured.request)
        rule = decision.rule
        level = min(level, decision.level)
        stages |= decision.omit_stages
        managed = managed or decision.omit_managed_fields
    if level is Level.NONE or captured.stage in stages:
        return None
    return Decision(level, stages, managed, rule)


def cut(event: Raw, captured: Level, decision: Decision) -> Raw:
    """The event at the decision's level: bodies that it must not have are gone, nothing else is touched."""
    if decision.level is captured and not decision.omit_managed_fields:
        return event
    kept = dict(event)
    kept["level"] = msgspec.Raw(f'"{decision.level.title}"'.encode())
    if decision.level < Level.REQUEST_RESPONSE:
        kept.pop("responseObject", None)
    if decision.level < Level.REQUEST:
        kept.pop("requestObject", None)
    if decision.omit_managed_fields:
        for field in ("requestObject", "responseObject"):
            if field in kept:
                kept[field] = without_managed_fields(kept[field])
    return kept


def without_managed_fields(body: msgspec.Raw) -> msgspec.Raw:
    """The object (or list of objects) without `metadata.managedFields`; as it came where it has none. Permanent where
    it cannot be read."""
    if b"managedFields" not in bytes(body):
        return body
    try:
        found = _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Permanent(f"the event's object cannot be read: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        return body
    items = found.get("items")
    for item in [found, *(items if isinstance(items, list) else [])]:
        metadata = item.get("metadata") if isinstance(item, dict) else None
        if isinstance(metadata, dict):
            metadata.pop("managedFields", None)
    return msgspec.Raw(_ENCODER.encode(found))


def encode_line(event: Raw) -> bytes:
    """The event as one line of JSON, with no line end; Permanent where it is not UTF-8, which raw JSON is not checked
    for.

    A line end can only stand between tokens: the decoder refuses one within a string.
    """
    line = _ENCODER.encode(event)
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise Permanent(f"the event is not UTF-8: {error.reason}") from None
    return msgspec.json.format(line, indent=-1) if b"\n" in line or b"\r" in line else line


def delivery_key(line: bytes) -> str:
    """What tells a second delivery of an event from another event: auditID, stage and a hash of the line.

    Aggregated API servers share an auditID, so it does not do by itself. Empty identities where the line is no event.
    """
    try:
        identity = _IDENTITIES.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        identity = _Identity()
    return f"{identity.audit_id}/{identity.stage}/{hashlib.blake2b(line, digest_size=8).hexdigest()}"

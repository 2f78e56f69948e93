"""Events as kube-apiserver writes them: no field that it does not have, and each in its place.

A dict of raw JSON (core/event.py) keeps any event as it came; a Struct with the fields of `Event` takes an eighth less
time for those of kube-apiserver. `decode_known` gives Structs only where nothing can get lost by it:

- every field of every event is known, and its level and stage are (otherwise it cannot be decoded so); its value stays
  raw, but for three words;
- the first event comes out again byte for byte: the sender has the order of kube-apiserver's Go type. In a list of
  several orders, values stay untouched, and the fields come out in this one.

Everything else goes the general way. An event comes out as a line, whether or not it came with kind and apiVersion.
Source: k8s.io/apiserver/pkg/apis/audit/v1/types.go, in its order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from auditpipeline.core.event import Kind, Rest, as_item, code_of, encode_plain, is_plain, is_whole, request_of
from auditpipeline.core.managed import without_managed_fields
from auditpipeline.core.mend import UNPARSED
from auditpipeline.core.policy import Decision, Level, Stage, Title

_NONE = Raw(b"null")
_ITEMS = b'"items":['
# An attribute of an Enum takes several times as long as a name of the module.
_REQUEST, _EVERYTHING = Level.REQUEST, Level.REQUEST_RESPONSE


class Known(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename="camel",
    gc=False,
    kw_only=True,
    tag_field="kind",
    tag="Event",
):
    """An Event of which only what every decision needs is decoded. Items of a list have no kind and no apiVersion."""

    api_version: Literal["audit.k8s.io/v1"] = "audit.k8s.io/v1"
    level: Title
    audit_id: Raw = msgspec.field(name="auditID")
    stage: Stage
    request_uri: Raw = msgspec.field(name="requestURI")
    verb: str
    user: Raw
    impersonated_user: Raw | UnsetType = UNSET
    source_ips: Raw | UnsetType = msgspec.field(default=UNSET, name="sourceIPs")
    user_agent: Raw | UnsetType = UNSET
    object_ref: Raw | UnsetType = UNSET
    response_status: Raw | UnsetType = UNSET
    request_object: Raw | UnsetType = UNSET
    response_object: Raw | UnsetType = UNSET
    request_received_timestamp: Raw | UnsetType = UNSET
    stage_timestamp: Raw | UnsetType = UNSET
    annotations: Raw | UnsetType = UNSET


class _List(msgspec.Struct):
    kind: Literal["EventList"]
    api_version: Literal["audit.k8s.io/v1"] = msgspec.field(name="apiVersion")
    items: list[Known]


_LISTS = msgspec.json.Decoder(_List)


def decode_known(body: bytes) -> list[Known] | None:
    """The events of an EventList of kube-apiserver; None where it is something else, which may be an event list too."""
    try:
        events = _LISTS.decode(body).items
    except UNPARSED:
        return None
    return events if events and is_plain(body) and _comes_out_again(events[0], body) else None


def _comes_out_again(first: Known, body: bytes) -> bool:
    start, line = body.find(_ITEMS) + len(_ITEMS), encode_plain(first)
    return body.startswith(as_item(line), start) or body.startswith(line, start)


def facts_of_known(event: Known) -> tuple[str, str, Kind, Rest]:
    """As `facts_of` of an event of any form."""
    ref = event.object_ref
    kind, rest = request_of(event.verb, event.user, _NONE if ref is UNSET else ref, event.request_uri)
    return event.level, event.stage, kind, rest


def code_of_known(event: Known) -> int:
    """As `response_code` of an event of any form."""
    return code_of(_NONE if event.response_status is UNSET else event.response_status)


def has_excess_known(event: Known, level: Level) -> bool:
    """As `has_excess` of an event of any form."""
    if event.response_object is UNSET:
        return event.request_object is not UNSET and level < _REQUEST
    return level < _EVERYTHING


_ATTRIBUTES = {field.encode_name: field.name for field in msgspec.structs.fields(Known)}


def find_known(event: Known) -> Callable[[str], Raw | str | None]:
    """The fields of the event, as `dict.get` finds those of any form; words are decoded."""

    def find(name: str) -> Raw | str | None:
        value = getattr(event, _ATTRIBUTES[name])
        return None if value is UNSET else value

    return find


def cut_known(event: Known, captured: Level, decision: Decision) -> Known:
    """As `cut` of an event of any form; it is this event itself that is cut. Permanent, and nothing cut, where a body
    cannot be read."""
    if is_whole(captured, decision) and not has_excess_known(event, captured):
        return event
    request = UNSET if decision.level < Level.REQUEST else event.request_object
    response = UNSET if decision.level < Level.REQUEST_RESPONSE else event.response_object
    if decision.omit_managed_fields:
        request = request if request is UNSET else without_managed_fields(request)
        response = response if response is UNSET else without_managed_fields(response)
    event.level, event.request_object, event.response_object = decision.level.title, request, response
    return event

"""Redaction of events in the forms that a body is decoded to: one that surely holds no secret costs a few
comparisons."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from auditpipeline.core.event import Kind, Raw
from auditpipeline.core.known import Known
from auditpipeline.core.mend import BODIES
from auditpipeline.core.redaction.layers import size
from auditpipeline.core.redaction.redactor import ENCODED, NOTES, SAYS, Parts, Redactor, counted
from auditpipeline.core.redaction.url import CALM

_is_calm = CALM.fullmatch


def redacted(event: Raw, kind: Kind, redactor: Redactor) -> tuple[Raw, int]:
    """The fields of an event without secrets, and how many values were taken."""
    return redactor.event(event, kind)


def redacted_known(event: Known, kind: Kind, redactor: Redactor) -> tuple[Known, int]:
    """Likewise of an event as kube-apiserver writes it; it is this event itself that is changed."""
    if _is_calm(event.request_uri):
        shapes = redactor.known(kind) or redactor.shapes(kind)
        if not shapes.any:
            return event, 0
        status, notes, calm = event.response_status, event.annotations, redactor.calm
        # Most statuses, and most annotations, are one of a few: looking them up costs less than looking into them.
        if (status is UNSET or bytes(status) in calm or redactor.is_calm(status, SAYS)) and (
            notes is UNSET or bytes(notes) in calm or redactor.is_calm(notes, NOTES)
        ):
            if event.request_object is UNSET and event.response_object is UNSET:
                return event, 0
            if shapes.template:
                return event, _bodies(event, kind, redactor)
    taken = redactor.parts(kind, _parts(event))
    if taken is None:
        return event, 0
    new, values = taken
    if new.uri is not None:
        event.request_uri = new.uri
    event.response_status, event.annotations = _unset(new.status), _unset(new.annotations)
    event.request_object, event.response_object = _unset(new.request), _unset(new.response)
    return event, values


def size_of(event: Raw) -> int:
    """Bytes of the bodies of an event: what redaction may have to take apart."""
    return sum(size(event[name]) for name in BODIES if name in event)


def size_of_known(event: Known) -> int:
    """Likewise of an event as kube-apiserver writes it."""
    request, response = event.request_object, event.response_object
    if request is UNSET and response is UNSET:
        return 0
    return (0 if request is UNSET else size(request)) + (0 if response is UNSET else size(response))


def _bodies(event: Known, kind: Kind, redactor: Redactor) -> int:
    """Changes the bodies of the event; how many values were taken."""
    request, response = event.request_object, event.response_object
    taker = redactor.taker(sum(size(each) for each in (request, response) if each is not UNSET))
    if request is not UNSET and "request" not in redactor.stays:
        event.request_object = redactor.body(kind, request, kind[0] in ENCODED, taker)
    if response is not UNSET and "response" not in redactor.stays:
        event.response_object = redactor.body(kind, response, True, taker)
    if taker.values:
        event.annotations = counted(_given(event.annotations), taker.values)
    return taker.values


def _parts(event: Known) -> Parts:
    found = (event.response_status, event.annotations, event.request_object, event.response_object)
    return Parts(event.request_uri, *map(_given, found))


def _given(value: msgspec.Raw | UnsetType) -> msgspec.Raw | None:
    return None if value is UNSET else value


def _unset(value: msgspec.Raw | None) -> msgspec.Raw | UnsetType:
    return UNSET if value is None else value

"""Redaction, applied to an event: the one place that does it.

    requestURI, responseStatus, annotations, requestObject, responseObject      in: as they came; out: what is left

Each is looked into only if it may hold something, which costs an event without bodies a few comparisons. It never
raises, and what was redacted before comes out as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from auditpipeline.core.event import Kind, Raw, decode_event, encode_line, facts_of
from auditpipeline.core.redaction import names, places, rules, text, url
from auditpipeline.core.redaction.layers import (
    UNREADABLE,
    fields,
    is_object,
    is_text,
    made,
    masked,
    masked_whole,
    size,
    string,
)
from auditpipeline.core.redaction.model import ANNOTATION, DEFAULT, Redaction
from auditpipeline.core.redaction.patches import Body
from auditpipeline.core.redaction.places import PLACES, Annotation, Key, Objects, Part, Place, Secret
from auditpipeline.core.redaction.shapes import Anywhere, Fields, Nested, Shape
from auditpipeline.core.redaction.taking import Taker

_MOST = 4096
_Resource = tuple[str, str, str]
"""(group, resource, subresource)"""
_STATUS = re.compile(rb'\s*\{\s*"kind"\s*:\s*"Status"')
SAYS = re.compile(rb"message|details|\\")
NOTES = re.compile(rb"\.webhook\.admission|validation_failure|\\u")
_NULL = b"null"


class Parts(NamedTuple):
    """What of an event may hold secrets; None if it has no such field."""

    uri: msgspec.Raw | None
    status: msgspec.Raw | None = None
    annotations: msgspec.Raw | None = None
    request: msgspec.Raw | None = None
    response: msgspec.Raw | None = None


class Redacted(NamedTuple):
    """A line, and how many values were taken from it by this call (0: it is the same bytes)."""

    line: bytes
    values: int


class _Shapes(NamedTuple):
    """What is taken of objects of one resource: by the list (None: they hold no secret), and by each rule, with whether
    it hashes."""

    listed: Shape | None
    thorough: bool
    ruled: Sequence[tuple[Shape, bool]]

    @property
    def any(self) -> bool:
        """Whether anything is."""
        return self.listed is not None or bool(self.ruled)


def edition(listed: Sequence[Place] = PLACES) -> str:
    """The name of a list: another one takes something else."""
    said = repr((listed, names.WORDS, names.ENDS, names.WHOLE, names.PATHS, text.TOOLS, places.TEMPLATES))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


class Redactor:
    """Applies one redaction. `key` is what hashes are made with: without one, what should be hashed is masked."""

    def __init__(
        self, redaction: Redaction = DEFAULT, key: bytes | None = None, listed: Sequence[Place] = PLACES
    ) -> None:
        self.redaction = redaction
        self._key = key
        self._listed = tuple(listed) if redaction.default else ()
        self._parts = {place.part for place in self._listed if isinstance(place, Part)}
        self._notes = [place for place in self._listed if isinstance(place, Annotation)]
        keys = tuple((place.key, place.shape) for place in self._listed if isinstance(place, Key))
        self._anywhere = Anywhere(keys) if keys else None
        self._shapes: dict[_Resource, _Shapes] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing that it could take."""
        return not self._listed and not self.redaction.rules

    def line(self, line: bytes) -> Redacted:
        """An event as a line, without its line end, likewise out. Doing it twice changes nothing more. Permanent if
        the line is not an event that can be read."""
        event = decode_event(line)
        new, values = self.event(event, facts_of(event)[2])
        return Redacted(encode_line(new), values) if new is not event else Redacted(line, 0)

    def event(self, event: Raw, kind: Kind) -> tuple[Raw, int]:
        """The fields of an event, with the number of values that were taken; the same dict if nothing changes."""
        parts = Parts(*(event.get(name) for name in FIELDS))
        taken = self.parts(kind, parts) if may_hold(parts) else None
        if taken is None:
            return event, 0
        new, values = taken
        return {**event, **{name: each for name, each in zip(FIELDS, new, strict=True) if each is not None}}, values

    def parts(self, kind: Kind, parts: Parts) -> tuple[Parts, int] | None:
        """What is left of the parts, and the number of values that were taken; None if nothing changes."""
        _, group, resource, subresource = kind
        shapes = self._of(group, resource or "", subresource)
        taker = Taker(sum(size(each) for each in parts if each is not None), self.redaction.method, self._key)
        new = Parts(
            self._uri(parts.uri, taker),
            self._status(parts.status, shapes, taker),
            self._annotations(parts.annotations, shapes, taker),
            self._body(parts.request, shapes, taker),
            self._response(parts.response, shapes, taker),
        )
        if all(after is before for after, before in zip(new, parts, strict=True)):
            return None
        if not taker.values:
            return new, 0
        return new._replace(annotations=_counted(new.annotations, taker.values)), taker.values

    def _of(self, group: str, resource: str, subresource: str) -> _Shapes:
        at = (group, resource, subresource)
        if (found := self._shapes.get(at)) is None:
            if len(self._shapes) >= _MOST:
                self._shapes.clear()
            found = self._shapes[at] = self._made(group, resource, subresource)
        return found

    def _made(self, group: str, resource: str, subresource: str) -> _Shapes:
        ruled = [
            (Body(rules.shape_of(rule)), rule.action == "hash")
            for rule in self.redaction.rules
            if rules.selects(rule, group, resource, subresource)
        ]
        called = f"{resource}/{subresource}" if subresource else resource
        for place in self._listed:
            if isinstance(place, Objects) and called in place.resources:
                return _Shapes(Body(self._whole(place.shape)), True, ruled)
        template = self._anywhere if places.may_hold_template(group, resource) else None
        return _Shapes(Body(template) if template else None, False, ruled)

    def _whole(self, shape: Shape) -> Shape:
        """The shape of Secrets, with what goes of their annotations."""
        if not isinstance(shape, Secret):
            return shape
        return Secret(tuple((each.key, each.shape) for each in self._listed if isinstance(each, Key) and each.secrets))

    def _uri(self, uri: msgspec.Raw | None, taker: Taker) -> msgspec.Raw | None:
        if uri is None or "uri" not in self._parts or not url.SUSPECT.search(uri):
            return uri
        try:
            said = string(uri)
            new = url.uri(said, taker)
        except UNREADABLE:
            return masked_whole(taker)
        return uri if new == said else made(new)

    def _status(self, status: msgspec.Raw | None, shapes: _Shapes, taker: Taker) -> msgspec.Raw | None:
        if status is None or "status" not in self._parts or not shapes.any or not SAYS.search(status):
            return status
        return _SAID[shapes.thorough].apply(status, taker) if is_object(status) else status

    def _response(self, body: msgspec.Raw | None, shapes: _Shapes, taker: Taker) -> msgspec.Raw | None:
        """A response may be a Status, which says something of the object."""
        if body is None or not shapes.any or not _STATUS.match(body):
            return self._body(body, shapes, taker)
        return _SAID[shapes.thorough].apply(body, taker) if "status" in self._parts else body

    def _body(self, body: msgspec.Raw | None, shapes: _Shapes, taker: Taker) -> msgspec.Raw | None:
        if body is None or not shapes.any:
            return body
        if shapes.listed:
            body = shapes.listed.apply(body, taker)
        for shape, hashes in shapes.ruled:
            body = self._by_rule(shape, hashes, body, taker)
        return body

    def _by_rule(self, shape: Shape, hashes: bool, body: msgspec.Raw, taker: Taker) -> msgspec.Raw:
        own = Taker(size(body), "hash" if hashes else "mask", self._key)
        new = shape.apply(body, own)
        taker.values += own.values
        return new

    def _annotations(self, notes: msgspec.Raw | None, shapes: _Shapes, taker: Taker) -> msgspec.Raw | None:
        if notes is None or not shapes.any or not NOTES.search(notes) or not is_object(notes):
            return notes
        try:
            found = fields(notes)
        except UNREADABLE:
            return masked(notes, taker)
        changed = {name: self._annotation(name, each, shapes, taker) for name, each in found.items()}
        return notes if all(changed[name] is each for name, each in found.items()) else made(changed)

    def _annotation(self, name: str, value: msgspec.Raw, shapes: _Shapes, taker: Taker) -> msgspec.Raw:
        for place in self._notes:
            if name.startswith(place.begins) and is_text(value):
                if not place.within:
                    return Nested(place.shape).apply(value, taker) if shapes.thorough else value
                for shape in [shapes.listed, *(shape for shape, _ in shapes.ruled)]:
                    value = Nested(Fields({place.within: shape})).apply(value, taker) if shape else value
        return value


_SAID = {thorough: places.status(thorough) for thorough in (False, True)}
FIELDS = ("requestURI", "responseStatus", "annotations", "requestObject", "responseObject")
"""The fields of an event that are its `Parts`, in their order."""


def may_hold(parts: Parts) -> bool:
    """Whether any of the parts may hold something, at the least cost."""
    return (
        parts.request is not None
        or parts.response is not None
        or (parts.uri is not None and url.SUSPECT.search(parts.uri) is not None)
        or (parts.status is not None and SAYS.search(parts.status) is not None)
        or (parts.annotations is not None and NOTES.search(parts.annotations) is not None)
    )


def _counted(notes: msgspec.Raw | None, values: int) -> msgspec.Raw:
    """The annotations, which say how many values the event lost, now and before."""
    try:
        found = fields(notes) if notes is not None and is_object(notes) else {}
        before = int(string(found[ANNOTATION])) if ANNOTATION in found else 0
    except (*UNREADABLE, ValueError):
        found, before = {}, 0
    return made({**found, ANNOTATION: made(str(before + values))})

"""Redaction, applied to an event: the one place that does it.

    requestURI, responseStatus, annotations, requestObject, responseObject      in: as they came; out: what is left

Each is looked into only if it may hold something, which costs an event without bodies a few comparisons. It never
raises, and what was redacted before comes out as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import msgspec

from auditpipeline.core.event import Kind, Raw, decode_event, encode_line, encode_plain, facts_of
from auditpipeline.core.redaction import names, places, rules, text, url
from auditpipeline.core.redaction.layers import (
    UNREADABLE,
    Shape,
    fields,
    is_object,
    is_text,
    made,
    masked,
    masked_whole,
    says_twice,
    size,
    string,
)
from auditpipeline.core.redaction.model import ANNOTATION, DEFAULT, HASHED, MASK, Redaction, Stays
from auditpipeline.core.redaction.patches import Body
from auditpipeline.core.redaction.places import PLACES, Annotation, Key, Objects, Part, Place, Secret
from auditpipeline.core.redaction.shapes import Anywhere, Fields, Nested
from auditpipeline.core.redaction.sieve import KEYS, Sieve
from auditpipeline.core.redaction.taking import Taker

_MOST, _CALM_BYTES = 4096, 512
STATUS = re.compile(rb'\s*\{\s*"kind"\s*:\s*"Status"')
SAYS = re.compile(rb"message|details|\\")
"""What a status has that may repeat a value."""
NOTES = re.compile(rb"\.webhook\.admission|validation_failure|\\u")
"""What annotations have of which something may have to be taken."""


class Parts(NamedTuple):
    """What of an event may hold secrets; None if it has no such field."""

    uri: msgspec.Raw | None
    status: msgspec.Raw | None = None
    annotations: msgspec.Raw | None = None
    request: msgspec.Raw | None = None
    response: msgspec.Raw | None = None


class Redacted(NamedTuple):
    """A line, and how many values were taken from it by this call. Without any, it is the same bytes, unless it had to
    be mended, or somebody had written it by hand: then what is said twice may be gone, and blanks."""

    line: bytes
    values: int


class Ruled(NamedTuple):
    """What a rule takes, whether it hashes, and what tells quickly that it takes nothing."""

    shape: Shape
    hashes: bool
    needles: rules.Needles


class Shapes(NamedTuple):
    """Says what is taken of objects of one resource: by the list (None: they hold no secret), and by each rule; whether
    there is `any` of these. All that a `thorough` one says is secret. Those that may hold a
    `template` of kube-apiserver's own kinds can be looked at quickly."""

    any: bool
    listed: Shape | None
    ruled: Sequence[Ruled] = ()
    thorough: bool = False
    template: bool = False


_HASHED = re.compile(HASHED.encode())
_STRINGS = re.compile(rb'("(?:[^"\\]|\\.)*+")(\s*+:)?')
_NUMBER = re.compile(rb'"([0-9]{1,9})"')
_VERSION = 1
"""Counts changes of what is taken that none of the lists shows."""
ENCODED = ("create", "update")
"""Verbs whose requests kube-apiserver has encoded itself; those of a patch are as they came."""


def edition(listed: Sequence[Place] = PLACES) -> str:
    """The name of a list: another one takes something else."""
    lists = (places.TEMPLATES, places.TEMPLATE_GROUPS, places.OTHER_GROUPS, url.COMMANDS, url.SELECTORS, text.TOOLS)
    said = repr((_VERSION, listed, names.WORDS, names.ENDS, names.WHOLE, names.PATHS, names.HEADERS, *lists))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


class Redactor:
    """Applies one redaction. `key` is what hashes are made with: without one, what should be hashed is masked. `stays`
    are parts of events that it leaves alone."""

    def __init__(
        self,
        redaction: Redaction = DEFAULT,
        key: bytes | None = None,
        listed: Sequence[Place] = PLACES,
        stays: frozenset[Stays] = frozenset(),
    ) -> None:
        self.stays = stays
        self.redaction = redaction
        self._key = key
        self._listed = tuple(listed) if redaction.default else ()
        # What is said of an object, and patches of it, may have what the rules name, with the default list or without.
        beside = listed if (redaction.default or redaction.rules) and "beside" not in stays else ()
        self._parts = {
            place.part for place in beside if isinstance(place, Part) and (redaction.default or place.part == "status")
        }
        self._notes = [place for place in beside if isinstance(place, Annotation)]
        keys = tuple((place.key, place.shape) for place in self._listed if isinstance(place, Key))
        self._anywhere = Anywhere(keys) if keys else None
        self._sieve = self._made_sieve(self._anywhere) if self._anywhere else None
        self._masks = redaction.default and not redaction.hashes
        self._shapes: dict[Kind, Shapes] = {}
        self.known = self._shapes.get
        self.calm: set[bytes] = set()

    @property
    def idle(self) -> bool:
        """Whether there is nothing that it could take."""
        return not self._listed and not self.redaction.rules

    def line(self, line: bytes) -> Redacted:
        """An event as a line, without its line end, likewise out. Doing it twice changes nothing more. Permanent if
        the line is not an event that can be read. One that has to be mended is, even if nothing is taken."""
        event = decode_event(line)
        new, values = self.event(event, facts_of(event)[2], stored=True)
        return Redacted(line if new is event and _is_same(event, line) else encode_line(new), values)

    def event(self, event: Raw, kind: Kind, stored: bool = False) -> tuple[Raw, int]:
        """The fields of an event, with the number of values that were taken; the same dict if nothing changes."""
        parts = Parts(*(event.get(name) for name in FIELDS))
        taken = self.parts(kind, parts, stored)
        if taken is None:
            return event, 0
        new, values = taken
        return {**event, **{name: each for name, each in zip(FIELDS, new, strict=True) if each is not None}}, values

    def parts(self, kind: Kind, parts: Parts, stored: bool = False) -> tuple[Parts, int] | None:
        """Returns what is left of the parts, and the number of values that were taken; None if nothing changes. In what
        was `stored`, hashes may stand that another redaction made."""
        shapes = self.shapes(kind)
        taker = self.taker(sum(size(each) for each in parts if each is not None))
        given, parts = parts, Parts(*map(_unhashed, parts)) if stored and self._masks else parts
        uri, status = self._uri(parts.uri, taker), self._status(parts.status, shapes, taker)
        notes = self._annotations(parts.annotations, shapes, taker)
        known = shapes.template or not kind[1]
        request, response = parts.request, parts.response
        if "request" not in self.stays:
            request = self._body(request, shapes, taker, known and kind[0] in ENCODED)
        if "response" not in self.stays:
            response = self._response(response, shapes, taker, known)
        new = Parts(uri, status, notes, request, response)
        if all(map(is_, new, given)):
            return None
        if taker.values:
            new = new._replace(annotations=counted(notes, taker.values))
        return new, taker.values

    def taker(self, size: int) -> Taker:
        """What takes values from an event of that size, by the default list."""
        return Taker(size, self.redaction.method, self._key)

    def body(self, kind: Kind, body: msgspec.Raw, encoded: bool, taker: Taker) -> msgspec.Raw:
        """Returns what is left of a body that is no Status, itself if nothing is taken. `encoded` if kube-apiserver
        made it from what it had decoded."""
        return self._body(body, self.shapes(kind), taker, encoded) or body

    def is_calm(self, part: msgspec.Raw, says: re.Pattern[bytes]) -> bool:
        """Whether there is nothing in a status, or in annotations, that has to be looked into; remembered as `calm`."""
        data = bytes(part)
        if says.search(data):
            return False
        if len(data) <= _CALM_BYTES:
            if len(self.calm) >= _MOST:
                self.calm.clear()
            self.calm.add(data)
        return True

    def shapes(self, kind: Kind) -> Shapes:
        """Says what is taken of objects that a request is about."""
        if (found := self._shapes.get(kind)) is None:
            if len(self._shapes) >= _MOST:
                self._shapes.clear()
            _, group, resource, subresource = kind
            found = self._made(group, resource or "", subresource)
            if len(kind[0]) + len(group) + len(resource or "") + len(subresource) <= _CALM_BYTES:
                self._shapes[kind] = found
        return found

    def _made(self, group: str, resource: str, subresource: str) -> Shapes:
        ruled = [
            Ruled(Body(rules.shape_of(rule)), rule.action == "hash", rules.Needles.of(rule))
            for rule in self.redaction.rules
            if rules.selects(rule, group, resource, subresource)
        ]
        called = f"{resource}/{subresource}" if subresource else resource
        for place in self._listed:
            if isinstance(place, Objects) and called in place.resources:
                return Shapes(True, Body(self._whole(place.shape)), ruled, thorough=True)
        if self._anywhere and resource and places.may_hold_template(group, resource):
            return Shapes(True, Body(self._anywhere), ruled, template=places.is_own(group, resource))
        return Shapes(bool(ruled), None, ruled)

    def _made_sieve(self, anywhere: Anywhere) -> Sieve | None:
        """The quick way; there is none if it would not take what the list says."""
        shapes = {key.lower(): anywhere.member(key) for key, _ in anywhere.keys}
        if not all(key in shapes for key in KEYS):
            return None
        return Sieve({key: shape for key, shape in shapes.items() if key in KEYS or "/" in key})

    def _whole(self, shape: Shape) -> Shape:
        """The shape of Secrets, with what goes of their annotations."""
        if not isinstance(shape, Secret):
            return shape
        return Secret(tuple((each.key, each.shape) for each in self._listed if isinstance(each, Key) and each.secrets))

    def _uri(self, uri: msgspec.Raw | None, taker: Taker) -> msgspec.Raw | None:
        if uri is None or "uri" not in self._parts or url.CALM.fullmatch(uri):
            return uri
        try:
            said = string(uri)
            new = url.uri(said, taker)
        except UNREADABLE:
            return masked_whole(taker)
        return uri if new == said else made(new)

    def _status(self, status: msgspec.Raw | None, shapes: Shapes, taker: Taker) -> msgspec.Raw | None:
        if status is None or "status" not in self._parts or not shapes.any or not SAYS.search(status):
            return status
        return _SAID[shapes.thorough].apply(status, taker) if is_object(status) else status

    def _response(self, body: msgspec.Raw | None, shapes: Shapes, taker: Taker, encoded: bool) -> msgspec.Raw | None:
        """A response may be a Status, which says something of the object."""
        if body is None or not shapes.any or not STATUS.match(body):
            return self._body(body, shapes, taker, encoded)
        return _SAID[shapes.thorough].apply(body, taker) if "status" in self._parts else body

    def _body(self, body: msgspec.Raw | None, shapes: Shapes, taker: Taker, encoded: bool) -> msgspec.Raw | None:
        """Returns what is left of a body; `encoded` if kube-apiserver made it from what it had decoded."""
        if body is None or not shapes.any:
            return body
        left = self._quickly(body, shapes, taker, encoded) if shapes.listed else body
        ruled = [each for each in shapes.ruled if each.needles.may_be_in(body)]
        if left is None or ruled:
            taker.twice = not encoded and says_twice(body)
        if left is None:
            left = shapes.listed.apply(body, taker) if shapes.listed else body
        for each in ruled:
            left = self._by_rule(each, left, taker)
        return left

    def _quickly(self, body: msgspec.Raw, shapes: Shapes, taker: Taker, encoded: bool) -> msgspec.Raw | None:
        """Returns what is left of an object of kube-apiserver's own kinds, or of a patch of one; None if the quick way
        does not lead there."""
        if self._sieve is None or not shapes.template:
            return None
        if encoded:
            # What it looked at in vain does not count: the slow way has to look at all of it.
            own = self.taker(size(body))
            left = self._sieve.cut(body, own)
            taker.values += 0 if left is None else own.values
            return left
        return body if self._sieve.is_clean(body, taker) else None

    def _by_rule(self, rule: Ruled, body: msgspec.Raw, taker: Taker) -> msgspec.Raw:
        own = Taker(size(body), "hash" if rule.hashes else "mask", self._key)
        own.twice = taker.twice
        new = rule.shape.apply(body, own)
        taker.values += own.values
        return new

    def _annotations(self, notes: msgspec.Raw | None, shapes: Shapes, taker: Taker) -> msgspec.Raw | None:
        if notes is None or not shapes.any or not NOTES.search(notes) or not is_object(notes):
            return notes
        try:
            found = fields(notes)
        except UNREADABLE:
            return masked(notes, taker)
        changed = {name: self._annotation(name, each, shapes, taker) for name, each in found.items()}
        return notes if all(changed[name] is each for name, each in found.items()) else made(changed)

    def _annotation(self, name: str, value: msgspec.Raw, shapes: Shapes, taker: Taker) -> msgspec.Raw:
        for place in self._notes:
            if name.startswith(place.begins) and is_text(value):
                if not place.within:
                    return Nested(place.shape).apply(value, taker) if shapes.thorough else value
                if shapes.listed:
                    value = Nested(Fields({place.within: shapes.listed})).apply(value, taker)
                for each in shapes.ruled:
                    patch = each._replace(shape=Nested(Fields({place.within: each.shape})))
                    value = self._by_rule(patch, value, taker)
        return value


_SAID = {thorough: places.status(thorough) for thorough in (False, True)}
FIELDS = ("requestURI", "responseStatus", "annotations", "requestObject", "responseObject")
"""The fields of an event that are its `Parts`, in their order."""


def _is_same(event: Raw, line: bytes) -> bool:
    """Whether the fields are all that the line has: that it was not mended, and says nothing twice."""
    try:
        return encode_plain(event) in (line, msgspec.json.format(line, indent=-1))
    except UNREADABLE:
        return False


def _unhashed(part: msgspec.Raw | None) -> msgspec.Raw | None:
    """The part with masks for hashes, which another redaction made: in a text, not every one is found again."""
    if part is None or not _HASHED.search(part):
        return part
    return msgspec.Raw(_STRINGS.sub(_without_hashes, bytes(part)))


def _without_hashes(found: re.Match[bytes]) -> bytes:
    """A string without hashes in it; a key as it is."""
    return found[0] if found[2] else _HASHED.sub(MASK.encode(), found[1])


def counted(notes: msgspec.Raw | None, values: int) -> msgspec.Raw:
    """The annotations, which say how many values the event lost, now and before."""
    try:
        found = fields(notes) if notes is not None and is_object(notes) else {}
    except UNREADABLE:
        found = {}
    before = _NUMBER.fullmatch(found[ANNOTATION]) if ANNOTATION in found else None
    return made({**found, ANNOTATION: made(str(values + (int(before[1]) if before else 0)))})

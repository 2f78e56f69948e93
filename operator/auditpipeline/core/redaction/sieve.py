"""A quick way through objects that hold a Pod template: what has to be taken is found, and cut out of the bytes.

Taking an object apart level by level costs many times as much. Kubernetes' own kinds have what counts at places that
are known; only the way to these is decoded. What was found harmless once (an environment, a command line, an object as
it was applied) is remembered, since Pods of one template say the same again and again; so is what was left of others.

    decoded     env    [{"name":"DB_PASSWORD","value":"x"}]            seen once
    the bytes   ..."env":[{"name":"DB_PASSWORD","value":"x"}]...       there once: cut

This is for what kube-apiserver has encoded itself: it knows no other places, and writes no key in another way. If a
count says otherwise, the object has to be taken apart.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from auditpipeline.core.redaction.layers import UNREADABLE, Raw, Shape, encode, items
from auditpipeline.core.redaction.taking import Taker

ENV, COMMAND, ARGS, HEADERS = "env", "command", "args", "httpheaders"
KEYS = (ENV, COMMAND, ARGS, HEADERS)
"""The keys of Pod templates that count, in small letters."""
_NEEDLES = tuple(f'"{key}"'.encode() for key in KEYS)
_MOST_BYTES, _LONGEST = 4 * 2**20, 16 * 2**10
"""Bytes of what is remembered, and the bytes that one of it has at most."""
_MOST_CUTS = 64


class _Exec(msgspec.Struct, gc=False):
    command: Raw | UnsetType = UNSET


class _Get(msgspec.Struct, gc=False, rename="camel"):
    http_headers: Raw | UnsetType = UNSET


class _Action(msgspec.Struct, gc=False, rename="camel"):
    exec: _Exec | None = None
    http_get: _Get | None = None


class _Lifecycle(msgspec.Struct, gc=False, rename="camel"):
    post_start: _Action | None = None
    pre_stop: _Action | None = None


class _Container(msgspec.Struct, gc=False, rename="camel"):
    env: Raw | UnsetType = UNSET
    command: Raw | UnsetType = UNSET
    args: Raw | UnsetType = UNSET
    liveness_probe: _Action | None = None
    readiness_probe: _Action | None = None
    startup_probe: _Action | None = None
    lifecycle: _Lifecycle | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    containers: tuple[_Container, ...] | None = None
    init_containers: tuple[_Container, ...] | None = None
    ephemeral_containers: tuple[_Container, ...] | None = None
    template: _Object | None = None
    job_template: _Object | None = None


class _Row(msgspec.Struct, gc=False):
    object: _Object | None = None


class _Metadata(msgspec.Struct, gc=False):
    annotations: dict[str, Raw] | None = None


class _Object(msgspec.Struct, gc=False, rename="camel"):
    metadata: _Metadata | None = None
    spec: _Spec | None = None
    template: _Object | None = None
    data: _Object | None = None
    items: tuple[_Object, ...] | None = None
    rows: tuple[_Row, ...] | None = None
    ephemeral_containers: tuple[_Container, ...] | None = None


_decode = msgspec.json.Decoder(_Object).decode


class _Cut(NamedTuple):
    """What stands for some bytes, how many values that takes, and how often they have to be there."""

    new: bytes
    values: int
    times: int = 1


_Cuts = dict[bytes, _Cut]


class Sieve:
    """Cuts values out of objects. `shapes` are the shapes of what has one of the `KEYS`, and of annotations.

    Remembers what was harmless and what was left, and no value that has to be taken: of that, a digest with a key that
    nobody else has.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._annotations = shapes.keys() - set(KEYS)
        self._quoted = [f'"{key}"'.encode() for key in self._annotations]
        self._harmless: dict[str, set[bytes]] = {key: set() for key in shapes}
        self._lines: set[bytes] = set()
        self._left: dict[bytes, _Cut] = {}
        self._room = _MOST_BYTES
        self._key = secrets.token_bytes(32)

    def cut(self, body: Raw, taker: Taker) -> Raw | None:
        """Returns what is left of an object that kube-apiserver encoded: itself if nothing has to be taken. None if it
        has to be taken apart."""
        cuts = self._cuts(body, taker)
        if not cuts:
            return body if cuts is not None else None
        if len(cuts) > _MOST_CUTS:
            # Each goes over all of the bytes: taking very many of them is quicker level by level.
            return None
        data = bytes(body)
        for old, each in cuts.items():
            parts = data.split(old)
            if len(parts) != each.times + 1:
                return None
            data = each.new.join(parts)
        taker.values += sum(each.values * each.times for each in cuts.values())
        return Raw(data)

    def is_clean(self, body: Raw, taker: Taker) -> bool:
        """Whether nothing has to be taken of what somebody may have written by hand, such as a patch. Each of the keys
        that count has to be where it is known."""
        data = bytes(body).lower()
        if data[:1] != b"{" or b"\\u" in data or b"\\/" in data or any(quoted in data for quoted in self._quoted):
            return False
        seen = sum(map(data.count, _NEEDLES))
        if not seen:
            return True
        try:
            found = sum(_keys(each) for inner in _objects(_decode(body)) for each in _containers(inner))
        except UNREADABLE:
            return False
        return found == seen and self._cuts(body, taker) == {}

    def _cuts(self, body: Raw, taker: Taker) -> _Cuts | None:
        """What has to be cut; None if it cannot be decoded."""
        cuts = _Cuts()
        try:
            for found in _objects(_decode(body)):
                notes = found.metadata.annotations if found.metadata else None
                if notes and not self._annotations.isdisjoint(notes):
                    for key in self._annotations & notes.keys():
                        self._part(key, notes[key], cuts, taker)
                for each in _containers(found):
                    self._container(each, cuts, taker)
        except (*UNREADABLE, ValueError):
            return None
        return cuts

    def _container(self, found: _Container, cuts: _Cuts, taker: Taker) -> None:
        if found.env is not UNSET:
            self._part(ENV, found.env, cuts, taker)
        if found.args is UNSET:
            if found.command is not UNSET:
                self._part(COMMAND, found.command, cuts, taker)
        elif found.command is UNSET:
            self._part(ARGS, found.args, cuts, taker)
        else:
            self._line(found.command, found.args, cuts, taker)
        if found.liveness_probe or found.readiness_probe or found.startup_probe or found.lifecycle:
            for action in _actions(found):
                if action.exec and action.exec.command is not UNSET:
                    self._part(COMMAND, action.exec.command, cuts, taker)
                if action.http_get and action.http_get.http_headers is not UNSET:
                    self._part(HEADERS, action.http_get.http_headers, cuts, taker)

    def _part(self, key: str, value: Raw, cuts: _Cuts, taker: Taker) -> None:
        """Looks at what has one of the keys."""
        old, harmless = bytes(value), self._harmless[key]
        if old not in harmless:
            shape = self._shapes[key]
            cut = self._cut(key, old, taker, lambda own: bytes(shape.apply(value, own)))
            if cut.new == old:
                self._remember(harmless, old)
            else:
                _add(cuts, old, cut)

    def _line(self, command: Raw, args: Raw, cuts: _Cuts, taker: Taker) -> None:
        """Looks at a command and its arguments: the program stands in the one, its options in the other."""
        halves = bytes(command), bytes(args)
        whole = b"\n".join(halves)
        if whole in self._lines:
            return
        line, middle = [*items(command), *items(args)], len(items(command))
        cut = self._cut(ARGS, b"[" + b",".join(map(bytes, line)) + b"]", taker, lambda own: self._of_line(line, own))
        new = items(cut.new)
        if len(new) != len(line):
            raise ValueError("a command line that cannot be looked into")
        changed = False
        for old, half, before in zip(halves, (new[:middle], new[middle:]), (line[:middle], line[middle:]), strict=True):
            values = sum(bytes(one) != bytes(other) for one, other in zip(half, before, strict=True))
            if values:
                changed = True
                _add(cuts, old, _Cut(encode(half), values))
        if not changed:
            self._remember(self._lines, whole)

    def _of_line(self, line: list[Raw], taker: Taker) -> bytes:
        return bytes(self._shapes[ARGS].apply(Raw(encode(line)), taker))

    def _cut(self, key: str, old: bytes, taker: Taker, make: Callable[[Taker], bytes]) -> _Cut:
        """What stands for these bytes at a key, as it was made before or as `make` makes it. What went whole because
        the rest of its event was too much is not an answer for another event."""
        name = hashlib.blake2b(key.encode() + b"\n" + old, digest_size=16, key=self._key).digest()
        if (cut := self._left.get(name)) is None:
            own = taker.another(len(old))
            cut = _Cut(make(own), own.values)
            if cut.new != old and len(cut.new) <= _LONGEST and taker.look(0):
                self._make_room(len(cut.new))
                self._left[name] = cut
        return cut

    def _remember(self, known: set[bytes], each: bytes) -> None:
        if len(each) <= _LONGEST:
            self._make_room(len(each))
            known.add(each)

    def _make_room(self, size: int) -> None:
        self._room -= size + _LONGEST // 128
        if self._room < 0:
            for known in (self._lines, *self._harmless.values()):
                known.clear()
            self._left.clear()
            self._room = _MOST_BYTES


def _add(cuts: _Cuts, old: bytes, cut: _Cut) -> None:
    """The same bytes at another place may have to become something else: then nobody can cut blindly."""
    before = cuts.get(old)
    if before and before.new != cut.new:
        raise ValueError("the same bytes mean two things")
    cuts[old] = before._replace(times=before.times + 1) if before else cut


def _objects(found: _Object | None) -> Iterator[_Object]:
    """The object, and those in it."""
    while found is not None:
        yield found
        for each in found.items or ():
            yield from _objects(each)
        for row in found.rows or ():
            yield from _objects(row.object)
        inner = found.template or found.data
        if inner is None and found.spec is not None:
            inner = found.spec.template or found.spec.job_template
        found = inner


def _containers(found: _Object) -> tuple[_Container, ...]:
    """The containers of the object itself."""
    own, spec = found.ephemeral_containers or (), found.spec
    if spec is None:
        return own
    return own + (spec.containers or ()) + (spec.init_containers or ()) + (spec.ephemeral_containers or ())


def _actions(found: _Container) -> Iterator[_Action]:
    """What kubelet does to a container."""
    yield from filter(None, (found.liveness_probe, found.readiness_probe, found.startup_probe))
    if found.lifecycle:
        yield from filter(None, (found.lifecycle.post_start, found.lifecycle.pre_stop))


def _keys(found: _Container) -> int:
    """How many of the keys that count are in a container."""
    own = sum(each is not UNSET for each in (found.env, found.command, found.args))
    for action in _actions(found):
        own += action.exec is not None and action.exec.command is not UNSET
        own += action.http_get is not None and action.http_get.http_headers is not UNSET
    return own

"""A quick way through objects that hold a Pod template: what has to be taken is found, and cut out of the bytes.

Taking an object apart level by level costs many times as much. Kubernetes' own kinds have what counts at places that
are known; only these are decoded. What was found harmless once (a variable, a command line) is remembered, since Pods
of one template say the same again and again; so is what is left of an object as it was applied.

    decoded      env: [{"name":"DB_PASSWORD","value":"x"}]          seen once
    the bytes    ...{"name":"DB_PASSWORD","value":"x"}...           there once: cut
    decoded      env: [{"name":"DB_PASSWORD","value":"REDACTED"}]   nothing is left to be taken

This is for what kube-apiserver has encoded itself: it knows no other places, and writes nothing in another way. If a
count or the last look says otherwise, the object has to be taken apart.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from auditpipeline.core.redaction.layers import UNREADABLE, Raw, encode
from auditpipeline.core.redaction.taking import Taker
from auditpipeline.core.redaction.text import arguments, value_of

_MOST, _LONGEST = 10_000, 512
"""Variables and command lines that are remembered, and the characters that one of them has at most."""
_MOST_OBJECTS, _LONGEST_OBJECT = 500, 16 * 2**10
"""Likewise for objects as they were applied, in bytes."""
_KEYS = (b'"env"', b'"args"', b'"command"', b'"httpheaders"')
_HTML = re.compile(b"[<>&]")


class _Pair(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    value: str = ""


class _Exec(msgspec.Struct, gc=False):
    command: tuple[str, ...] | None = None


class _Get(msgspec.Struct, gc=False, rename="camel"):
    http_headers: tuple[_Pair, ...] | None = None


class _Action(msgspec.Struct, gc=False, rename="camel"):
    exec: _Exec | None = None
    http_get: _Get | None = None


class _Lifecycle(msgspec.Struct, gc=False, rename="camel"):
    post_start: _Action | None = None
    pre_stop: _Action | None = None


class _Container(msgspec.Struct, gc=False, rename="camel"):
    env: tuple[_Pair, ...] | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
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
    annotations: dict[str, msgspec.Raw] | None = None


class _Object(msgspec.Struct, gc=False, rename="camel"):
    metadata: _Metadata | None = None
    spec: _Spec | None = None
    template: _Object | None = None
    data: _Object | None = None
    items: tuple[_Object, ...] | None = None
    rows: tuple[_Row, ...] | None = None
    ephemeral_containers: tuple[_Container, ...] | None = None


_decode = msgspec.json.Decoder(_Object).decode
T = TypeVar("T")
Nested = Callable[[Raw, Taker], Raw]


class _Cut(NamedTuple):
    """What stands for some bytes, how many values that takes, and how often they have to be there."""

    new: bytes
    values: int
    times: int = 1


class Sieve:
    """Cuts values out of objects. Remembers what was harmless and what was left, and no value that has to be taken: of
    that, a digest with a key that nobody else has.

    `applied` is the annotation with an object as it was applied, of which `nested` takes what has to be taken;
    `others` are annotations of objects that have to be taken apart.
    """

    def __init__(self, applied: str, nested: Nested, others: Collection[str] = ()) -> None:
        self._applied = applied
        self._nested = nested
        self._annotations = frozenset({applied, *others})
        self._pairs: set[_Pair] = set()
        self._headers: set[_Pair] = set()
        self._lines: set[tuple[str, ...]] = set()
        self._objects: set[bytes] = set()
        self._left: dict[bytes, _Cut] = {}
        self._key = secrets.token_bytes(32)

    def cut(self, body: Raw, taker: Taker) -> Raw | None:
        """What is left of an object that kube-apiserver encoded: itself if nothing has to be taken. None if it has to
        be taken apart."""
        cuts = self._cuts(body, taker)
        if not cuts:
            return body if cuts is not None else None
        data = bytes(body)
        for old, each in cuts.items():
            parts = data.split(old)
            if len(parts) != each.times + 1:
                return None
            data = each.new.join(parts)
        new = Raw(data)
        if self._cuts(new, taker) != {}:
            return None
        taker.values += sum(each.values * each.times for each in cuts.values())
        return new

    def is_clean(self, body: Raw, taker: Taker) -> bool:
        """Whether nothing has to be taken of what somebody may have written by hand: a patch. Each of the keys that
        count has to be where it is known."""
        data = bytes(body).lower()
        if b"\\u" in data or any(f'"{key}"'.encode() in data for key in self._annotations):
            return False
        try:
            found = list(_objects(_decode(body)))
        except UNREADABLE:
            return False
        seen = sum(map(_keys, (each for inner in found for each in _containers(inner))))
        return sum(map(data.count, _KEYS)) == seen and self._cuts(body, taker) == {}

    def _cuts(self, body: Raw, taker: Taker) -> dict[bytes, _Cut] | None:
        """What has to be cut; None if something stands at a place where nobody can tell."""
        cuts: dict[bytes, _Cut] = {}
        try:
            for found in _objects(_decode(body)):
                notes = found.metadata.annotations if found.metadata else None
                if notes and not self._annotations.isdisjoint(notes) and not self._note(notes, cuts, taker):
                    return None
                for each in _containers(found):
                    self._container(each, cuts, taker)
        except UNREADABLE:
            return None
        return cuts

    def _note(self, notes: dict[str, Raw], cuts: dict[bytes, _Cut], taker: Taker) -> bool:
        """Looks at an object as it was applied; False if there is another annotation to look at."""
        if self._applied not in notes or not self._annotations.isdisjoint(notes.keys() - {self._applied}):
            return False
        text = bytes(notes[self._applied])
        if text not in self._objects:
            self._cut(text, self._objects, text, cuts, taker, lambda own: bytes(self._nested(Raw(text), own)))
        return True

    def _container(self, found: _Container, cuts: dict[bytes, _Cut], taker: Taker) -> None:
        if found.env and not self._pairs.issuperset(found.env):
            self._of_pairs(found.env, cuts, taker, header=False)
        if found.command or found.args:
            line = (found.command or ()) + (found.args or ())
            if line not in self._lines:
                self._of_line(line, len(found.command or ()), cuts, taker)
        if found.liveness_probe or found.readiness_probe or found.startup_probe or found.lifecycle:
            for action in _actions(found):
                self._action(action, cuts, taker)

    def _action(self, action: _Action, cuts: dict[bytes, _Cut], taker: Taker) -> None:
        command = action.exec.command if action.exec else None
        if command and command not in self._lines:
            self._of_line(command, len(command), cuts, taker)
        headers = action.http_get.http_headers if action.http_get else None
        if headers and not self._headers.issuperset(headers):
            self._of_pairs(headers, cuts, taker, header=True)

    def _of_pairs(self, pairs: tuple[_Pair, ...], cuts: dict[bytes, _Cut], taker: Taker, header: bool) -> None:
        known = self._headers if header else self._pairs
        for pair in pairs:
            if pair not in known:
                old = _encoded({"name": pair.name, "value": pair.value})
                self._cut(old, known, pair, cuts, taker, lambda own, pair=pair: _of_pair(pair, own, header))

    def _of_line(self, line: tuple[str, ...], middle: int, cuts: dict[bytes, _Cut], taker: Taker) -> None:
        """The command, which ends at the `middle`, and the arguments behind it."""
        command, args = line[:middle], line[middle:]
        if command and args:
            new = arguments(line, taker.another(sum(map(len, line))).take)
            known = new == list(line)
            halves = (("command", command, new[:middle]), ("args", args, new[middle:]))
            for key, old, half in halves:
                if list(old) != half:
                    values = sum(before != after for before, after in zip(old, half, strict=True))
                    _add(cuts, _list(key, old), _Cut(_list(key, half), values))
            if known:
                self._remember(self._lines, line, sum(map(len, line)))
            return
        key = "command" if command else "args"
        self._cut(_list(key, line), self._lines, line, cuts, taker, lambda own: _list(key, arguments(line, own.take)))

    def _cut(
        self, old: bytes, known: set[T], each: T, cuts: dict[bytes, _Cut], taker: Taker, make: Callable[[Taker], bytes]
    ) -> None:
        """Notes what stands for `old`, as it was made before, or as `make` makes it; or that it is harmless."""
        name = hashlib.blake2b(old, digest_size=16, key=self._key).digest()
        cut = self._left.get(name)
        if cut is None:
            own = taker.another(len(old))
            cut = _Cut(make(own), own.values)
            if cut.new == old:
                self._remember(known, each, len(old))
                return
            if len(old) <= _LONGEST_OBJECT:
                if len(self._left) >= _MOST:
                    self._left.clear()
                self._left[name] = cut
        _add(cuts, old, cut)

    def _remember(self, known: set[T], each: T, size: int) -> None:
        objects = isinstance(each, bytes)
        if size <= (_LONGEST_OBJECT if objects else _LONGEST):
            if len(known) >= (_MOST_OBJECTS if objects else _MOST):
                known.clear()
            known.add(each)


def _of_pair(pair: _Pair, taker: Taker, header: bool) -> bytes:
    return _encoded({"name": pair.name, "value": value_of(pair.name, pair.value, taker, header)})


def _add(cuts: dict[bytes, _Cut], old: bytes, cut: _Cut) -> None:
    before = cuts.get(old)
    cuts[old] = before._replace(times=before.times + 1) if before else cut


def _list(key: str, values: Sequence[str]) -> bytes:
    """A command line with its key, as kube-apiserver writes it."""
    return b'"%b":%b' % (key.encode(), _encoded(values))


def _encoded(value: object) -> bytes:
    """JSON as Go writes it, which escapes what HTML would be made of."""
    data = encode(value)
    if not _HTML.search(data):
        return data
    return data.replace(b"<", rb"\u003c").replace(b">", rb"\u003e").replace(b"&", rb"\u0026")


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
    own = sum(each is not None for each in (found.env, found.command, found.args))
    for action in _actions(found):
        own += action.exec is not None and action.exec.command is not None
        own += action.http_get is not None and action.http_get.http_headers is not None
    return own

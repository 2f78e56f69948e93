"""Shapes of JSON: what of a value is taken, and what of a value further in, to which a JSON pointer leads.

    KEEP                        nothing                Env, Arguments   a container's, by name and by form
    Mask                        all texts and numbers  Message          what a server says of a value
    Fields(known, rest)         by key                 Nested           JSON in a text
    Each(inner)                 of each element        Anywhere(keys)   by key, at any depth

A shape never raises: what cannot be read, is too deep, or is nested too often goes whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from auditpipeline.core.redaction import messages
from auditpipeline.core.redaction.layers import (
    UNREADABLE,
    Raw,
    Shape,
    document,
    fields,
    is_array,
    is_object,
    is_text,
    items,
    made,
    masked,
    masked_whole,
    over_fields,
    over_items,
    over_members,
    rebuilt,
    says_twice,
    size,
    string,
)
from auditpipeline.core.redaction.names import is_secret_header, is_secret_name
from auditpipeline.core.redaction.taking import Taker
from auditpipeline.core.redaction.text import arguments, hinted, value_of


class Selective:
    """A shape that may take something."""

    @property
    def keeps(self) -> bool:
        """Not always."""
        return False


@dataclass(frozen=True)
class Keep:
    """Nothing is taken."""

    @property
    def keeps(self) -> bool:
        """Always."""
        return True

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The same value."""
        return value

    def member(self, key: str) -> Shape:
        """Nothing further in, either."""
        return self


KEEP = Keep()


@dataclass(frozen=True)
class Mask(Selective):
    """All texts and numbers are taken; with `in_base64`, texts are base64."""

    in_base64: bool = False

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The same shape without its values."""
        return masked(value, taker, self.in_base64)

    def member(self, key: str) -> Shape:
        """The same further in."""
        return self


MASK = Mask()


@dataclass(frozen=True)
class Word(Selective):
    """One of a few words: an enumeration of Kubernetes. Anything else is taken."""

    words: tuple[str, ...] = ()

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The word, or what stands for it."""
        try:
            said = string(value) if is_text(value) else ""
        except UNREADABLE:
            return masked_whole(taker)
        return value if said in self.words else masked(value, taker)

    def member(self, key: str) -> Shape:
        """A word has nothing in it."""
        return MASK


@dataclass(frozen=True)
class Fields(Selective):
    """An object, by its keys, in whatever case somebody wrote them; what has another key is of the shape `rest`. A
    list is looked through."""

    known: Mapping[str, Shape]
    rest: Shape = KEEP
    _folded: Mapping[str, Shape] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_folded", {key.lower(): shape for key, shape in self.known.items()})

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The object with each member changed by its own shape."""
        if is_object(value):
            return over_members(value, taker, self.member)
        if is_array(value):
            return over_items(value, taker, lambda each: self.apply(each, taker))
        return self.rest.apply(value, taker)

    def member(self, key: str) -> Shape:
        """By the key; an index leads to an element of a list."""
        return self.known.get(key) or (self._folded.get(key.lower()) or self.rest)


@dataclass(frozen=True)
class Each(Selective):
    """A list whose elements are of one shape."""

    inner: Shape

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The list with each element changed."""
        if is_array(value):
            return over_items(value, taker, lambda each: self.inner.apply(each, taker))
        return self.inner.apply(value, taker)

    def member(self, key: str) -> Shape:
        """Whatever the index is."""
        return self.inner


@dataclass(frozen=True)
class Nested(Selective):
    """JSON in a text. A text that is not JSON goes whole."""

    inner: Shape

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The text with what is in it changed."""
        twice = taker.twice
        if not is_text(value) or not taker.unwrap():
            return masked(value, taker)
        try:
            said = string(value)
            found = document(said)
            taker.twice = says_twice(found)
            new = self.inner.apply(found, taker)
            return value if new is found else made(bytes(new).decode())
        except UNREADABLE:
            return masked(value, taker)
        finally:
            taker.wrap()
            taker.twice = twice

    def member(self, key: str) -> Shape:
        """A text has nothing that a pointer leads to."""
        return MASK


@dataclass(frozen=True)
class Message(Selective):
    """What a server says. It may repeat what it was sent; `thorough`: of what it was sent, everything is secret."""

    thorough: bool = False

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The message without the values in it."""
        if not is_text(value):
            return masked(value, taker)
        try:
            said = string(value)
            if not taker.look(len(said)):
                return masked(value, taker)
            new = messages.message(said, taker.take, self.thorough)
        except UNREADABLE:
            return masked_whole(taker)
        return value if new == said else made(new)

    def member(self, key: str) -> Shape:
        """A text has nothing that a pointer leads to."""
        return MASK


@dataclass(frozen=True)
class Variable(Selective):
    """One environment variable: `{"name": ..., "value": ...}`, or one `header`. `valueFrom` only refers to
    something."""

    header: bool = False

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The variable, without its value if its name is that of a secret, or with what its text lets be seen."""
        if not is_object(value):
            return value
        try:
            old = fields(value)
            name = next((string(old[key]) for key in old if key.lower() == "name"), "")
            new = {
                key: valued(name, each, taker, self.header) if key.lower() == "value" else each
                for key, each in old.items()
            }
            return rebuilt(value, old, new, taker)
        except UNREADABLE:
            return masked_whole(taker)

    def member(self, key: str) -> Shape:
        """Alone, a value has no name that would say what it is."""
        return MASK if key.lower() == "value" else KEEP


@dataclass(frozen=True)
class Environment(Selective):
    """The environment of a container: a list of variables, or an object of them, as some custom resources have it; or
    `headers`, likewise."""

    headers: bool = False

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """Each variable by its name."""
        if is_array(value):
            return over_items(value, taker, lambda each: Variable(self.headers).apply(each, taker))
        if is_object(value):
            return over_fields(value, taker, lambda name, each: self._named(name, each, taker))
        return value

    def _named(self, name: str, value: Raw, taker: Taker) -> Raw:
        if not is_object(value):
            return valued(name, value, taker, self.headers)
        return over_fields(value, taker, lambda key, each: valued(name, each, taker) if key == "value" else each)

    def member(self, key: str) -> Shape:
        """A variable of the list, or one that has its name as the key."""
        return Variable(self.headers) if key.isdigit() or key == "-" else MASK if is_secret_name(key) else KEEP


@dataclass(frozen=True)
class Arguments(Selective):
    """A command and its arguments: a list of texts, or one text."""

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The arguments without credentials."""
        try:
            if is_text(value):
                return valued("", value, taker)
            if not is_array(value):
                return value
            old = items(value)
            said = [string(each) if is_text(each) else "" for each in old]
            if not taker.look(sum(len(each) for each in said if hinted(each))):
                return masked(value, taker)
            pairs = zip(old, said, arguments(said, taker.take), strict=True)
            return rebuilt(
                value, old, [each if before == after else made(after) for each, before, after in pairs], taker
            )
        except UNREADABLE:
            return masked_whole(taker)

    def member(self, key: str) -> Shape:
        """One argument, of which it is not known what stands before it."""
        return ARGUMENT


@dataclass(frozen=True)
class Argument(Selective):
    """One argument alone. A word that is not an option may be the value of one."""

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The option without its value; anything else is taken."""
        try:
            said = string(value) if is_text(value) else ""
            if not said.startswith("-") or not taker.look(len(said)):
                return masked(value, taker)
            new = arguments([said], taker.take)[0]
            return value if new == said else made(new)
        except UNREADABLE:
            return masked_whole(taker)

    def member(self, key: str) -> Shape:
        """A text has nothing that a pointer leads to."""
        return MASK


ARGUMENT = Argument()


@dataclass(frozen=True)
class Again(Keep):
    """Stands for JSON in a text that is of the shape in which this stands."""


AGAIN = Again()


def valued(name: str, value: Raw, taker: Taker, header: bool = False) -> Raw:
    """Returns what is left of a value with that name; the same object if all of it."""
    if not is_text(value):
        secret = is_secret_header(name) if header else is_secret_name(name)
        return masked(value, taker) if secret else value
    said = string(value)
    new = value_of(name, said, taker, header)
    return value if new == said else made(new)


_ESCAPE = re.compile(rb"\\u(?!003[ce]|0026|2028|2029)|\\/")
"""A key may be spelt with escapes; those of kube-apiserver's own encoder are no part of one."""
_TINY = 8


@dataclass(frozen=True)
class Anywhere(Selective):
    """Values by their keys, at any depth, in whatever case. A JSON pointer leads on until it meets one of the keys."""

    keys: tuple[tuple[str, Shape], ...]
    _known: Mapping[str, Shape] = field(init=False, repr=False, compare=False)
    _needles: tuple[bytes, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = {key.lower(): Nested(self) if shape is AGAIN else shape for key, shape in self.keys}
        object.__setattr__(self, "_known", known)
        object.__setattr__(self, "_needles", tuple(f'"{key}"'.encode() for key in known))

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The value with what has one of the keys changed."""
        if is_object(value):
            return self._object(value, taker) if self._may(value) else value
        if is_array(value) and self._may(value):
            return over_items(value, taker, lambda each: self.apply(each, taker))
        return value

    def _may(self, value: Raw) -> bool:
        """Whether one of the keys may be in it."""
        if size(value) < _TINY:
            return False
        data = bytes(value).lower()
        if any(needle in data for needle in self._needles):
            return True
        return b"\\" in data and _ESCAPE.search(data) is not None

    def _object(self, value: Raw, taker: Taker) -> Raw:
        """A program may stand in the command, and its options in the arguments beside it."""
        line = self._command_line(value, taker)

        def change(key: str, each: Raw) -> Raw:
            return (line[key] or each) if key in line else self.member(key).apply(each, taker)

        return over_fields(value, taker, change)

    def _command_line(self, value: Raw, taker: Taker) -> dict[str, Raw | None]:
        """What becomes of a command and of its arguments, if both are there; None if they stay."""
        if not all(isinstance(self._known.get(key), Arguments) for key in _COMMAND_LINE):
            return {}
        try:
            found = fields(value)
            lists = [found[key] for key in _COMMAND_LINE if key in found and is_array(found[key])]
            if len(lists) < len(_COMMAND_LINE):
                return {}
            command, rest = (items(each) for each in lists)
            whole = made([*command, *rest])
            left = ARGUMENTS.apply(whole, taker)
            if left is whole:
                return dict.fromkeys(_COMMAND_LINE)
            both = items(left)
        except UNREADABLE:
            return {}
        middle = len(command)
        return {"command": made(both[:middle]), "args": made(both[middle:])}

    def member(self, key: str) -> Shape:
        """The key's own shape, or the same further in."""
        return self._known.get(key.lower(), self)


_COMMAND_LINE = ("command", "args")
ARGUMENTS = Arguments()

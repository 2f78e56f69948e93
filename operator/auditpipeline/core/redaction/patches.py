"""JSON patches (RFC 6902): each value by the place that it is meant for.

    [{"op":"replace","path":"/data/password","value":"..."}]

Merge, strategic merge and apply patches have the shape of what they patch.
"""

from __future__ import annotations

from dataclasses import dataclass

from auditpipeline.core.redaction.layers import (
    UNREADABLE,
    Raw,
    Shape,
    fields,
    is_array,
    is_object,
    is_text,
    masked,
    masked_whole,
    over_items,
    rebuilt,
    string,
)
from auditpipeline.core.redaction.shapes import MASK, Selective
from auditpipeline.core.redaction.taking import Taker

_WORDS = ("op", "path", "from")
_STEPS = 64


@dataclass(frozen=True)
class Body(Selective):
    """An object of the shape `inner`, or a patch of one in any of the four forms."""

    inner: Shape

    def apply(self, value: Raw, taker: Taker) -> Raw:
        """The object or the patch, changed."""
        if is_array(value):
            return over_items(value, taker, lambda each: self._operation(each, taker))
        return self.inner.apply(value, taker)

    def member(self, key: str) -> Shape:
        """Of the object."""
        return self.inner.member(key)

    def _operation(self, value: Raw, taker: Taker) -> Raw:
        if not is_object(value):
            return self.inner.apply(value, taker)
        try:
            old = fields(value)
            shape = at(self.inner, string(old["path"])) if "path" in old and is_text(old["path"]) else self.inner
            new = {key: self._part(key, each, shape, taker) for key, each in old.items()}
            return rebuilt(value, old, new, taker)
        except UNREADABLE:
            return masked_whole(taker)

    def _part(self, key: str, value: Raw, shape: Shape, taker: Taker) -> Raw:
        if key == "value":
            return shape.apply(value, taker)
        return value if key in _WORDS and is_text(value) else masked(value, taker)


def at(shape: Shape, pointer: str) -> Shape:
    """The shape of what a JSON pointer (RFC 6901) leads to."""
    steps = pointer.split("/", _STEPS)
    if len(steps) > _STEPS:
        return MASK
    for step in steps[1:] if not steps[0] else steps:
        shape = shape.member(step.replace("~1", "/").replace("~0", "~"))
    return shape

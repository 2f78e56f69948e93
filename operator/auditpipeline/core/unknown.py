"""Fields of a stored object that this release does not know. Pure.

A cluster may have the CRDs of a newer release: while an upgrade is under way, and after a rollback, since nobody takes
CRDs back. Which fields there are is then the API server's to say, and an unknown one is no reason to stop a pipeline.
It is left out, and the rest is judged as strictly as ever.

Leaving a field out of a *rule* changes what the rule means. Fields of rules only ever narrow what a rule matches or
leave something out of what it records (ARCHITECTURE.md), so that a rule without one of its fields matches too much.
That must not hide an event:

    level None      the rule is dropped: the rules after it decide
    another level   it records at its own level or at the highest of the rules after it, whichever is more, and leaves
                    nothing out: a request that it does not really match would have been theirs

A match condition that loses a field is dropped: conditions only ever take events away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from auditpipeline.core.conditions.model import MatchCondition
from auditpipeline.core.policy import Level, Rule

_OMISSIONS = ("omitStages", "omitManagedFields", "omitResponseCodes")


class Known(NamedTuple):
    """What is left of a value without its unknown fields, and the paths of those, such as `spec.outputs[0].tap`."""

    value: Any
    unknown: tuple[str, ...]


def known(value: Any, kind: type[msgspec.Struct], path: str = "") -> Known:
    """`value` without what `kind` has no field for, at any depth; values of wrong types stay as they are."""
    found: list[str] = []
    return Known(_of(value, _type(kind), path, found), tuple(found))


@cache
def _type(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _of(value: Any, kind: inspect.Type, path: str, found: list[str]) -> Any:
    if isinstance(kind, inspect.UnionType):
        kind = next((each for each in kind.types if _holds(each, value)), kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, Mapping):
        return _struct(value, kind, path, found)
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        items = [_of(item, kind.item_type, f"{path}[{index}]", found) for index, item in enumerate(value)]
        if _is(kind.item_type, MatchCondition):
            return [left for condition, left in zip(value, items, strict=True) if condition == left]
        return _cautious(value, items) if _is(kind.item_type, Rule) else items
    return value


def _holds(kind: inspect.Type, value: Any) -> bool:
    return isinstance(kind, inspect.StructType) and isinstance(value, Mapping)


def _is(kind: inspect.Type, struct: type[msgspec.Struct]) -> bool:
    return isinstance(kind, inspect.StructType) and kind.cls is struct


def _struct(value: Mapping[str, Any], kind: inspect.StructType, path: str, found: list[str]) -> dict[str, Any]:
    fields = {field.encode_name: field.type for field in kind.fields}
    kept = {}
    for name, content in value.items():
        inner = f"{path}.{name}" if path else str(name)
        if name in fields:
            kept[name] = _of(content, fields[name], inner, found)
        else:
            found.append(inner)
    return kept


def _cautious(rules: list[Any], without: list[Any]) -> list[Any]:
    """Rules of which some lost a field, made so that they hide nothing."""
    made: list[Any] = []
    highest = Level.NONE
    for rule, left in zip(reversed(rules), reversed(without), strict=True):
        level = _level(left)
        if rule == left or highest == Level.NONE:
            made.append(left)
        elif level is None:
            made.append(left)  # refused for its level, as it is
        elif level > Level.NONE:
            whole = {name: field for name, field in left.items() if name not in _OMISSIONS}
            made.append(whole | {"level": max(level, highest).title, "omitManagedFields": False})
        highest = max(highest, level or Level.NONE)
    return made[::-1]


def _level(rule: Any) -> Level | None:
    try:
        return Level.parse(rule["level"])
    except (TypeError, KeyError, ValueError):
        return None


def paths(unknown: Iterable[str], most: int = 3) -> str:
    """The first unknown fields, for a message."""
    found = list(unknown)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more

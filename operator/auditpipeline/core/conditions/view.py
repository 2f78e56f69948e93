"""An event as a route would get it, whose fields conditions are asked about. Pure.

A condition sees what is left of an event by the policies of its route, whatever else was stored for others: no body
that the level does not have, and no managedFields that are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import msgspec

from auditpipeline.core.conditions.model import Condition
from auditpipeline.core.conditions.program import compile_expression
from auditpipeline.core.conditions.values import Get
from auditpipeline.core.floor import FLOOR, has_floor
from auditpipeline.core.managed import without_managed_fields
from auditpipeline.core.policy import Attributes, Decision, Level, Policy, matches


class Verdict(NamedTuple):
    """What a condition says of an event: whether it is true, or why it fails."""

    condition: Condition
    found: bool | str

    @property
    def keeps(self) -> bool:
        """Whether the event is kept, as far as this condition goes."""
        return self.found is not False


_program = lru_cache(256)(compile_expression)


def seen(find: Get, decision: Decision) -> Get:
    """The fields of an event that `find` gives, as they are left by this decision."""
    level, managed = decision.level, decision.omit_managed_fields

    def get(name: str) -> msgspec.Raw | str | None:
        if name == "level":
            return level.title
        value = find(name)
        if value is None or name not in ("requestObject", "responseObject"):
            return value
        if level < (Level.REQUEST if name == "requestObject" else Level.REQUEST_RESPONSE):
            return None
        return without_managed_fields(value) if managed and not isinstance(value, str) else value

    return get


def is_exempt(policies: Iterable[Policy], request: Attributes) -> bool:
    """Whether the floor decides about a request: no condition takes such an event away."""
    return any(has_floor(policy) for policy in policies) and matches(FLOOR, request)


def verdicts(conditions: Iterable[Condition], find: Get) -> list[Verdict]:
    """What each condition says of an event; Invalid if one cannot be compiled."""
    return [Verdict(each, _program(each.expression).decide(find)) for each in conditions]

"""Lists what is wrong with the conditions of a spec. Loads the CEL library, if there is a condition."""

from __future__ import annotations

from collections.abc import Sequence

from auditpipeline.core.conditions.model import MatchCondition, shape_problems
from auditpipeline.core.conditions.program import problem_of
from auditpipeline.core.errors import Invalid


def problems(conditions: Sequence[MatchCondition], where: str) -> list[Invalid]:
    """Lists what is wrong, each with its field, such as `spec.matchConditions[0].expression`."""
    found = shape_problems(conditions, where)
    if found:
        return found
    told = ((index, problem_of(condition.expression)) for index, condition in enumerate(conditions))
    return [Invalid(f"{where}[{index}].expression", message) for index, message in told if message]

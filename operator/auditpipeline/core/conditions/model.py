"""What a user writes: a name and a CEL expression, as in a webhook's matchConditions. Pure.

Bounds and names are those of Kubernetes (k8s.io/apiserver/pkg/cel, ValidateQualifiedName), unless they are narrower.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from auditpipeline.core.errors import Invalid

MAX_CONDITIONS = 8
"""Conditions of a pipeline, and of an output."""
MAX_EXPRESSION = 2048
"""Bytes of an expression in UTF-8."""
MAX_NAME, MAX_PREFIX = 63, 253
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)


class MatchCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One condition as it stands in a spec. Only events for which `expression` is true are kept."""

    name: str
    expression: str


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A condition of a route in a configuration: one of its pipeline, or of the `output` that is named."""

    name: str
    expression: str
    output: str = ""


def shape_problems(conditions: Sequence[MatchCondition], where: str) -> list[Invalid]:
    """Lists what is wrong with names, numbers and sizes, each with its field. What an expression says is not looked
    at."""
    if len(conditions) > MAX_CONDITIONS:
        return [Invalid(where, f"at most {MAX_CONDITIONS} conditions are allowed: join some with &&")]
    found, names = list[Invalid](), set[str]()
    for index, condition in enumerate(conditions):
        at = f"{where}[{index}]"
        if not _is_qualified(condition.name):
            said = "must be a name such as no-probes or example.com/no-probes: letters, digits, '-', '_' and '.'"
            found.append(Invalid(f"{at}.name", said))
        elif condition.name in names:
            found.append(Invalid(f"{at}.name", f"{condition.name!r} is taken by another condition: names are unique"))
        names.add(condition.name)
        if not condition.expression.strip():
            found.append(Invalid(f"{at}.expression", "an expression is needed, such as event.verb != 'get'"))
        elif size_of(condition.expression) > MAX_EXPRESSION:
            found.append(Invalid(f"{at}.expression", f"must have at most {MAX_EXPRESSION} bytes"))
    return found


def size_of(text: str) -> int:
    """Bytes in UTF-8; also of text that is not valid Unicode."""
    return len(text.encode(errors="surrogatepass"))


def _is_qualified(name: str) -> bool:
    prefix, slash, last = name.rpartition("/")
    if slash and not (len(prefix) <= MAX_PREFIX and _PREFIX.fullmatch(prefix)):
        return False
    return len(last) <= MAX_NAME and bool(_NAME.fullmatch(last))

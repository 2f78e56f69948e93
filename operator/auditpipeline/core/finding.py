"""What the linter may find: each kind has a code that stays, and a severity. docs/policy.md has one section a code."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Check(NamedTuple):
    """One kind of finding."""

    severity: Severity
    title: str


CHECKS: dict[str, Check] = {
    # Not a policy that could be used.
    "AP001": Check("error", "not an audit policy"),
    "AP002": Check("error", "unknown field"),
    "AP003": Check("error", "value of the wrong type"),
    "AP004": Check("error", "field written twice"),
    "AP005": Check("error", "no rules"),
    "AP006": Check("error", "refused by kube-apiserver"),
    "AP007": Check("warning", "empty list"),
    "AP008": Check("error", "condition that cannot be used"),
    # Rules, one after the other.
    "AP101": Check("error", "rule that never matches"),
    "AP102": Check("warning", "duplicate"),
    "AP103": Check("warning", "no catch-all at the end"),
    "AP104": Check("error", "every stage omitted"),
    # Words.
    "AP201": Check("error", "subresource as a resource name"),
    "AP202": Check("error", "resource misspelt"),
    "AP203": Check("error", "resource of another group"),
    "AP204": Check("error", "API group misspelt"),
    "AP205": Check("error", "subresource misspelt"),
    "AP206": Check("error", "ServiceAccount misspelt"),
    "AP207": Check("error", "user and group mixed up"),
    "AP208": Check("error", "wildcard where there is none"),
    "AP209": Check("error", "verb that no request has"),
    "AP210": Check("error", "path that is none"),
    "AP211": Check("error", "namespace of what has none"),
    # What is recorded.
    "AP301": Check("error", "bodies with credentials"),
    "AP302": Check("warning", "bodies of ConfigMaps"),
    "AP303": Check("warning", "answers to reads"),
}


class Finding(NamedTuple):
    """One finding: where in the policy (`rules[2].users[0]`), what is wrong, and what to write instead."""

    code: str
    path: str
    message: str
    fix: str

    @property
    def severity(self) -> Severity:
        """How bad: an error is surely not what was meant."""
        return CHECKS[self.code].severity

    @property
    def rule(self) -> int | None:
        """The index of the rule; None for the policy as a whole."""
        found = re.search(r"\brules\[(\d+)\]", self.path)
        return int(found[1]) if found else None

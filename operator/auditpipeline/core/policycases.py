"""Expectations about a policy, kept next to it in Git, and what comes of them.

A case has one request, or several that are to be decided alike: wherever a request field takes a list, each of its
values makes a request. Only what `expect` names is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, Literal, NamedTuple

import msgspec

from auditpipeline.core.errors import Invalid
from auditpipeline.core.explain import ordered, request_for
from auditpipeline.core.policy import Attributes, Policy, decide
from auditpipeline.core.yamlfile import Document, documents

API_VERSION = "auditpipeline.dev/v1alpha1"
KIND = "PolicyTest"
LevelName = Literal["None", "Metadata", "Request", "RequestResponse"]
OneOrMore = str | tuple[str, ...]


class _Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A value of the file: camelCase outside, nothing unknown accepted."""


class Request(_Value, frozen=True):
    """One request, or several: `resource` with an optional subresource (`pods/log`), or `path`."""

    verb: OneOrMore
    user: str | None = None
    groups: tuple[str, ...] = ()
    resource: OneOrMore = ()
    path: OneOrMore = ()
    api_group: str | None = None
    namespace: str = ""
    name: str = ""


class Expect(_Value, frozen=True, omit_defaults=True):
    """What must come of it; what is not written is not compared. `rule` null: no rule matches."""

    level: LevelName | msgspec.UnsetType = msgspec.UNSET
    rule: int | msgspec.UnsetType | None = msgspec.UNSET
    omit_stages: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    omit_managed_fields: bool | msgspec.UnsetType = msgspec.UNSET


class Case(_Value, frozen=True):
    """One expectation, with its reason as the name."""

    name: str
    request: Request
    expect: Expect


class Cases(_Value, frozen=True):
    """The whole file."""

    api_version: Literal["auditpipeline.dev/v1alpha1"]
    kind: Literal["PolicyTest"]
    cases: tuple[Case, ...]


class Difference(NamedTuple):
    """One field that came out otherwise than expected."""

    field: str
    expected: object
    found: object


class Outcome(NamedTuple):
    """One request of one case, and the policy's rule that decided: right where there are no differences."""

    case: int
    name: str
    request: Attributes
    rule: int | None
    differences: tuple[Difference, ...]


def read(text: bytes, file: str) -> tuple[Document, Cases]:
    """The cases of a file; Invalid with file, line and column where it is none."""
    found = documents(text, file)
    if len(found) != 1:
        raise Invalid(file, f"expected one document with apiVersion {API_VERSION} and kind {KIND}")
    document = found[0]
    try:
        cases = msgspec.convert(document.value, Cases)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").lstrip(".")
        line, column = document.position(path)
        said = message[:1].lower() + message[1:].replace("`", "")
        raise Invalid(f"{file}:{line}:{column}", f"{path}: {said}" if path else said) from None
    for index, case in enumerate(cases.cases):
        problem = _problem(case)
        if problem:
            line, column = document.position(f"cases[{index}]")
            raise Invalid(f"{file}:{line}:{column}", f"cases[{index}]: {problem}")
    return document, cases


def _problem(case: Case) -> str:
    if bool(case.request.resource) == bool(case.request.path):
        return "a request has either a resource or a path"
    if not case.request.verb:
        return "a request has a verb"
    if case.expect == Expect():
        return "expect is empty: write a level, a rule, omitStages or omitManagedFields"
    try:
        list(requests(case.request))
    except Invalid as error:
        return error.message
    return ""


def run(policy: Policy, cases: Cases, number: Callable[[int | None], int | None] = lambda rule: rule) -> list[Outcome]:
    """Every request of every case, decided and compared; `number` is what the file calls a rule of the policy."""
    return [
        Outcome(index, case.name, request, *_compare(policy, request, case.expect, number))
        for index, case in enumerate(cases.cases)
        for request in requests(case.request)
    ]


def requests(given: Request) -> Iterator[Attributes]:
    """The requests that are meant; Invalid where a path has what only a resource has."""
    for verb, target in product(_each(given.verb), _each(given.resource) or _each(given.path)):
        resource, _, subresource = (target, "", "") if target.startswith("/") else target.partition("/")
        yield request_for(
            verb,
            resource,
            user=given.user,
            groups=given.groups,
            namespace=given.namespace,
            subresource=subresource,
            group=given.api_group,
            name=given.name,
        )


def _each(values: OneOrMore) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else values


def _compare(
    policy: Policy, request: Attributes, expect: Expect, number: Callable[[int | None], int | None]
) -> tuple[int | None, tuple[Difference, ...]]:
    decision = decide(policy, request)
    found: dict[str, Any] = {
        "level": decision.level.title,
        "rule": number(decision.rule),
        "omitStages": list(ordered(decision.omit_stages)),
        "omitManagedFields": decision.omit_managed_fields,
    }
    wanted = msgspec.to_builtins(expect)
    if "omitStages" in wanted:
        wanted["omitStages"] = list(ordered(frozenset(wanted["omitStages"])))
    return decision.rule, tuple(
        Difference(field, value, found[field]) for field, value in wanted.items() if value != found[field]
    )

"""A policy as Python functions: the same decisions as `policy.decide`, many times faster.

    (verb, group, resource, subresource)  -- index -->  branch(user, groups, path, namespace, name)  -->  Decision

Verb and resource decide, for most requests, which few rules are left. For each combination that occurs, the rules that
can still match are found once, and what they still ask is generated as one flat function, which ends at the first rule
that asks nothing more. Combinations with the same rules left share their function, so what is generated depends on the
policy and not on what clients send; the index itself is bounded.

Constants come into the source only through `repr`. Tests prove the functions equal to the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from auditpipeline.core.policy import (
    Attributes,
    Decision,
    GroupResources,
    Policy,
    Rule,
    decision_of,
    group_matches,
    resource_matches,
)

Branch = Callable[[str | None, tuple[str, ...], str, str, str], Decision]
"""(user, groups, path, namespace, name) -> decision, of requests whose verb and resource are known."""

Key = tuple[str, str, str | None, str]
"""(verb, group, resource, subresource); the resource is None for a path."""

MAX_KEYS = 4096
"""So many combinations are remembered; then all are forgotten, so that names made up by a client fill no memory."""
MAX_KEY = 1024
"""Characters of one that is remembered: a client may ask for a resource whose name has a megabyte."""

_FEW = 3


class _Rest(NamedTuple):
    """What a rule asks beyond verb and resource; an empty tuple asks nothing."""

    rule: int
    users: tuple[str, ...]
    groups: tuple[str, ...]
    urls: tuple[str, ...]
    namespaces: tuple[str, ...]
    names: tuple[str, ...]


class Compiled:
    """One compiled policy. `decide` is what to call; `branches` and `branch` are for callers that decode themselves.

    Several threads may use it: what one of them forgets, another one makes again.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.branches: dict[Key, Branch] = {}
        self.decide = _decider(self)
        self._functions: dict[tuple[_Rest, ...], Branch] = {}
        self._decisions = [decision_of(policy, index) for index in (*range(len(policy.rules)), None)]

    def branch(self, key: Key) -> Branch:
        """The function for requests with this verb and resource; from now on it is found in `branches`, unless their
        names are longer than any real ones."""
        rests = tuple(_rests(self.policy, key))
        found = self._functions.get(rests)
        if found is None:
            if len(self._functions) >= MAX_KEYS:
                self._functions.clear()
            found = self._functions[rests] = _function(rests, self._decisions)
        if sum(map(len, filter(None, key))) <= MAX_KEY:
            if len(self.branches) >= MAX_KEYS:
                self.branches.clear()
            self.branches[key] = found
        return found


def compile_policy(policy: Policy) -> Callable[[Attributes], Decision]:
    """The policy as a function that decides as `decide(policy, request)` does."""
    return Compiled(policy).decide


def _decider(compiled: Compiled) -> Callable[[Attributes], Decision]:
    find, learn = compiled.branches.get, compiled.branch

    def decide(request: Attributes) -> Decision:
        user, groups, verb, path, resource, subresource, group, namespace, name = request
        key = (verb, group, resource, subresource)
        return (find(key) or learn(key))(user, groups, path, namespace, name)

    return decide


def _rests(policy: Policy, key: Key) -> Iterator[_Rest]:
    """What is left of each rule that may match; nothing comes after one that asks nothing more."""
    for index, rule in enumerate(policy.rules):
        rest = _rest(index, rule, key)
        if rest:
            yield rest
            if not any(rest[1:]):
                return


def _rest(index: int, rule: Rule, key: Key) -> _Rest | None:
    verb, group, resource, subresource = key
    if rule.verbs and verb not in rule.verbs:
        return None
    if not (rule.namespaces or rule.resources):
        if rule.non_resource_urls and resource is not None:
            return None
        return _Rest(index, rule.users, rule.user_groups, rule.non_resource_urls, (), ())
    if resource is None:
        return None
    names: tuple[str, ...] = ()
    if rule.resources:
        entries = [entry for entry in rule.resources if _entry_matches(entry, group, resource, subresource)]
        if not entries:
            return None
        # An entry without resources takes all of its group, whatever names it has.
        if all(entry.resources and entry.resource_names for entry in entries):
            names = tuple(dict.fromkeys(name for entry in entries for name in entry.resource_names))
    return _Rest(index, rule.users, rule.user_groups, (), rule.namespaces, names)


def _entry_matches(entry: GroupResources, group: str, resource: str, subresource: str) -> bool:
    if not group_matches(entry.group, group):
        return False
    return not entry.resources or any(resource_matches(wanted, resource, subresource) for wanted in entry.resources)


def _function(rests: tuple[_Rest, ...], decisions: list[Decision]) -> Branch:
    """The rules' conditions, one flat `if` each; the last of `decisions` is that of no rule."""
    constants: dict[str, Any] = {f"D{rest.rule}": decisions[rest.rule] for rest in rests}
    constants["D"] = decisions[-1]
    lines = ["def branch(user, groups, path, namespace, name):"]
    for rest in rests:
        condition = " and ".join(_conditions(rest, constants))
        lines.append(f"    {f'if {condition}: ' if condition else ''}return D{rest.rule}")
    if not rests or any(rests[-1][1:]):
        lines.append("    return D")
    exec(compile("\n".join(lines), "<policy>", "exec"), constants)  # noqa: S102  constants only through repr
    branch: Branch = constants["branch"]
    return branch


def _conditions(rest: _Rest, constants: dict[str, Any]) -> Iterator[str]:
    """Expressions that must all be true; cheap and selective ones first."""
    for field, wanted in (("user", rest.users), ("namespace", rest.namespaces), ("name", rest.names)):
        if wanted:
            yield _one_of(field, wanted)
    if rest.groups:
        yield "user is not None and " + _any_of(rest.groups, constants)
    if rest.urls and (condition := _path(rest.urls)):
        yield condition


def _one_of(field: str, wanted: tuple[str, ...]) -> str:
    # A set of constants is one constant to Python.
    return f"{field} == {wanted[0]!r}" if len(wanted) == 1 else f"{field} in {{{', '.join(map(repr, wanted))}}}"


def _any_of(wanted: tuple[str, ...], constants: dict[str, Any]) -> str:
    if len(wanted) <= _FEW:
        return f"({' or '.join(f'{group!r} in groups' for group in wanted)})"
    name = f"G{len(constants)}"
    constants[name] = frozenset(wanted).isdisjoint
    return f"not {name}(groups)"


def _path(urls: tuple[str, ...]) -> str:
    """Empty where every path will do."""
    exact = tuple(url for url in urls if not url.endswith("*"))
    prefixes = tuple(url.rstrip("*") for url in urls if url.endswith("*"))
    if "" in prefixes:
        return ""
    parts = [_one_of("path", exact)] if exact else []
    if prefixes:
        parts.append(f"path.startswith(({', '.join(map(repr, prefixes))},))")
    return f"({' or '.join(parts)})"

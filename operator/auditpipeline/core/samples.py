"""A few requests that match a rule: plain ones, with `other` for whatever the rule leaves open."""

from __future__ import annotations

from collections.abc import Iterator

from auditpipeline.core.policy import Attributes, GroupResources, Rule

OTHER = "other"


def samples(rule: Rule) -> Iterator[Attributes]:
    """One request for each of the rule's entries or paths; a resource and a path if it has neither."""
    if not (rule.resources or rule.namespaces):
        for url in rule.non_resource_urls or ("/*",):
            yield _who(rule)._replace(path=f"{url.rstrip('*') or '/'}{OTHER}" if url.endswith("*") else url)
    if not rule.non_resource_urls or rule.resources or rule.namespaces:
        for entry in rule.resources or (GroupResources("*"),):
            if "/" not in _first(entry.resources).partition("/")[2]:
                yield _about(_who(rule), entry)


def _who(rule: Rule) -> Attributes:
    user, verb, namespace = (_first(values) for values in (rule.users, rule.verbs, rule.namespaces))
    return Attributes(user, rule.user_groups[:1], verb, "", namespace=namespace)


def _about(request: Attributes, entry: GroupResources) -> Attributes:
    resource, _, sub = _first(entry.resources).partition("/")
    return request._replace(
        resource=OTHER if resource == "*" else resource,
        subresource="" if sub == "*" else sub,
        group=OTHER if entry.group == "*" else entry.group,
        name=_first(entry.resource_names),
    )


def _first(values: tuple[str, ...]) -> str:
    return values[0] if values else OTHER

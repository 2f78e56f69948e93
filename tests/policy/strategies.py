"""Policies and requests that favour the corners: empty words, wildcards, subresources, several groups, no user."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from auditpipeline.core.policy import STAGES, Attributes, GroupResources, Policy, Rule


def some(*words: str) -> st.SearchStrategy[tuple[str, ...]]:
    """A list of these words, often empty."""
    return st.just(()) | st.lists(st.sampled_from(words), max_size=2).map(tuple)


USERS = ("", "alice", "bob")
GROUPS = ("", "dev", "ops")
VERBS = ("", "get", "create", "*")
NAMESPACES = ("", "default", "kube-system")
API_GROUPS = ("", "apps", "*")
RESOURCES = ("pods", "pods/log", "pods/*", "*/log", "*", "secrets", "*/*", "")
NAMES = ("", "web", "db")
URLS = ("/a", "/a*", "/a/b", "/*", "*", "/ab*")

rules = st.builds(
    Rule,
    level=st.sampled_from(["None", "Metadata", "Request", "RequestResponse"]),
    users=some(*USERS),
    user_groups=some(*GROUPS),
    verbs=some(*VERBS),
    resources=st.just(())
    | st.lists(
        st.builds(
            GroupResources,
            group=st.sampled_from(API_GROUPS),
            resources=some(*RESOURCES),
            resource_names=some(*NAMES),
        ),
        max_size=2,
    ).map(tuple),
    namespaces=some(*NAMESPACES),
    non_resource_urls=some(*URLS),
    omit_stages=some(*STAGES),
    omit_managed_fields=st.none() | st.booleans(),
)
policies = st.builds(Policy, rules=st.lists(rules, max_size=5).map(tuple), omit_stages=some(*STAGES))
_targets: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "path": st.just("/api/v1/x"),
        "resource": st.sampled_from(["pods", "secrets", "nodes", ""]),
        "subresource": st.sampled_from(["", "log", "exec"]),
        "group": st.sampled_from(["", "apps", "batch"]),
        "namespace": st.sampled_from(NAMESPACES),
        "name": st.sampled_from(NAMES),
    }
) | st.fixed_dictionaries({"path": st.sampled_from(["/", "/a", "/a/b", "/abc", "/c"])})
requests = st.builds(
    lambda target, user, groups, verb: Attributes(user, groups, verb, **target),
    _targets,
    st.none() | st.sampled_from(USERS),
    some(*GROUPS, "system:authenticated"),
    st.sampled_from(VERBS),
)

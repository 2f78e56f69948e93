"""Policies and requests that favour the corners: what the tests of the engine are drawn from.

Few values, so that rules and requests meet; among them empty strings, wildcards in every place, and names that would
break out of generated code if anything but `repr` had written them.
"""

from __future__ import annotations

from hypothesis import strategies as st

from auditpipeline.core.policy import STAGES, Attributes, GroupResources, Policy, Rule

INJECTIONS = [
    "'",
    '"',
    "\\",
    "\\'",
    "a\nb",
    "'''",
    '"""',
    "{user}",
    "%s",
    "\x00",
    "é\u2028",
    "'); raise SystemExit; ('",
]
LEVELS = ["None", "Metadata", "Request", "RequestResponse"]


def _some(values: list[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    """Mostly nothing or one value: a rule that asks for everything at once matches nothing."""
    return st.one_of(st.just(()), st.lists(st.sampled_from(values), max_size=most, unique=True).map(tuple))


USERS = ["alice", "", "system:node:n1", *INJECTIONS[:6]]
GROUPS = ["team", "system:authenticated", "", "ops", "dev", INJECTIONS[0]]
VERBS = ["get", "create", "list", "", "*", INJECTIONS[1]]
API_GROUPS = ["", "apps", "*", INJECTIONS[4]]
RESOURCES = ["pods", "secrets", "", "*", "pods/log", "pods/*", "*/log", "*/*", "log", "/", "*/", "/*", INJECTIONS[11]]
PLAIN_RESOURCES = ["pods", "secrets", "*", "pods/log", "pods/*", "*/log", "*/status"]
NAMES = ["web", "", "*", "other", INJECTIONS[3]]
NAMESPACES = ["default", "", "kube-system", INJECTIONS[2]]
URLS = ["/healthz", "/healthz*", "/healthz/etcd", "*", "/", "/*", "/version", "/a*b", "**", INJECTIONS[11] + "*"]
PATHS = ["/healthz", "/healthz/etcd", "/version", "/", "", "/a*b", "/api/v1/pods", INJECTIONS[11]]
stages = st.lists(st.sampled_from(STAGES), max_size=4, unique=True).map(tuple)


def rules(resources: list[str] = RESOURCES) -> st.SearchStrategy[Rule]:
    """Rules that validation may refuse for their wildcards, as decisions must be right for them too.

    Most ask one thing, so that requests come through to it.
    """
    entries = st.builds(
        GroupResources, group=st.sampled_from(API_GROUPS), resources=_some(resources), resource_names=_some(NAMES)
    )
    any_group = st.builds(GroupResources, st.just("*"), _some(resources, 3), _some(NAMES))
    asked: dict[str, st.SearchStrategy[object]] = {
        "users": _some(USERS),
        "user_groups": _some(GROUPS, 5),
        "verbs": _some(VERBS),
        "resources": st.one_of(st.just(()), st.lists(st.one_of(entries, any_group), max_size=3).map(tuple)),
        "namespaces": _some(NAMESPACES),
        "non_resource_urls": _some(URLS),
    }
    done: dict[str, st.SearchStrategy[object]] = {
        "level": st.sampled_from(LEVELS),
        "omit_stages": st.one_of(st.just(()), stages),
        "omit_managed_fields": st.sampled_from([None, None, True, False]),
    }
    one_thing = [st.builds(Rule, **done, **{field: values}) for field, values in asked.items()]
    one_resource = st.builds(
        GroupResources, st.just("*"), st.sampled_from(resources).map(lambda name: (name,)), _some(NAMES)
    )
    by_resource = st.builds(Rule, **done, resources=st.tuples(st.one_of(one_resource, any_group)))
    by_url = st.builds(Rule, **done, non_resource_urls=st.sampled_from(URLS).map(lambda url: (url,)))
    return st.one_of(st.builds(Rule, **done, **asked), by_resource, by_resource, by_url, *one_thing)


def policies(resources: list[str] = RESOURCES, most: int = 6) -> st.SearchStrategy[Policy]:
    """Policies of a few rules."""
    return st.builds(
        Policy,
        rules=st.lists(rules(resources), max_size=most).map(tuple),
        omit_stages=stages,
        omit_managed_fields=st.booleans(),
    )


_groups = st.lists(st.sampled_from(GROUPS), max_size=4, unique=True).map(tuple)


def _request(paths: list[str], resources: list[str], subresources: list[str]) -> st.SearchStrategy[Attributes]:
    who = st.one_of(st.tuples(st.sampled_from(USERS), _groups), st.just((None, ())))
    verb = st.sampled_from(VERBS)
    of_path = st.builds(
        lambda user, verb, path: Attributes(user[0], user[1], verb, path), who, verb, st.sampled_from(paths)
    )
    of_resource = st.builds(
        lambda user, *rest: Attributes(user[0], user[1], *rest),
        who,
        verb,
        st.sampled_from(PATHS),
        st.sampled_from(resources),
        st.sampled_from(subresources),
        st.sampled_from(API_GROUPS),
        st.sampled_from(NAMESPACES),
        st.sampled_from(NAMES),
    )
    return st.one_of(of_path, of_resource, of_resource)


requests = _request(PATHS, ["pods", "secrets", "", "*", "pods/log", "log", INJECTIONS[11]], ["", "log", "*", "status"])
"""Any request at all, also such as no client can send."""

real_requests = _request(
    [path for path in PATHS if path.startswith("/")], ["pods", "secrets", "log", "*"], ["", "log", "status"]
)
"""Requests as an API server makes them: a path begins with a slash, a resource holds none."""

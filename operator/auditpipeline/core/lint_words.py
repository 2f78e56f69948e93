"""What the linter says of single words: misspelt resources, groups, verbs, users, and wildcards that are none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from auditpipeline.core.finding import Finding
from auditpipeline.core.kinds import CLUSTER_SCOPED, GROUPS, SHORT_NAMES, SUBRESOURCES, group_of, groups_of
from auditpipeline.core.lint_users import users
from auditpipeline.core.policy import GroupResources, Rule

# Source: k8s.io/apiserver/pkg/endpoints/request/requestinfo.go; paths have the HTTP method, in lower case.
_RESOURCE_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
_PATH_VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "connect", "trace")
_VERB_FIXES = {
    "read": "get, list, watch",
    "write": "create, update, patch, delete, deletecollection",
    "put": "update",
    "post": "create",
    "add": "create",
    "edit": "update, patch",
    "remove": "delete",
    "exec": "create, with the resource pods/exec",
    "impersonate": "the impersonated user's own verbs; rules see the user who asked",
}
_VERSION = re.compile(r"v\d+((alpha|beta)\d+)?")


def words(rule: Rule, index: int) -> Iterator[Finding]:
    """What is misspelt in one rule."""
    path = f"rules[{index}]"
    yield from users(rule, path)
    yield from _verbs(rule, path)
    for number, namespace in enumerate(rule.namespaces):
        if "*" in namespace:
            yield _no_wildcard(f"{path}.namespaces[{number}]", "namespaces", namespace)
    for number, url in enumerate(rule.non_resource_urls):
        yield from _url(url, f"{path}.nonResourceURLs[{number}]")
    for number, entry in enumerate(rule.resources):
        yield from _entry(entry, f"{path}.resources[{number}]")
    if rule.namespaces and "" not in rule.namespaces:
        yield from _scopes(rule, path)


def _verbs(rule: Rule, path: str) -> Iterator[Finding]:
    known = set(_RESOURCE_VERBS) if rule.resources or rule.namespaces else {*_RESOURCE_VERBS, *_PATH_VERBS}
    known = set(_PATH_VERBS) if rule.non_resource_urls else known
    for number, verb in enumerate(rule.verbs):
        where = f"{path}.verbs[{number}]"
        if "*" in verb:
            yield _no_wildcard(where, "verbs", verb)
        elif verb and verb not in known:
            plain = verb.lower().replace("-", "").replace("_", "")
            near = difflib.get_close_matches(plain, sorted(known), 1, 0.75)
            options = ", ".join(sorted(known))
            fix = plain if plain in known else _VERB_FIXES.get(plain) or (near[0] if near else f"one of {options}")
            yield Finding("AP209", where, f"no request of this kind has the verb {verb!r}", fix)


def _url(url: str, path: str) -> Iterator[Finding]:
    parts = [part for part in url.rstrip("*").split("/") if part]
    if "?" in url:
        yield Finding("AP210", path, f"{url!r}: paths are compared without their query", url.partition("?")[0])
    elif (parts[:1] == ["api"] and len(parts) > 2) or (parts[:1] == ["apis"] and len(parts) > 3):
        fix = "resources, with group and resource, in a rule without nonResourceURLs"
        yield Finding("AP210", path, f"{url!r} is the path of a resource, and never compared with nonResourceURLs", fix)


def _entry(entry: GroupResources, path: str) -> Iterator[Finding]:
    for number, name in enumerate(entry.resource_names):
        where = f"{path}.resourceNames[{number}]"
        if "*" in name:
            yield _no_wildcard(where, "resourceNames", name)
        elif "/" in name:
            fix = f"{name} in resources; resourceNames has names of objects"
            yield Finding("AP201", where, f"{name!r} cannot be the name of an object", fix)
    wrong = list(_group(entry, f"{path}.group"))
    yield from wrong
    for number, wanted in enumerate(entry.resources):
        yield from _resource(entry.group, wanted, f"{path}.resources[{number}]", sure=not wrong)


def _group(entry: GroupResources, path: str) -> Iterator[Finding]:
    group = entry.group
    if group in GROUPS or group == "*":
        return
    if group == "core" or _VERSION.fullmatch(group):
        resource = entry.resources[0].partition("/")[0] if entry.resources else ""
        fix = f'"{group_of(resource)}"' if resource else '""'
        said = "a version" if group != "core" else "how people call the group without a name"
        yield Finding("AP204", path, f"{group!r} is {said}, not the name of an API group", fix)
    elif group.lower() != group or group + ".k8s.io" in GROUPS or group.removesuffix(".k8s.io") in GROUPS:
        plain = group.lower()
        near = [name for name in (plain, plain + ".k8s.io", plain.removesuffix(".k8s.io")) if name in GROUPS]
        yield Finding("AP204", path, f"there is no API group {group!r}", near[0] if near else plain)
        return
    near = [name for name in GROUPS if name and name.startswith(group + ".")]
    if not near and group.endswith(".k8s.io"):
        near = difflib.get_close_matches(group, GROUPS, 1, 0.9)
    if near:
        yield Finding("AP204", path, f"there is no API group {group!r}", near[0])


def _resource(group: str, wanted: str, path: str, *, sure: bool) -> Iterator[Finding]:
    """One entry of `resources`; in groups that are not built in, only what no API server could serve is said."""
    resource, slash, subresource = wanted.partition("/")
    if wanted == "*":
        return
    if wanted == "*/*" or "*" in resource.removeprefix("*") or (subresource != "*" and "*" in subresource):
        fix = "*, which has every resource and subresource; or resource/*, or */subresource"
        yield Finding("AP208", path, f"{wanted!r} matches nothing: * stands for a whole word, and once", fix)
        return
    if "/" in subresource or _VERSION.fullmatch(resource) or (resource != "*" and "." in resource):
        plain = re.split(r"[./]", re.sub(r"^([a-z.0-9]*/)?v\d\w*/", "", wanted))[0]
        fix = f"group: {group_of(plain) or chr(34) * 2}, resources: [{plain}]"
        yield Finding("AP202", path, f"{wanted!r}: a resource has neither group nor version here", fix)
        return
    if resource != "*" and sure:
        found = _misspelt(group, resource, f"{slash}{subresource}")
        if found:
            yield Finding(found[0], path, *found[1:])
            return
    known = SUBRESOURCES if resource == "*" else GROUPS.get(group, {}).get(resource, frozenset())
    if slash and subresource != "*" and subresource not in known and sure:
        near = difflib.get_close_matches(subresource.lower(), sorted(known), 1, 0.7)
        if near:
            yield Finding("AP205", path, f"there is no subresource {wanted!r}", f"{resource}/{near[0]}")


def _misspelt(group: str, resource: str, rest: str) -> tuple[str, str, str] | None:
    if resource in GROUPS.get(group, {}):
        return None
    plain = SHORT_NAMES.get(resource.lower(), resource.lower())
    candidates = (plain, f"{plain}s", f"{plain}es", f"{plain.removesuffix('y')}ies")
    near = next((word for word in candidates if groups_of(word)), "")
    if resource != resource.lower():
        return "AP202", f"resources are written in lower case, not {resource!r}", f"{near or plain}{rest}"
    if group not in GROUPS and group != "*":
        return None
    if resource in candidates and near == resource and group != "*":
        said = f"the group {group!r}" if group else 'the core group ""'
        return "AP203", f"{resource!r} is not in {said}", "group: " + (group_of(resource) or '""')
    near = near or next(iter(difflib.get_close_matches(resource, GROUPS.get(group, {}), 1, 0.86)), "")
    if near and near != resource:
        said = f"there is no resource {resource!r}: resources have the name that stands in URLs, in the plural"
        return "AP202", said, f"{near}{rest}"
    return None


def _scopes(rule: Rule, path: str) -> Iterator[Finding]:
    for number, entry in enumerate(rule.resources):
        for place, wanted in enumerate(entry.resources):
            resource = wanted.partition("/")[0]
            if resource in CLUSTER_SCOPED and resource in GROUPS.get(entry.group, {}):
                message = f"{wanted!r} is in no namespace, so a rule with namespaces never matches it"
                fix = 'it in a rule without namespaces, or with namespaces: [""]'
                yield Finding("AP211", f"{path}.resources[{number}].resources[{place}]", message, fix)


def _no_wildcard(path: str, field: str, value: str) -> Finding:
    fix = f"no {field} at all to match every one" if value == "*" else "each of them in full"
    return Finding("AP208", path, f"{field} knows no wildcard, so {value!r} is taken as it stands", fix)

"""What others added to an object of ours, by its managedFields, and the patch that takes it away. Pure.

    managedFields of our last apply      f:spec -> f:ports, f:selector, ...
    managedFields of everybody else      f:spec -> f:externalIPs                 --> {"spec": {"externalIPs": null}}

Server-side apply takes back what we say and leaves what we do not: another container in a Pod's template, another way
into a Service. `spec` and `data` are ours alone: what somebody else owns there, and we do not, goes. What nobody owns
(defaults, and what admission adds to our own writes) stays; so do labels, annotations and finalizers of others, but for
the annotation that says what is redacted. KEPT is
left to others on purpose: `kubectl rollout restart`, and what kube-apiserver assigns to a Service once and for all.

Source of the keys: sigs.k8s.io/structured-merge-diff/fieldpath/serialize-pe.go.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from auditpipeline.control.names import MANAGER, REDACTION

Path = tuple[str, ...]
PARTS = ("spec", "data")
KEPT: tuple[Path, ...] = (
    ("f:spec", "f:template", "f:metadata", "f:annotations", "f:kubectl.kubernetes.io/restartedAt"),
    *(("f:spec", f"f:{field}") for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")),
)
_ANNOTATION: Path = ("f:metadata", "f:annotations", f"f:{REDACTION}")


class Additions(NamedTuple):
    """Who added what, and the merge patch without it; empty where nobody did."""

    managers: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    patch: Mapping[str, Any] = {}


def additions(body: Mapping[str, Any]) -> Additions:
    """What others added to an object that we have just applied."""
    entries = [entry for entry in body["metadata"].get("managedFields", ()) if not entry.get("subresource")]
    ours = [entry["fieldsV1"] for entry in entries if _is_apply(entry)]
    if not ours:
        return Additions()
    found = {
        path: str(entry.get("manager", ""))
        for entry in entries
        if not _is_apply(entry)
        for path in _added(entry.get("fieldsV1") or {}, ours[0])
    }
    before = {part: body[part] for part in PARTS if part in body} | _redaction(body)
    after = copy.deepcopy(before)
    taken = [path for path in found if _take_away(after, path)]
    managers = sorted({found[path] for path in taken})
    return Additions(tuple(managers), tuple(map(_shown, taken)), _merge(before, after)) if taken else Additions()


def _is_apply(entry: Mapping[str, Any]) -> bool:
    return (entry.get("manager"), entry.get("operation")) == (MANAGER, "Apply")


def _parts(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    return {f"f:{part}": fields[f"f:{part}"] for part in PARTS if f"f:{part}" in fields}


def _added(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[Path]:
    yield from _foreign(_parts(theirs), ours, ())
    if _annotates(theirs) and not _annotates(ours):
        yield _ANNOTATION


def _annotates(fields: Mapping[str, Any]) -> bool:
    return _ANNOTATION[-1] in fields.get("f:metadata", {}).get("f:annotations", {})


def _redaction(body: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation, in its place; empty without it."""
    notes = body["metadata"].get("annotations") or {}
    return {"metadata": {"annotations": {REDACTION: notes[REDACTION]}}} if REDACTION in notes else {}


def _foreign(theirs: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> Iterator[Path]:
    """The topmost paths in `theirs` of which nothing is ours."""
    for key, below in theirs.items():
        here = (*path, key)
        if key == "." or here in KEPT:
            continue
        if key in ours:
            # Where we own it as a whole, so does nobody else.
            yield from _foreign(below, ours[key], here) if ours[key] else ()
        elif any(kept[: len(here)] == here for kept in KEPT):
            yield from _foreign(below, {}, here)
        else:
            yield here


def _take_away(value: Any, path: Path) -> bool:
    """Remove what is at `path` from `value`; False where it is not there."""
    *steps, last = path
    for step in steps:
        index = _index(value, step)
        if index is None:
            return False
        value = value[index]
    index = _index(value, last)
    if index is None:
        return False
    del value[index]
    return True


def _index(value: Any, step: str) -> Any:
    """The key or position in `value` of a step such as `f:name`, `k:{"name":"a"}` or `v:"a"`; None where it is none."""
    kind, _, name = step.partition(":")
    if kind == "f":
        return name if isinstance(value, dict) and name in value else None
    if not isinstance(value, list) or kind not in ("k", "v"):
        return None
    wanted = json.loads(name)
    for index, item in enumerate(value):
        if item == wanted if kind == "v" else isinstance(item, dict) and wanted.items() <= item.items():
            return index
    return None


def _merge(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The merge patch (RFC 7396) from `before` to `after`, which has no key that `before` has not."""
    made: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if value != before[key]:
            made[key] = _merge(before[key], value) if isinstance(value, dict) else value
    return made


def _shown(path: Path) -> str:
    return ".".join(step.partition(":")[2] for step in path)

"""Audit policies in YAML files: Policy, AuditPipeline (with the policies of its outputs), AuditSink, lists of them.

Loading is strict. kube-apiserver reads a policy file with an unknown field, warns and forgets the field, so that a rule
matches more than it says; here that is an error, as is everything that kube-apiserver refuses.
Source: k8s.io/apiserver/pkg/audit/policy/reader.go.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import yaml

from auditpipeline.core import presets
from auditpipeline.core.conditions.check import problems
from auditpipeline.core.conditions.model import Condition, MatchCondition
from auditpipeline.core.errors import Invalid
from auditpipeline.core.finding import Finding
from auditpipeline.core.floor import has_floor, with_floor
from auditpipeline.core.policy import GroupResources, Policy, Rule, validate
from auditpipeline.core.yamlfile import Document, Position, documents

API_VERSION = "audit.k8s.io/v1"
_NESTED: dict[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {
    (Policy, "rules"): Rule,
    (Rule, "resources"): GroupResources,
}
_HEADER = ("apiVersion", "kind", "metadata")
_OURS = ("omitResponseCodes",)  # fields of AuditPipelines that kube-apiserver does not know
_LEVELS = ("None", "Metadata", "Request", "RequestResponse")


class Source(NamedTuple):
    """One policy of a file.

    `policy` is as it is written, None where it cannot be used; `outer` is what an output's policy narrows; `pipeline`
    says that it is of an AuditPipeline, which has the floor, and `preset` which preset it names. `conditions` are those
    of an AuditPipeline and its outputs; a finding about one has a path that begins with `^`, for `spec`.
    """

    document: Document
    name: str
    base: str
    policy: Policy | None
    findings: tuple[Finding, ...] = ()
    outer: Policy | None = None
    pipeline: bool = False
    preset: str = ""
    conditions: tuple[Condition, ...] = ()

    @property
    def file(self) -> str:
        """The file that it came from."""
        return self.document.file

    @property
    def rules(self) -> Policy:
        """What decides, of a source that is `usable`: the policy, behind the floor where it is a pipeline's."""
        assert self.policy is not None  # noqa: S101
        return with_floor(self.policy) if self.pipeline else self.policy

    @property
    def deciding(self) -> tuple[Condition, ...]:
        """The conditions that take an event away from this policy; those of an output take it from that one."""
        return tuple(each for each in self.conditions if self.outer is not None or not each.output)

    def is_floor(self, rule: int | None) -> bool:
        """Whether that one of `rules` is the floor, which does not stand in the file."""
        return rule == 0 and self.pipeline and not (self.policy and has_floor(self.policy))

    def number(self, rule: int | None) -> int | None:
        """What the file calls that one of `rules`; None for the floor, and for no rule."""
        if rule is None or self.is_floor(rule):
            return None
        return rule - self.is_floor(0)

    def label(self, rule: int | None) -> str:
        """What people call that one of `rules`."""
        if rule is None:
            return "no rule"
        of_preset = f" of preset {self.preset}" if self.preset else ""
        return "the floor" if self.is_floor(rule) else f"rule {self.number(rule)}{of_preset}"

    def place(self, rule: int) -> str:
        """The same, with file and line."""
        return self.label(rule) if self.is_floor(rule) else f"{self.label(rule)} ({self.file}:{self.line(rule)})"

    def line(self, rule: int) -> int:
        """The line of that one of `rules`; that of the policy for the floor."""
        return self.where(rule).line

    def where(self, rule: int) -> Position:
        """Line and column of that one of `rules`; those of the policy for the floor."""
        return self.position("" if self.is_floor(rule) else f"rules[{self.number(rule)}]")

    def path(self, path: str) -> str:
        """A field of the policy, as it is called in the whole object."""
        if path.startswith("^"):
            return self.base.removesuffix("policy") + path[1:]
        return _join(self.base, path)

    def position(self, path: str) -> Position:
        """Where a field of the policy stands; what is in a preset stands where the preset is named."""
        inside = self.preset and path.startswith("rules")
        return self.document.position(self.path("preset" if inside else path))


def read(text: bytes, file: str) -> list[Source]:
    """Every policy of the file, in order; objects of other kinds are passed over. Invalid if it is not valid YAML."""
    return [source for document in documents(text, file) for source in _sources(document, document.value, "")]


def load(text: bytes, file: str, name: str | None = None) -> Source:
    """The one policy of the file, or the one of that name; Invalid with file, line and column where it cannot be used.

    Without a name the policies of outputs do not count: they only narrow the one of their pipeline.
    """
    found = read(text, file)
    chosen = [source for source in found if (source.name == name if name else source.outer is None)]
    if len(chosen) != 1:
        names = ", ".join(source.name for source in found)
        if not found:
            raise Invalid(file, "no policy in it: expected a Policy (audit.k8s.io/v1) or an AuditPipeline")
        raise Invalid(file, f"there are several policies in it, or none of that name; choose one of: {names}")
    return usable(chosen[0])


def usable(source: Source) -> Source:
    """The source, where its policy can be used; otherwise Invalid with the first reason why not."""
    for finding in source.findings:
        if finding.severity == "error":
            line, column = source.position(finding.path)
            where = f"{source.path(finding.path)}: " if finding.path else ""
            raise Invalid(f"{source.file}:{line}:{column}", f"{where}{finding.message}")
    return source


def comment(text: str) -> str:
    """The text as comment lines of a policy file."""
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 118))


# libyaml's takes a sixth of the time; a PyYAML that was built without it has the other one.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def dump(policy: Policy) -> str:
    """The policy as a file that kube-apiserver reads."""
    fields = msgspec.to_builtins(policy)
    rules = fields.pop("rules", [])
    whole = {"apiVersion": API_VERSION, "kind": "Policy", **fields, "rules": rules}
    text: str = yaml.dump(whole, Dumper=_DUMPER, sort_keys=False, default_flow_style=None, width=120)
    return text


def _sources(document: Document, value: Any, base: str) -> Iterator[Source]:
    if not isinstance(value, dict):
        yield _unusable(document, base, "a policy is a mapping with apiVersion, kind and rules")
        return
    version, kind = str(value.get("apiVersion", "")), str(value.get("kind", ""))
    group = version.rpartition("/")[0]
    if not base and kind.endswith("List") and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            yield from _sources(document, item, f"items[{index}]")
    elif (group, kind) == ("auditpipeline.dev", "AuditPipeline"):
        yield from _pipeline(document, value, base)
    elif (group, kind) == ("auditregistration.k8s.io", "AuditSink"):
        policy = _get(value, "spec", "policy")
        if isinstance(policy, dict) and policy.get("rules"):
            rules = {"rules": policy["rules"]}
            yield _source(document, rules, _join(base, "spec.policy"), _name(value), ours=True)
    elif (version, kind) == (API_VERSION, "Policy"):
        fields = {key: field for key, field in value.items() if key not in _HEADER}
        yield _source(document, fields, base, _name(value) or "policy")
    elif "rules" in value and (not version or not kind or group == "audit.k8s.io"):
        yield _unusable(document, base, f"apiVersion {version or 'missing'}, kind {kind or 'missing'}")


def _unusable(document: Document, base: str, said: str) -> Source:
    fix = f"apiVersion: {API_VERSION} and kind: Policy, and below them omitStages and rules"
    return Source(document, "policy", base, None, (Finding("AP001", "", f"this is no audit policy: {said}", fix),))


def _pipeline(document: Document, value: Any, base: str) -> Iterator[Source]:
    name = _name(value)
    spec = _get(value, "spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("policy"), dict):
        yield _unusable(document, base, "an AuditPipeline has its policy in spec.policy")
        return
    whole = _of_pipeline(document, spec["policy"], _join(base, "spec.policy"), name)
    conditions, refused = _conditions(spec)
    whole = whole._replace(conditions=conditions, findings=(*whole.findings, *refused))
    yield whole
    outputs = spec.get("outputs")
    for index, output in enumerate(outputs if isinstance(outputs, list) else ()):
        if isinstance(output, dict) and isinstance(output.get("policy"), dict):
            path = _join(base, f"spec.outputs[{index}].policy")
            inner = _of_pipeline(document, output["policy"], path, f"{name}/{output.get('name', index)}")
            own = tuple(each for each in conditions if each.output in ("", str(output.get("name", ""))))
            yield inner._replace(outer=whole.policy or Policy(), conditions=own)


def _conditions(spec: dict[Any, Any]) -> tuple[tuple[Condition, ...], list[Finding]]:
    """The conditions of a pipeline and of its outputs, and what is wrong with them."""
    outputs = spec.get("outputs")
    found, refused = list[Condition](), list[Finding]()
    places = [("", "^matchConditions", spec.get("matchConditions"))]
    for index, output in enumerate(outputs if isinstance(outputs, list) else ()):
        if isinstance(output, dict):
            where = f"^outputs[{index}].matchConditions"
            places.append((str(output.get("name", index)), where, output.get("matchConditions")))
    for output_name, where, value in places:
        if value is None:
            continue
        try:
            written = msgspec.convert(value, tuple[MatchCondition, ...])
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            refused.append(_refused(where + path.rstrip("`"), message[:1].lower() + message[1:]))
            continue
        refused += [_refused(each.path, each.message) for each in problems(written, where)]
        found += [Condition(each.name, each.expression, output_name) for each in written]
    return tuple(found), refused


def _refused(path: str, message: str) -> Finding:
    return Finding("AP008", path, message, "a condition as docs/conditions.md has them, or leave it out")


def _of_pipeline(document: Document, value: dict[Any, Any], base: str, name: str) -> Source:
    """The policy of an AuditPipeline or of one of its outputs: rules, or a preset."""
    if "preset" not in value:
        return _source(document, value, base, name, ours=True)._replace(pipeline=True)
    findings: list[Finding] = []
    wanted = str(value["preset"])
    names = ", ".join(presets.NAMES)
    if wanted not in presets.NAMES:
        near = difflib.get_close_matches(wanted, presets.NAMES, 1)
        findings.append(Finding("AP006", "preset", f"there is no preset {wanted!r}", near[0] if near else names))
    for field in value:
        if field != "preset":
            said = "a preset is a whole policy: nothing can stand beside it"
            findings.append(Finding("AP006", str(field), said, "preset alone, or rules copied from it and changed"))
    policy = next((presets.preset(each) for each in presets.NAMES if each == wanted and not findings), None)
    return Source(document, name, base, policy, tuple(findings), pipeline=True, preset=wanted)


def _source(document: Document, value: dict[Any, Any], base: str, name: str, *, ours: bool = False) -> Source:
    findings: list[Finding] = []
    policy = None
    try:
        policy = msgspec.convert(_known(value, Policy, "", findings, ours), Policy)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        said = message[:1].lower() + message[1:].replace("`", "")
        findings.append(Finding("AP003", path.rstrip("`").lstrip("."), said, _typed(said)))
    for path, _ in document.repeated():
        if path.startswith(base):
            inner = path.removeprefix(base).lstrip(".")
            findings.append(
                Finding("AP004", inner, "this field stands twice", "one of the two, with all that it holds")
            )
    if policy is not None and not findings:
        if not policy.rules:
            findings.append(
                Finding("AP005", "", "a policy with 0 rules is refused", "at least one rule, e.g. level: None")
            )
        findings += [
            Finding("AP006", problem.path.lstrip("."), problem.message, _accepted(policy, problem))
            for problem in validate(policy, "")
        ]
    good = not any(finding.severity == "error" for finding in findings)
    return Source(document, name, base, policy if good else None, tuple(findings))


def _known(value: Any, kind: type[msgspec.Struct], path: str, findings: list[Finding], ours: bool) -> Any:
    """The value without unknown fields and without nulls, which kube-apiserver reads as if they were not there."""
    if not isinstance(value, dict):
        return value
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    names = names if ours else [name for name in names if name not in _OURS]
    kept = {}
    for name, content in value.items():
        inner = _join(path, str(name))
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1, 0.7)
            fix = near[0] if near else f"one of {', '.join(names)}"
            findings.append(Finding("AP002", inner, f"unknown field {name!r}: kube-apiserver passes over it", fix))
            continue
        if content in (None, []) and kind is not Policy and name != "omitManagedFields":
            fix = "the values that are meant, or leave the field out"
            findings.append(Finding("AP007", inner, f"{name} is empty, and then everything matches", fix))
        below = _NESTED.get((kind, str(name)))
        if below and isinstance(content, list):
            kept[name] = [_known(item, below, f"{inner}[{i}]", findings, ours) for i, item in enumerate(content)]
        elif content is not None:
            kept[name] = content
    return kept


def _typed(said: str) -> str:
    if "str, got" in said:
        return "text in quotes"
    return "a list, as in [a, b]" if "array, got" in said else "what the message expects"


def _accepted(policy: Policy, problem: Invalid) -> str:
    """What to write instead of what kube-apiserver refuses."""
    field = problem.path.rpartition(".")[2].partition("[")[0]
    rule = Finding("AP006", problem.path, "", "").rule
    if field == "level" and rule is not None:
        near = difflib.get_close_matches(policy.rules[rule].level.title(), _LEVELS, 1)
        return near[0] if near else ", ".join(_LEVELS)
    if field == "group" and rule is not None:
        groups = [entry.group for entry in policy.rules[rule].resources if "/" in entry.group]
        return groups[0].partition("/")[0] if groups else "the group alone, without a version"
    if field == "resourceNames":
        return "resources beside resourceNames"
    if field == "nonResourceURLs":
        return "paths that begin with / and have * at the end alone, in a rule without resources and namespaces"
    return "RequestReceived, ResponseStarted, ResponseComplete or Panic" if field == "omitStages" else "a valid value"


def _name(value: Any) -> str:
    return str(_get(value, "metadata", "name") or "")


def _get(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _join(base: str, path: str) -> str:
    return f"{base}.{path}" if base and path and not path.startswith("[") else base + path

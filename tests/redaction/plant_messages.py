"""Secrets in what the API server answers when it refuses a body: messages repeat values, or the whole body."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.redaction.events import SECRETS, Event, Resource, as_object, event, failure
from tests.redaction.marks import Mint, encoded
from tests.redaction.plant_pods import NAMES, PODS, WORKLOADS, whole
from tests.redaction.plant_secrets import either
from tests.redaction.spelling import text

DENIED = 'admission webhook "policy.example.com" denied the request: '


def quoted(value: str) -> str:
    """As Go's %q writes it."""
    return json.dumps(value, ensure_ascii=False)


def in_go(value: Any) -> str:
    """As Go's %v writes maps and slices."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{in_go(inner)}" for key, inner in sorted(value.items())) + "]"
    return "[" + " ".join(map(in_go, value)) + "]" if isinstance(value, list) else str(value)


def _cut(body: str, at: int) -> str:
    """What a decoder of a former release repeats of the body around its error (json-iterator's iter.go)."""
    near, wide = body[max(0, at - 10) : at + 10], body[max(0, at - 50) : at + 50]
    return f"error found in #10 byte of ...|{near}|..., bigger context ...|{wide}|..."


def _undecoded(kind: str, body: str, mark: str) -> str:
    said = (
        f"v1.{kind}.ObjectMeta: v1.ObjectMeta.TypeMeta: Kind: Data: decode base64: illegal base64 data at input byte 8"
    )
    return f'{kind} in version "v1" cannot be handled as a {kind}: {said}, {_cut(body, body.index(mark) + len(mark))}'


def of_secret(mint: Mint) -> dict[str, Callable[[], tuple[str, str, int]]]:
    """What may be said of a Secret: a field, a message about it, the code."""
    quote = mint.pick("`", "'")
    known = 'Secret "db" is invalid: data[password]: Invalid value: '

    def undecoded() -> tuple[str, str, int]:
        mark = mint.mark()
        return "", _undecoded("Secret", text({"data": {"password": mark}, "kind": "Secret"}), mark), 400

    def untyped() -> tuple[str, str, int]:
        said = f".stringData.x: expected string, got &value.valueUnstructured{{Value:{mint.number()}}}"
        return "", f"failed to create typed patch object (team/db; /v1, Kind=Secret): {said}", 422

    return {
        "a value": lambda: ("data[password]", f"{known}{quoted(mint.text())}: must be base64", 422),
        "a value in JSON": lambda: ("data", f"{known}{text({'a': mint.text()})}: must be strings", 422),
        "a patched object": lambda: (
            "patch",
            f' "" is invalid: patch: Invalid value: {quoted(text(either(mint)))}: odd',
            422,
        ),
        "a patch in Go": lambda: (
            "patch",
            f' "" is invalid: patch: Invalid value: {quoted(in_go({"stringData": {"x": mint.text(), "y": 1}}))}: odd',
            422,
        ),
        "a body of a decoder": undecoded,
        "a value of another type": untyped,
        "a denial": lambda: ("", f"{DENIED}the password {quoted(mint.text())} is too weak", 403),
        "a cause of a denial": lambda: ("data", f"{DENIED} is invalid: x: the password {mint.word()} is too weak", 403),
        "a value in other quotes": lambda: (
            "data",
            f"cannot unmarshal !!str {quote}{mint.word()}{quote} into int",
            400,
        ),
        "a denial in base64": lambda: ("", f"{DENIED}data.password={encoded(mint.text())}", 400),
    }


def of_pod(mint: Mint) -> dict[str, Callable[[], tuple[str, str, int]]]:
    """What may be said of an object that makes Pods."""
    kind = mint.pick("Pod", "Deployment", "Job", "CronJob")

    def name() -> str:
        return mint.pick(*NAMES[mint.pick(*NAMES)])

    def immutable() -> tuple[str, str, int]:
        env = f'core.EnvVar{{Name:"{name()}", Value:{quoted(mint.text())}, ValueFrom:(*core.EnvVarSource)(nil)}}'
        args = f'Args:[]string{{"serve", "--password={mint.word()}"}}'
        made = f'core.Container{{Name:"app", Image:"a:1", {args}, Env:[]core.EnvVar{{{env}}}}}'
        spec = f'core.PodTemplateSpec{{ObjectMeta:v1.ObjectMeta{{Name:""}}, Spec:core.PodSpec{{Containers:[]{made}}}}}'
        return (
            "spec.template",
            f'Job.batch "db" is invalid: spec.template: Invalid value: {spec}: field is immutable',
            422,
        )

    def differing() -> tuple[str, str, int]:
        lines = mint.one_of(
            lambda: [f'- \t\tEnv: []core.EnvVar{{{{Name: "{name()}", Value: {quoted(mint.text())}}}}},'],
            lambda: [f'  \t\t\t\tName: "{name()}",', f"- \t\t\t\tValue: {quoted(mint.text())},"],
            lambda: [f'   "name": "{name()}",', f'-  "value": {quoted(mint.text())}'],
            lambda: [f'+ \t\tArgs: []string{{"--password", {quoted(mint.text())}}},'],
        )
        said = "pod updates may not change fields other than `spec.containers[*].image`\n  core.PodSpec{\n"
        return "spec", f'Pod "db" is invalid: spec: Forbidden: {said}' + "\n".join(lines) + "\n  }\n", 422

    def undecoded() -> tuple[str, str, int]:
        mark = mint.mark()
        return "", _undecoded(kind, text({"env": [{"name": name(), "value": mark}], "kind": kind}), mark), 400

    def patched() -> tuple[str, str, int]:
        made = quoted(text(whole(mint, mint.pick(*WORKLOADS))))
        return "patch", f' "" is invalid: patch: Invalid value: {made}: odd', 422

    return {
        "a value": lambda: (
            "spec.containers[0].env[0].value",
            f'{kind} "db" is invalid: spec.containers[0].env[0].value: Invalid value: {quoted(mint.text())}: odd',
            422,
        ),
        "a template in Go": immutable,
        "a difference in Go": differing,
        "a patched object": patched,
        "a patch in Go": lambda: (
            "patch",
            f' "" is invalid: patch: Invalid value: {quoted(in_go(whole(mint, mint.pick(*WORKLOADS))))}: odd',
            422,
        ),
        "a body of a decoder": undecoded,
        "a denial": lambda: ("", f"{DENIED}container app sets {name()}={quoted(mint.text())}", 403),
    }


def said(mint: Mint, of: Resource, name: str) -> Event:
    """A refused request: the message is in responseStatus, in its causes, and, if it is recorded, in the response."""
    field, message, code = (of_secret if of is SECRETS else of_pod)(mint)[name]()
    short = message.partition("is invalid: ")[2].partition(": ")[2] or message
    status = failure(
        message, [{"reason": "FieldValueInvalid", "message": short, "field": field}] if field else None, code
    )
    status["details"] |= {"kind": of.kind}
    level = mint.pick("Metadata", "Request", "RequestResponse", "RequestResponse")
    response = as_object(status) if level == "RequestResponse" and mint.often(0.7) else None
    return event(mint, mint.pick("create", "update", "patch"), of, None, response, status=status, level=level)


def refused(mint: Mint) -> Event:
    """What a ValidatingAdmissionPolicy that only audits notes (pkg/admission/plugin/policy)."""
    failed = {"message": f"the password {quoted(mint.text())} is too weak", "policy": "strength", "binding": "all"}
    noted = [{**failed, "expressionIndex": 0, "validationActions": ["Audit"]}]
    annotations = {"validation.policy.admission.k8s.io/validation_failure": text(noted)}
    return event(mint, "create", SECRETS, annotations=annotations)


def of_some(mint: Mint, name: str) -> Event:
    """The same of an object that makes Pods."""
    return said(mint, mint.pick(PODS, *(workload.resource for workload in WORKLOADS)), name)


KINDS: dict[str, Callable[[Mint], Event]] = {
    "message of a Secret: a refusal by a policy": refused,
    **{f"message of a Secret: {name}": partial(said, of=SECRETS, name=name) for name in of_secret(Mint(0))},
    **{f"message of a Pod: {name}": partial(of_some, name=name) for name in of_pod(Mint(0))},
}

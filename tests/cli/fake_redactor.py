"""A stand-in for the engine: values of Secrets, what was last applied of them, and tokens in URLs."""

from __future__ import annotations

import json
import re
from typing import Any

from auditpipeline.core.errors import Permanent
from auditpipeline.core.event import decode_event
from auditpipeline.core.redaction.redactor import Redacted

LAST = "kubectl.kubernetes.io/last-applied-configuration"


def line(_: object, data: bytes) -> Redacted:
    decode_event(data)
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise Permanent("the event cannot be read: odd") from None
    count = [0]
    uri = event.get("requestURI", "")
    new, taken = re.subn(r"((?:access_)?token=)(?!REDACTED)[^&]+", r"\1REDACTED", uri)
    if taken:
        event["requestURI"], count[0] = new, taken
    if event.get("objectRef", {}).get("resource") == "secrets":
        for body in ("requestObject", "responseObject"):
            _secrets(event.get(body), count)
    if not count[0]:
        return Redacted(data, 0)
    event.setdefault("annotations", {})["auditpipeline.dev/redacted"] = str(count[0])
    return Redacted(json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode(), count[0])


def _secrets(value: Any, count: list[int]) -> None:
    if isinstance(value, list):
        for each in value:
            _secrets(each, count)
    if not isinstance(value, dict):
        return
    for name, mask in (("data", "UkVEQUNURUQ="), ("stringData", "REDACTED")):
        if isinstance(value.get(name), dict):
            for key, was in value[name].items():
                if was != mask:
                    value[name][key] = mask
                    count[0] += 1
    for key, inner in value.items():
        if key == LAST:
            found = json.loads(inner)
            before = count[0]
            _secrets(found, count)
            if count[0] != before:
                value[key] = json.dumps(found)
        else:
            _secrets(inner, count)

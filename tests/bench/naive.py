"""The receiver that one writes in an afternoon: aiohttp, json, a loop over the rules, append, fsync, 200.

What `auditpipeline serve` is measured against. It is no strawman: it decides as kube-apiserver does (`make
bench-policy` holds it against the real filter) and answers after the fsync; it has no queue, no retries, no second
output.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.bench.comparison import Handler, parser, serve

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
Plain = Mapping[str, Any]


def naive(event: Plain, policy: Plain) -> tuple[str, list[str]]:
    """Level and omitted stages of an event, as a receiver without an engine decides: dicts and loops."""
    for rule in policy["rules"]:
        if naive_match(rule, event):
            return rule["level"], policy.get("omitStages", []) + rule.get("omitStages", [])
    return "None", policy.get("omitStages", [])


def naive_match(rule: Plain, event: Plain) -> bool:
    """Every comparison of the evaluator, straight from the dicts."""
    ref = event.get("objectRef")
    if not naive_user(rule, event.get("user", {})) or (rule.get("verbs") and event["verb"] not in rule["verbs"]):
        return False
    if rule.get("namespaces") or rule.get("resources"):
        if not ref or (rule.get("namespaces") and ref.get("namespace", "") not in rule["namespaces"]):
            return False
        return not rule.get("resources") or any(naive_resource(entry, ref) for entry in rule["resources"])
    if rule.get("nonResourceURLs"):
        path = event["requestURI"].split("?")[0]
        return not ref and any(naive_path(path, url) for url in rule["nonResourceURLs"])
    return True


def naive_user(rule: Plain, user: Plain) -> bool:
    """Whether a rule takes the user."""
    if rule.get("users") and user.get("username") not in rule["users"]:
        return False
    return not rule.get("userGroups") or any(group in rule["userGroups"] for group in user.get("groups") or [])


def naive_resource(entry: Plain, ref: Plain) -> bool:
    """Whether an entry of a rule takes the object."""
    if entry.get("group", "") not in ("*", ref.get("apiGroup", "")):
        return False
    if not entry.get("resources"):
        return True
    if entry.get("resourceNames") and ref.get("name", "") not in entry["resourceNames"]:
        return False
    resource, sub = ref.get("resource", ""), ref.get("subresource", "")
    combined = f"{resource}/{sub}" if sub else resource
    return any(w in ("*", combined, f"{resource}/*") or (sub and w == f"*/{sub}") for w in entry["resources"])


def naive_path(path: str, url: str) -> bool:
    """Whether a URL of a rule takes the path."""
    return path.startswith(url.rstrip("*")) if url.endswith("*") else path == url


def json_route(body: bytes, policy: Plain) -> list[bytes]:
    """Decode, decide, cut and encode with the standard library and the naive loop."""
    lines = []
    for event in json.loads(body)["items"]:
        level, stages = naive(event, policy)
        reached = min(level, event["level"], key=LEVELS.index)
        if reached == "None" or event["stage"] in stages:
            continue
        event["level"] = reached
        if reached != "RequestResponse":
            event.pop("responseObject", None)
        if reached == "Metadata":
            event.pop("requestObject", None)
        lines.append(json.dumps(event, separators=(",", ":")).encode())
    return lines


def receiver(target: Path, policy: Plain) -> Handler:
    """Appends what the policy wants to `target`."""
    file = target.open("ab")

    async def receive(request: web.Request) -> web.Response:
        lines = json_route(await request.read(), policy)
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
        return web.Response()

    return receive


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    asyncio.run(serve(receiver(options.target, json.loads(options.policy.read_text())), options.pki))

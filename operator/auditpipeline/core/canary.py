"""The canary: a request that means nothing, made so that its audit event can be looked for at the other end.

    GET /auditpipeline-canary/SOURCE/ID     SOURCE: which API server was asked, ID: which of the requests it was

There is nothing at that path, so that it is answered with 404 (403 where RBAC does not know it), and audited as any
other request. CANARY is the rule that the static policy has for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from auditpipeline.core.event import Raw
from auditpipeline.core.floor import with_first
from auditpipeline.core.policy import Attributes, Level, Policy, Rule, decide

PATH, LONGEST = "/auditpipeline-canary/", 64
CANARY = Rule(level="Metadata", verbs=("get",), non_resource_urls=(f"{PATH}*",))
CANARY_POLICY = Policy((CANARY,), omit_stages=("RequestReceived", "ResponseStarted"))
"""What the canary asks of the static policy: one event a request, when it is done."""


class Sighting(NamedTuple):
    """One canary's event: the API server that it was sent to, which it was, and when that server received it."""

    source: str
    number: str
    received: float


class _Event(msgspec.Struct):
    request_uri: str = msgspec.field(default="", name="requestURI")
    stage: str = ""
    # One without a zone says nothing, and some of them are no time at all.
    received: Annotated[datetime, msgspec.Meta(tz=True)] | None = msgspec.field(
        default=None, name="requestReceivedTimestamp"
    )
    user: dict[str, msgspec.Raw] = {}


def path_of(source: str, number: str) -> str:
    """The path of one canary."""
    return f"{PATH}{source}/{number}"


def emitted(static: Policy) -> bool:
    """Whether an API server with this static policy emits the canary's events, whoever asks."""
    decision = decide(static, Attributes("operator", ("system:authenticated",), "get", path_of("x", "0")))
    return decision.level >= Level.METADATA and "ResponseComplete" not in decision.omit_stages


def with_canary(policy: Policy, user: str) -> Policy:
    """The policy, which lets the canaries of `user` (empty: of anybody) through before anything else."""
    own = msgspec.structs.replace(CANARY, users=(user,) if user else (), omit_stages=CANARY_POLICY.omit_stages)
    return with_first(own, policy)


def sighting(raw: Raw, user: str) -> Sighting | None:
    """What an event tells, if it is a canary of `user` (empty: of anybody)."""
    try:
        event = msgspec.json.decode(msgspec.json.encode(raw), type=_Event)
        name = msgspec.json.decode(event.user.get("username", b'""'), type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    parts = event.request_uri.removeprefix(PATH).split("/")
    ours = event.request_uri.startswith(PATH) and len(parts) == 2 and user in ("", name)
    if ours and event.stage == "ResponseComplete" and event.received and max(map(len, parts)) <= LONGEST:
        return Sighting(parts[0], parts[1], event.received.timestamp())
    return None

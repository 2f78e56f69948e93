"""What is asked of the API servers' static policy, and what they really run with. Values and decisions, no I/O.

    AuditPipelines, foreign AuditSinks --ask--> policies by digest --union--> ConfigMap auditpipeline-static-policy
    file beside each gateway, start of each API server --> Ran: the file, and the policy in force
    (policy in force, policy asked for) --> Coverage, worked out once --> verdict of a pipeline

A file is in force in an API server where that one started after the file last changed (both by the clock of their node;
the start is told up to a second too early, never too late), or where it was seen to start again while the file lay
there unchanged. What was in force stays so until the next start, whatever becomes of the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from auditpipeline.control import names
from auditpipeline.control.apiservers import FORGIVEN, Reading
from auditpipeline.control.facts import Verdict
from auditpipeline.core.canary import emitted
from auditpipeline.core.explain import sentence, summary
from auditpipeline.core.policy import Policy
from auditpipeline.core.union import Memory
from auditpipeline.core.upstream import EXCEPTIONS, SHOWN, Coverage

CLOCKS = 10.0
"""Seconds by which the clocks of nodes may differ: for an API server that cannot be told to be on a file's node."""
TODO = (
    f"copy policy.yaml of ConfigMap {names.STATIC_POLICY} to /etc/kubernetes/auditpipeline/ of each control-plane "
    "node, and restart kube-apiserver"
)

ALONE = (
    "its static policy is not known, and what it emits not taken: does DaemonSet auditpipeline-gateway run on every "
    "control-plane node?"
)


class PolicyFile(NamedTuple):
    """The policy file beside one gateway Pod, as it was reported; `address` is the node's."""

    pod: str
    address: str
    text: str
    changed: float
    error: str = ""

    @property
    def digest(self) -> str:
        """The name of its content."""
        return text_digest(self.text)


class Ran(NamedTuple):
    """One API server beside one file: the digest of the file, and of the policy in force (empty: not known, and why).
    `error` says why the file is of no use; `pending` that the API server is not known to this process yet."""

    server: str
    file: str
    loaded: str
    why: str = ""
    error: str = ""
    pending: bool = False


class _Memory(NamedTuple):
    """What was last known of an API server beside a file: its start, the file then, and the policy in force."""

    start: float
    file: tuple[str, float]
    loaded: str


@dataclass
class UpstreamState:
    """`asked` maps pipelines to digests of policies (empty: none that could ever be read), `foreign` AuditSinks of
    others. `parsed` holds the policies of files by digest of their text, or why they are none. `silent` says since when
    an API server does not answer, `emitting` names those whose policies are known to emit canaries. `settled` says of a
    pipeline for which policy of it a comparison was last finished, `known` of which of them more than a guess was ever
    said. `published` is the digest of the ConfigMap as last
    written, `patience` how long changes are gathered before the next union."""

    asked: dict[str, str] = field(default_factory=dict)
    floored: set[str] = field(default_factory=set)
    foreign: dict[str, str] | None = None
    policies: dict[str, Policy] = field(default_factory=dict)
    files: list[PolicyFile] | None = None
    readings: list[Reading] = field(default_factory=list)
    silent: dict[str, float] = field(default_factory=dict)
    parsed: dict[str, Policy | str] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    covered: dict[tuple[str, str], Coverage] = field(default_factory=dict)
    emitting: frozenset[str] = frozenset()
    published: str = ""
    union_of: frozenset[str] | None = None
    union_text: str = ""
    union_memory: Memory = field(default_factory=Memory)
    settled: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    patience: float = 0.2
    memory: dict[tuple[str, str], _Memory] = field(default_factory=dict)

    def ask(self, pipeline: str, policy: Policy | None, *, floored: bool = False) -> bool:
        """Take in what a pipeline asks for; whether that is another thing than before. `floored`: the floor was put
        before the rules that its user has written, who numbers those."""
        before = self.asked.get(pipeline)
        if policy is None:
            self.asked.setdefault(pipeline, "")
        else:
            self.asked[pipeline] = self._keep(policy)
            (self.floored.add if floored else self.floored.discard)(pipeline)
        return self.asked[pipeline] != before

    def ask_foreign(self, policies: Mapping[str, Policy]) -> bool:
        """Take in what AuditSinks of others ask for; likewise."""
        before = self.foreign
        self.foreign = {name: self._keep(policy) for name, policy in policies.items()}
        return self.foreign != before

    def drop(self, pipeline: str) -> bool:
        """Forget a pipeline that is gone; whether it was known."""
        self.floored.discard(pipeline)
        self.settled.pop(pipeline, None)
        self.known.discard(pipeline)
        return self.asked.pop(pipeline, None) is not None

    def take_files(self, files: list[PolicyFile]) -> bool:
        """Take in what the gateways report; whether anything changed."""
        before, self.files = self.files, files
        return before != files

    def take_readings(self, found: list[Reading]) -> bool:
        """Take in what the API servers say; whether that is another thing than before."""
        before = self._said()
        errors = {reading.server.name: reading.at for reading in found if reading.error}
        self.silent = {name: self.silent.get(name, at) for name, at in errors.items()}
        self.readings = found
        return before != self._said()

    def _said(self) -> list[tuple[object, ...]]:
        return [(each.server, each.start, each.error, self._excused(each)) for each in self.readings]

    def _excused(self, reading: Reading) -> bool:
        """Whether an API server that does not answer may only be starting anew."""
        return bool(reading.error) and reading.at - self.silent.get(reading.server.name, reading.at) < FORGIVEN

    def wanted(self) -> frozenset[str]:
        """The digests of all that is asked for."""
        return frozenset({*self.asked.values(), *(self.foreign or {}).values()} - {""})

    def judge(self) -> None:
        """Say of each file whether it is in force."""
        self.ran = [ran for file in self.files or () for ran in self._beside(file)]
        self.ran += self._alone()
        self.emitting = frozenset(
            reading.server.name for reading in self.readings if self._emits_canary(reading.server.name)
        )
        known = {(file.pod, reading.server.name) for file in self.files or () for reading in self.readings}
        # What a Pod or API server that is away for a moment ran, is still needed when it is back.
        self.memory = {key: kept for key, kept in self.memory.items() if key in known or len(self.memory) < 64}

    def missing(self) -> list[tuple[str, str]]:
        """The pairs of policies that are yet to be compared; forgets what nobody asks for any more."""
        static = {digest for ran in self.ran for digest in (ran.file, ran.loaded) if self._policy(digest)}
        pairs = {(digest, wanted) for digest in static for wanted in self.wanted()}
        self.parsed = {digest: found for digest, found in self.parsed.items() if digest in static or self._used(digest)}
        self.covered = {pair: found for pair, found in self.covered.items() if pair in pairs}
        self.policies = {digest: self.policies[digest] for digest in self.wanted()}
        return sorted(pairs - self.covered.keys())

    def settle(self) -> None:
        """Note of which pipelines all is compared."""
        for pipeline, wanted in self.asked.items():
            if wanted and not any(verdict is None for verdict in self._verdicts(pipeline, wanted)):
                self.settled[pipeline] = wanted
                if not self.is_guess(pipeline):
                    self.known.add(pipeline)

    def verdict(self, pipeline: str) -> Verdict | None:
        """What UpstreamCovers says of a pipeline; None if nobody has looked since this process began, or if only the
        API servers' side has changed and is being compared: what was said before is the last that is known."""
        wanted = self.asked.get(pipeline, "")
        if self.files is None or not wanted:
            return None
        if not self.files:
            message = "no gateway Pod runs that could say what kube-apiserver's static policy is"
            return Verdict("Unknown", "GatewayPending", message)
        if not self.readings:
            return None
        verdicts = self._verdicts(pipeline, wanted)
        ranks = {"RulesNotMet": 0, "RestartNeeded": 1, "StaticPolicyUnknown": 2}
        known = [verdict for verdict in verdicts if verdict]
        found = min(known, key=lambda verdict: (ranks.get(verdict.reason, 9), -len(verdict.message)), default=None)
        if found and (len(known) == len(verdicts) or found.reason in ranks):
            return found
        if self.settled.get(pipeline, wanted) != wanted:
            return Verdict("Unknown", "ComparisonPending", "the static policy is being compared")
        return None

    def is_guess(self, pipeline: str) -> bool:
        """Whether RestartNeeded is said only because the file is newer than the start of an API server that started
        before this process began: what it runs with may do as well, and a former process may have known."""
        verdict = self.verdict(pipeline)
        unknown = all(not ran.loaded for ran in self.ran if not ran.error)
        return verdict is not None and verdict.reason == "RestartNeeded" and unknown and pipeline not in self.known

    def _verdicts(self, pipeline: str, wanted: str) -> list[Verdict | None]:
        """The verdict of each API server; None for one whose policy is yet to be compared."""
        return [self._of(ran, wanted, pipeline in self.floored) for ran in self.ran] or [None]

    def _of(self, ran: Ran, wanted: str, floored: bool) -> Verdict | None:
        if ran.error:
            return Verdict("Unknown", "StaticPolicyUnknown", ran.error)
        file, loaded = self.covered.get((ran.file, wanted)), self.covered.get((ran.loaded, wanted))
        if ran.pending or file is None or (ran.loaded and loaded is None):
            return None
        if loaded is not None and not _sure(loaded.gaps):
            return _met(loaded)
        if _sure(file.gaps):
            static, where = (ran.loaded, "runs with") if loaded else (ran.file, "has beside it")
            text = self._gaps(loaded or file, static, wanted, floored)
            return Verdict("False", "RulesNotMet", f"the static policy that {ran.server} {where} {text}; {TODO}")
        return _not_in_force(ran, file)

    def _gaps(self, found: Coverage, static: str, wanted: str, floored: bool) -> str:
        """The first rules that are not met, with an example of each."""
        policy, base, said = self.policies[wanted], self._policy(static), []
        gaps = [gap for gap in found.gaps if gap.request]
        for gap in gaps:
            rule = "no rule" if gap.decided_by is None else f"rule {gap.decided_by}"
            if base and gap.decided_by is not None:
                rule += f" ({_short(summary(base.rules[gap.decided_by]), 60)})"
            what = sentence(gap.request) if gap.request else ""
            shown = _short(summary(policy.rules[gap.rule]), 80)
            own = "the floor" if floored and gap.rule == 0 else f"rule {gap.rule - floored}"
            said.append(f"{own} ({shown}) is {gap.reason}, e.g. {what}, decided by {rule} of it")
        return f"does not meet {'these rules' if len(said) > 1 else 'this rule'}: {'; '.join(said[:SHOWN])}"[:640]

    def _beside(self, file: PolicyFile) -> Iterable[Ran]:
        policy = self.parsed.get(file.digest)
        error = file.error or (policy if isinstance(policy, str) else "")
        if error:
            what = f"gateway Pod {file.pod} cannot tell kube-apiserver's static policy"
            yield Ran("kube-apiserver", "", "", error=f"{what} (policy.yaml on its node): {error}")
            return
        own = [reading for reading in self.readings if reading.server.address == file.address]
        for reading in own or self.readings:
            single = len(self.readings) == 1 and len(self.files or ()) == 1
            yield self._ran(file, reading, 0.0 if own or single else CLOCKS)
        if not self.readings:
            yield Ran("kube-apiserver", file.digest, "", pending=True)

    def _alone(self) -> Iterable[Ran]:
        """The API servers that no file is beside, as far as addresses tell: one of another address may be beside any
        of them, but not beside two."""
        addresses = {file.address for file in self.files or ()}
        alone = [reading.server for reading in self.readings if reading.server.address not in addresses]
        strangers = addresses - {reading.server.address for reading in self.readings}
        if self.files and len(alone) > len(strangers):
            for server in alone:
                yield Ran(server.name, "", "", error=f"no gateway Pod runs beside {server.name}, so that {ALONE}")

    def _ran(self, file: PolicyFile, reading: Reading, clocks: float) -> Ran:
        key = (file.pod, reading.server.name)
        before, here = self.memory.get(key), (file.digest, file.changed)
        if self._excused(reading):
            return Ran(reading.server.name, file.digest, before.loaded if before else "", pending=before is None)
        if reading.error:
            why = f"{reading.server.name} does not say since when it runs: {reading.error}"
            return Ran(reading.server.name, file.digest, "", why=why)
        loaded = ""
        if reading.start >= file.changed + clocks or (before and before.start != reading.start and before.file == here):
            loaded = file.digest
        elif before and before.start == reading.start:
            loaded = before.loaded
        self.memory[key] = _Memory(reading.start, here, loaded)
        return Ran(reading.server.name, file.digest, loaded)

    def _emits_canary(self, server: str) -> bool:
        """Whether all that the API server may run with emits canaries; as before, while it cannot be asked."""
        known = [ran for ran in self.ran if ran.server == server and not (ran.error or ran.pending)]
        said = [ran for ran in known if ran.loaded or not ran.why]
        if not said:
            return server in self.emitting
        policies = [self._policy(ran.loaded) for ran in said]
        return all(policy is not None and emitted(policy) for policy in policies)

    def _used(self, text: str) -> bool:
        """Whether a file that is there, or an API server that is away for a moment, may still need it."""
        return any(text in (kept.loaded, kept.file[0]) for kept in self.memory.values()) or text in {
            file.digest for file in self.files or ()
        }

    def _policy(self, text: str) -> Policy | None:
        found = self.parsed.get(text)
        return found if isinstance(found, Policy) else None

    def _keep(self, policy: Policy) -> str:
        digest = policy_digest(policy)
        self.policies.setdefault(digest, policy)
        return digest


def policy_digest(policy: Policy) -> str:
    """The name of a policy's content."""
    return hashlib.blake2b(msgspec.json.encode(policy, order="deterministic"), digest_size=12).hexdigest()


def text_digest(text: str) -> str:
    """The name of a file's content."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _sure(gaps: Iterable[object]) -> bool:
    """Whether one of the gaps has an example: the others could only not be shown to be none."""
    return any(getattr(gap, "request", None) for gap in gaps)


def _not_in_force(ran: Ran, file: Coverage) -> Verdict:
    """What is said where the file would do, and is not what the API server runs with."""
    if file.gaps:
        return Verdict("Unknown", "StaticPolicyUnknown", f"the policies are too large to be compared: {TODO}")
    if not ran.loaded and ran.why:
        return Verdict("Unknown", "StaticPolicyUnknown", ran.why)
    message = f"the static policy file records what is asked for, but {ran.server} started before it changed"
    return Verdict("False", "RestartNeeded", f"{message}: restart kube-apiserver")


def _met(found: Coverage) -> Verdict:
    if found.gaps:
        return Verdict("Unknown", "StaticPolicyUnknown", f"the policies are too large to be compared: {TODO}")
    message = "kube-apiserver's static policy records all that is asked for"
    if found.exceptions:
        left = ", ".join(EXCEPTIONS[kind] for kind in found.exceptions)
        return Verdict("True", "CoveredWithExceptions", f"{message}, but for what no rule asks for by name: {left}")
    return Verdict("True", "Covered", message)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."

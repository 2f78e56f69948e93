"""Talks to `main.go` beside this file: kube-apiserver's audit policy code behind JSON lines.

One process answers everything; it is built once, with Go, into the user's cache folder.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import msgspec

from auditpipeline.core.policy import Attributes, Policy
from tests.cluster import binaries


class Oracle:
    """One process of the program; every question is answered before the next may be asked."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Builds it where needed, starts it and ends it; raises `binaries.Missing` where there is no Go."""
        program = binaries.find("policy-oracle")["policy-oracle"]
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield cls(process)
            assert process.stdin
            process.stdin.close()

    def decide(self, policy: Policy, requests: Iterable[Attributes]) -> list[dict[str, Any]]:
        """`level`, `omitStages` and `omitManagedFields` of each request."""
        return list(self._ask("decide", policy=_plain(policy), requests=_requests(requests))["decisions"])

    def validate(self, policy: Policy) -> list[str]:
        """The errors of ValidatePolicy, in its words."""
        return list(self._ask("validate", policy=_plain(policy))["errors"])

    def load(self, text: str) -> str:
        """The error of LoadPolicyFromBytes; empty where it loads."""
        return str(self._ask("load", text=text).get("error", ""))

    def address(self, paths: Iterable[str]) -> list[dict[str, str]]:
        """`verb`, `resource`, `namespace` and `name` of a POST to each path, as RequestInfoFactory finds them."""
        return list(self._ask("address", paths=list(paths))["addresses"])

    def read(self, log: bytes) -> list[str]:
        """The auditIDs of a log, as Kubernetes' own decoder reads it; AssertionError if it refuses a line."""
        answer = self._ask("read", data=log)
        assert "error" not in answer, answer["error"]
        return list(answer["ids"])

    def valid(self, data: bytes) -> bool:
        """Whether Go takes the data for JSON, and kube-apiserver passes it on."""
        return bool(self._ask("valid", data=data)["valid"])

    def bench(self, policy: Policy, requests: Iterable[Attributes], seconds: float) -> float:
        """Nanoseconds that one decision takes the evaluator, on one core."""
        return float(
            self._ask("bench", policy=_plain(policy), requests=_requests(requests), seconds=seconds)["nanoseconds"]
        )

    def _ask(self, op: str, **question: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode({"op": op, **question}) + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"policy-oracle ended with {self._process.wait()}; its standard error says why")
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found


def _plain(policy: Policy) -> Any:
    """Without what kube-apiserver does not know."""
    rules = tuple(msgspec.structs.replace(rule, omit_response_codes=()) for rule in policy.rules)
    return msgspec.to_builtins(msgspec.structs.replace(policy, rules=rules))


def _requests(requests: Iterable[Attributes]) -> list[dict[str, Any]]:
    return [request._asdict() for request in requests]

"""Errors have the words of kube-apiserver, which people search for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from auditpipeline.core.policy import Policy, validate

STAGES = "RequestReceived,ResponseStarted,ResponseComplete,Panic"


LEVELS = '"None", "Metadata", "Request", "RequestResponse"'


@pytest.mark.parametrize(
    ("policy", "path", "message"),
    [
        ({"rules": [{}]}, "p.rules[0].level", "Required value"),
        (
            {"rules": [{"level": "metadata"}]},
            "p.rules[0].level",
            f'Unsupported value: "metadata": supported values: {LEVELS}',
        ),
        (
            {"rules": [{"level": "None"}, {"level": "None", "nonResourceURLs": ["/ok", "a"]}]},
            "p.rules[1].nonResourceURLs[1]",
            "Invalid value: \"a\": non-resource URL rules must begin with a '/' character",
        ),
        (
            {"omitStages": ['a"\n']},
            "p.omitStages[0]",
            f'Invalid value: "a\\"\\n": allowed stages are {STAGES}',
        ),
        (
            {"rules": [{"level": "None", "resources": [{"resourceNames": ["x", "<"]}]}]},
            "p.rules[0].resources.resourceNames",
            'Invalid value: ["x","\\u003c"]: using resourceNames requires at least one resource',
        ),
    ],
)
def test_an_error_reads_as_kube_apiservers(policy: dict[str, Any], path: str, message: str) -> None:
    """Field, kind of error, value and detail; one line a case. tests/oracle compares them with the real ones."""
    found = validate(msgspec.convert(policy, Policy), "p")
    assert [(problem.path, problem.message) for problem in found] == [(path, message)]


def test_a_policy_file_has_no_prefix() -> None:
    """Its fields are at the top."""
    assert validate(msgspec.convert({"rules": [{}]}, Policy), "")[0].path == "rules[0].level"

"""The quick way through Pod templates against the way that takes everything apart: what is left is the same."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditpipeline.core.redaction.places import PLACES, Key
from auditpipeline.core.redaction.shapes import Anywhere
from auditpipeline.core.redaction.sieve import Sieve
from auditpipeline.core.redaction.taking import Taker
from tests.bench import objects

ANYWHERE = Anywhere(tuple((place.key, place.shape) for place in PLACES if isinstance(place, Key)))
SHAPES = {key.lower(): ANYWHERE.member(key) for key, _ in ANYWHERE.keys}

word = st.sampled_from(
    [
        "a",
        "DB_PASSWORD",
        "API_TOKEN",
        "LOG_LEVEL",
        "x=1",
        "--password=a",
        "--password",
        "hunter2",
        "mysql",
        "-pX",
        "-u",
        "<&>",
        "ü",
        'q"',
    ]
)
line = st.lists(word, max_size=4)
pair = st.fixed_dictionaries(
    {"name": word}, optional={"value": word, "valueFrom": st.just({"fieldRef": {"fieldPath": "x"}})}
)
action = st.one_of(
    st.fixed_dictionaries({"exec": st.fixed_dictionaries({"command": line})}),
    st.fixed_dictionaries({"httpGet": st.fixed_dictionaries({"httpHeaders": st.lists(pair, max_size=2)})}),
)
container = st.fixed_dictionaries(
    {"name": word},
    optional={
        "env": st.lists(pair, max_size=3),
        "command": line,
        "args": line,
        "livenessProbe": action,
        "lifecycle": st.fixed_dictionaries({"preStop": action}),
        "envFrom": st.just([{"secretRef": {"name": "a"}}]),
    },
)
spec = st.fixed_dictionaries(
    {"containers": st.lists(container, max_size=2)}, optional={"initContainers": st.lists(container, max_size=1)}
)
template = st.fixed_dictionaries({"spec": spec})
applied = template.map(
    lambda found: {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(found)}}
)
objects_ = st.one_of(
    st.fixed_dictionaries({"spec": spec}, optional={"metadata": applied}),
    st.fixed_dictionaries({"spec": st.fixed_dictionaries({"template": template})}, optional={"metadata": applied}),
    st.fixed_dictionaries(
        {
            "spec": st.fixed_dictionaries(
                {"jobTemplate": st.fixed_dictionaries({"spec": st.fixed_dictionaries({"template": template})})}
            )
        }
    ),
    st.fixed_dictionaries({"template": template}),
    st.fixed_dictionaries({"items": st.lists(template, max_size=3)}),
    st.fixed_dictionaries({"rows": st.lists(st.fixed_dictionaries({"object": template}), max_size=2)}),
)


def encoded(value: Any) -> msgspec.Raw:
    """As Go encodes it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return msgspec.Raw(text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026").encode())


def walked(body: msgspec.Raw) -> tuple[Any, int]:
    """Returns what is left, level by level, and how many values went."""
    taker = Taker(len(bytes(body)))
    return json.loads(bytes(ANYWHERE.apply(body, taker))), taker.values


@settings(max_examples=300, deadline=None)
@given(st.lists(objects_, min_size=1, max_size=3))
def test_both_ways_lead_to_the_same(bodies: list[Any]) -> None:
    """With one sieve for all of them, which remembers; twice."""
    sieve = Sieve(SHAPES)
    for body in map(encoded, bodies * 2):
        taker = Taker(len(bytes(body)))
        found = sieve.cut(body, taker)
        expected, values = walked(body)
        if found is not None:
            assert (json.loads(bytes(found)), taker.values) == (expected, values)
            assert (found is body) == (values == 0)
        if sieve.is_clean(body, Taker(0)):
            assert values == 0


@pytest.mark.parametrize("secret", [False, True])
@pytest.mark.parametrize("kind", ["pod", "deployment"])
def test_the_quick_way_is_taken(kind: str, secret: bool) -> None:
    """For objects as a cluster has them, and for nothing is it given up."""
    chance, sieve = Random(7), Sieve(SHAPES)
    for _ in range(20):
        made = (
            objects.pod(chance, secret=secret)
            if kind == "pod"
            else objects.deployment(chance, secret=secret, applied=True)
        )
        body, taker = encoded(made), Taker(0)
        found = sieve.cut(body, taker)
        assert found is not None
        assert (found is not body) == bool(taker.values) == secret
        assert json.loads(bytes(found)) == walked(body)[0]


def test_the_same_bytes_elsewhere_are_not_cut_blindly() -> None:
    """What stands at a place that the quick way does not know has to be taken apart."""
    variables = [{"name": "DB_PASSWORD", "value": "x"}]
    body = encoded({"spec": {"containers": [{"env": variables}], "somewhere": {"env": variables}}})
    assert Sieve(SHAPES).cut(body, Taker(0)) is None


@pytest.mark.parametrize(
    "body",
    [
        {"spec": {"containers": [{"lifecycle": {"odd": {"exec": {"command": ["a"]}}}}]}},
        {"spec": {"somewhere": {"env": []}}},
        {"spec": {"containers": [{"Env": []}]}},
        {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}}},
    ],
)
def test_a_patch_is_clean_only_if_each_key_is_where_it_is_known(body: Any) -> None:
    """Whatever is at the key: whoever writes a patch chooses where."""
    assert not Sieve(SHAPES).is_clean(encoded(body), Taker(0))

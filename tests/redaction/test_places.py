"""Each line of the lists of secrets is needed: without it, what is planted for it is there again. So the tests of
`test_planted.py` fail when a line goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from auditpipeline.core.event import decode_event, encode_line
from auditpipeline.core.redaction import names, places, redactor, text, url
from auditpipeline.core.redaction.model import DEFAULT
from auditpipeline.core.redaction.places import PLACES, Place
from auditpipeline.core.redaction.redactor import Redactor
from tests.redaction.events import Event, Resource, event, item
from tests.redaction.marks import Mint, marks_in
from tests.redaction.plant import KINDS, planted
from tests.redaction.plant_pods import TEMPLATE, WORKLOADS, Workload, container, in_bodies, whole
from tests.redaction.plant_uris import AT, EXEC

SEEDS = 12
CAUGHT = {
    "values of Secrets": ("Secret: data in a request", "Secret: data in a Table", "JSON patch: data", "merge patch"),
    "issued tokens": ("TokenRequest: token in the response",),
    "tokens to review": ("TokenReview: token in the request", "TokenReview: token in the response"),
    "environment": (
        "env named *PASSWORD*",
        "pods: env",
        "deployments.apps: list or Table",
        "cronjobs.batch: merge patch",
    ),
    "arguments": ("pods: args",),
    "commands": ("command: sh: -p of mysql", "probes and hooks"),
    "headers": ("probes and hooks",),
    "objects that kapp applied": ("Secret: applied by others",),
    "objects that Rancher applied": ("Secret: applied by Rancher",),
    "objects that Banzai Cloud applied": ("Secret: applied by Banzai Cloud",),
    "applied objects": ("Secret: last-applied in a response", "jobs.batch: last-applied", "JSON patch: last-applied"),
    "patches by webhooks": ("webhook's patch: data", "daemonsets.apps: webhook's patch"),
    "tokens in annotations": ("Secret: a token in an annotation",),
    "refusals by policies": ("message of a Secret: a refusal by a policy",),
    "messages": ("message of a Secret: a value", "message of a Pod: a template in Go"),
    "URIs": ("URI: an argument of the query", "URI: command --password=", "URI: user information"),
}
"""Kinds that are there again without a line of the list, by the name of the line."""


def left(kind: str, used: Redactor) -> frozenset[int]:
    """The secrets of that kind that this redactor leaves, in some events."""
    found = [planted(kind, seed, seed * 100).item for seed in range(SEEDS)]
    return frozenset().union(*(marks_in(_redacted(each, used)) for each in found))


def _redacted(each: bytes, used: Redactor) -> bytes:
    return used.line(encode_line(decode_event(each))).line


def test_every_line_has_kinds_that_need_it() -> None:
    """A new line needs a kind that is planted, or nobody notices when it goes."""
    assert CAUGHT.keys() == {place.name for place in PLACES}
    assert {kind for kinds in CAUGHT.values() for kind in kinds} <= KINDS.keys()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_without_a_line_its_secrets_are_there_again(place: Place) -> None:
    """All of the kinds that the line is for; none of them with the line."""
    without = Redactor(DEFAULT, listed=[each for each in PLACES if each is not place])
    for kind in CAUGHT[place.name]:
        assert left(kind, Redactor(DEFAULT)) == frozenset(), kind
        assert left(kind, without), kind


def named(mint: Mint, name: str) -> Event:
    """A variable and an option of that name."""
    args = ["serve", f"--{name.lower().replace('_', '-')}={mint.word()}"]
    return in_bodies(mint, WORKLOADS[0], container(mint, env=[{"name": name, "value": mint.text()}], args=args))


def option(mint: Mint, name: str) -> Event:
    """An option, and an argument of a URL."""
    script = ["sh", "-c", f"serve --{name.lower()}={mint.word()}"]
    made = in_bodies(
        mint, WORKLOADS[0], container(mint, args=["serve", f"--{name.lower()}={mint.word()}"], command=script)
    )
    return made | {"requestURI": b'"%s/proxy/?%s=%s"' % (AT.encode(), name.lower().encode(), mint.word().encode())}


def tool(mint: Mint, name: str) -> Event:
    """A program with each of its options, as arguments and in a script."""
    words = [each for short in text.TOOLS[name] for each in (short, f"user:{mint.word()}")]
    attached = [f"-p{mint.word()}"] if name in ("mysql", "mariadb") else words
    return in_bodies(
        mint, WORKLOADS[0], container(mint, command=[name, *attached], args=["sh", "-c", " ".join([name, *attached])])
    )


def header(mint: Mint, name: str) -> Event:
    """A header that a probe sends."""
    headers = [{"name": name.title().replace("_", "-"), "value": mint.word()}]
    probe = {"httpGet": {"path": "/", "port": 80, "httpHeaders": headers}}
    return in_bodies(mint, WORKLOADS[1], container(mint, livenessProbe=probe))


def template(mint: Mint, group: str, plural: str = "workloads") -> Event:
    """An object with a Pod template, of that group."""
    way = ("spec",) if plural == "pods" else TEMPLATE
    made = whole(mint, Workload(Resource(plural, "Workload", group), way))
    return event(mint, "create", Resource(plural, "Workload", group), made)


def argument(mint: Mint, name: str) -> Event:
    """A part of a command, as an argument of a URL of that name."""
    return event(mint, "create", EXEC, uri=f"{AT}/exec?{name}=curl&{name}=-u&{name}=user:{mint.word()}")


LISTS: dict[str, tuple[object, str, Callable[[Mint, str], Event], Callable[[str], str]]] = {
    "words": (names, "WORDS", named, lambda word: f"MY_{word}_1"),
    "ends": (names, "ENDS", named, lambda end: f"MY{end}"),
    "whole names": (names, "WHOLE", option, str),
    "headers": (names, "HEADERS", header, str),
    "programs": (text, "TOOLS", tool, str),
    "resources with templates": (places, "TEMPLATES", lambda mint, plural: template(mint, "", plural), str),
    "commands in URLs": (url, "COMMANDS", argument, str),
}


def lines() -> Iterable[tuple[str, str]]:
    """Each list, with each of its lines."""
    return [(name, line) for name, (module, key, _, _) in LISTS.items() for line in getattr(module, key)]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterable[pytest.MonkeyPatch]:
    """Nothing is remembered of names, before and after."""
    names._is_secret.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    names._is_secret.cache_clear()


@pytest.mark.parametrize(("list_", "line"), lines(), ids=" ".join)
def test_without_a_name_its_secrets_are_there_again(fresh: pytest.MonkeyPatch, list_: str, line: str) -> None:
    """Each word, program, resource and argument by itself."""
    module, key, plant, called_ = LISTS[list_]
    events = [item(plant(Mint(seed, seed * 100), called_(line))) for seed in range(4)]
    assert [marks_in(_redacted(each, Redactor(DEFAULT))) for each in events] == [frozenset()] * 4
    whole_list = getattr(module, key)
    without = (
        {k: v for k, v in whole_list.items() if k != line}
        if isinstance(whole_list, dict)
        else tuple(each for each in whole_list if each != line)
    )
    fresh.setattr(module, key, without)
    if module is text:
        fresh.setattr(text, "_PROGRAMS", tuple(without))
    names._is_secret.cache_clear()
    assert all(marks_in(_redacted(each, Redactor(DEFAULT))) for each in events)


def test_a_list_that_changes_has_another_name(fresh: pytest.MonkeyPatch) -> None:
    """Rows that were stored under another list are redacted again: the digest of a filter covers it."""
    before = redactor.edition()
    for module, key, _, _ in LISTS.values():
        whole_list = getattr(module, key)
        fresh.setattr(
            module, key, dict(list(whole_list.items())[1:]) if isinstance(whole_list, dict) else whole_list[1:]
        )
        assert redactor.edition() != before, key
        fresh.setattr(module, key, whole_list)
    assert redactor.edition(PLACES[1:]) != before

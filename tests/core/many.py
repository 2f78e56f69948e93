"""Distinct policies in any number, of several shapes: what the bounds of the union are tested and measured with."""

from __future__ import annotations

import random
from collections.abc import Callable

from auditpipeline.core.policy import GroupResources, Policy, Rule
from auditpipeline.core.presets import preset

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
PARTS = ("users", "namespaces", "resources", "user_groups")


def _on(*resources: str, group: str = "") -> tuple[GroupResources, ...]:
    return (GroupResources(group, resources),)


def apart(number: int) -> Policy:
    """Four rules that no other policy's rules meet."""
    return Policy(
        tuple(
            Rule(level, users=(f"user-{number}-{place}",), namespaces=(f"space-{number}",), resources=_on(f"r{number}"))
            for place, level in enumerate(LEVELS)
        )
    )


def crossing(number: int) -> Policy:
    """Four rules that meet most rules of every other policy."""
    return Policy(
        (
            Rule("None", users=(f"user-{number}",), verbs=("get",)),
            Rule("RequestResponse", namespaces=(f"space-{number}",), resources=_on("secrets")),
            Rule("Request", resources=_on(f"r{number}", group="apps")),
            Rule("Metadata", user_groups=(f"group-{number}",)),
        )
    )


def catching(number: int) -> Policy:
    """Four rules, the last of which takes everything."""
    return Policy(
        (
            Rule("None", users=(f"user-{number}",)),
            Rule("Request", namespaces=(f"space-{number}",)),
            Rule("None", verbs=("watch",)),
            Rule("Metadata"),
        )
    )


def pooled(number: int) -> Policy:
    """Four of a hundred rules."""
    chance = random.Random(number)
    pool = [rule for place in range(25) for rule in crossing(place).rules]
    return Policy(tuple(chance.sample(pool, 4)))


SHAPES: dict[str, Callable[[int], Policy]] = {
    "apart": apart,
    "crossing": crossing,
    "catching": catching,
    "pooled": pooled,
}


def long(number: int, part: str) -> Policy:
    """A policy of so many rules, each of which asks for another value of the part, at changing levels."""

    def value(place: int) -> object:
        return _on(f"r{place}") if part == "resources" else (f"{part}-{place}",)

    return Policy(tuple(Rule(LEVELS[place % 4], **{part: value(place)}) for place in range(number)))  # type: ignore[arg-type]


def like_a_preset(number: int) -> Policy:
    """A preset with one rule more, before its last."""
    base = preset("baseline")
    own = Rule("RequestResponse", namespaces=(f"space-{number}",))
    return Policy((*base.rules[:-1], own, *base.rules[-1:]), base.omit_stages)

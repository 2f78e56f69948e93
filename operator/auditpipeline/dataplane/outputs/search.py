"""Which names a host name may stand for, by the search list of resolv.conf(5), in the order of the C library. Pure.

Kubernetes gives a Pod some three search domains and `ndots:5`: a name with fewer dots is looked for in each of the
domains first, and only then as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_MOST_DOTS = 15


class Search(NamedTuple):
    """The search domains, and how many dots make a name be tried as it is before they are."""

    domains: tuple[str, ...] = ()
    dots: int = 1


def parse(text: str, environment: Mapping[str, str]) -> Search:
    """What resolv.conf and the variables LOCALDOMAIN and RES_OPTIONS say; the last line of a kind is the one that
    counts."""
    domains: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match line.split():
            case ["search", *names]:
                domains = names
            case ["domain", name, *_]:
                domains = [name]
            case ["options", *names]:
                options += names
    if "LOCALDOMAIN" in environment:
        domains = environment["LOCALDOMAIN"].split()
    dots = 1
    for option in [*options, *environment.get("RES_OPTIONS", "").split()]:
        name, _, value = option.partition(":")
        if name == "ndots" and value.isascii() and value.isdecimal():
            dots = min(int(value), _MOST_DOTS)
    return Search(tuple(domain.strip(".") for domain in domains), dots)


def candidates(host: str, search: Search) -> list[str]:
    """The names to ask for, each with its last dot, so that nothing is added to it."""
    if host.endswith("."):
        return [host]
    found = [f"{host}.{domain}." for domain in search.domains if domain]
    return [f"{host}.", *found] if host.count(".") >= search.dots else [*found, f"{host}."]

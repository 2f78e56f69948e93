"""Events that hold secrets, by kind. A kind is one way in which an audit event takes a secret along.

`planted(kind, seed)` makes an event of a kind: the same one for the same seed. `several` makes as many as it takes to
plant so many secrets, of all kinds in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from tests.redaction import (
    plant_commands,
    plant_messages,
    plant_odd,
    plant_patches,
    plant_pods,
    plant_secrets,
    plant_tokens,
    plant_uris,
)
from tests.redaction.events import Event, item
from tests.redaction.marks import Mint

KINDS: dict[str, Callable[[Mint], Event]] = {
    **plant_secrets.KINDS,
    **plant_patches.KINDS,
    **plant_tokens.KINDS,
    **plant_messages.KINDS,
    **plant_pods.KINDS,
    **plant_commands.KINDS,
    **plant_uris.KINDS,
    **plant_odd.KINDS,
}


class Planted(NamedTuple):
    """An event as an item of an EventList, the numbers of the secrets in it, and texts that must stay in it."""

    kind: str
    item: bytes
    secrets: frozenset[int]
    kept: tuple[str, ...]

    @property
    def odd(self) -> bool:
        """Whether a body of it may be removed as a whole."""
        return self.kind.startswith("odd:")


def planted(kind: str, seed: int, first: int = 0) -> Planted:
    """An event of that kind; its secrets have numbers behind `first`."""
    mint = Mint(seed, first)
    made = item(KINDS[kind](mint))
    return Planted(kind, made, frozenset(mint.made), tuple(mint.kept))


def several(secrets: int, seed: int = 0, kinds: Iterable[str] = tuple(KINDS)) -> Iterator[Planted]:
    """Events with so many secrets at least, of all these kinds in turn."""
    made, number, names = 0, 0, list(kinds)
    while made < secrets:
        for kind in names:
            found = planted(kind, seed + number, made)
            made, number = max(found.secrets), number + 1
            yield found

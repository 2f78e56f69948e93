"""Redaction as it is asked for: values that a user writes, a configuration carries, and a digest covers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec.structs import replace

ANNOTATION = "auditpipeline.dev/redacted"
"""On an event that lost something: how many values, as a decimal number."""
MASK, MASK_BASE64 = "REDACTED", "UkVEQUNURUQ="
"""What stands for a value; in the `data` of a Secret, where values are base64, the second one does."""
HASH = "REDACTED-"
"""What a hash begins with; 32 hexadecimal digits follow."""
HASHED = f"{HASH}[0-9a-f]{{32}}"
"""A hash, as a regular expression."""
KEY_BYTES = 32
"""Random bytes that the key of hashes has at least."""
MOST_KEY_BYTES = 4096
"""Longer keys make no better hashes, and the key lies in Secrets beside large configurations."""
MAX_RULES, MAX_PATHS, MAX_PATH, MAX_DEEP = 64, 64, 256, 64
Method = Literal["mask", "hash"]
Action = Literal["remove", "mask", "hash"]


class _Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A value that is the same in a spec, in a file and in a configuration."""


class Selector(_Value, frozen=True):
    """Resources of one API group ("" is the core group): names, `pods/exec` for a subresource, `*` for all. None:
    every resource of the group."""

    group: str = ""
    resources: tuple[str, ...] = ()


class Rule(_Value, frozen=True):
    """Further values to take: those at `paths` (`core.redaction.paths`) of the objects of these resources, in request
    and response. No `resources`: of every object. `remove` takes the key as well."""

    paths: tuple[str, ...]
    resources: tuple[Selector, ...] = ()
    action: Action = "mask"


class Redaction(_Value, frozen=True):
    """Says what is taken: with `default` all that the list of `places` has, by `method`; and what the rules name."""

    default: bool = True
    method: Method = "mask"
    rules: tuple[Rule, ...] = ()

    @property
    def hashes(self) -> bool:
        """Whether a key is needed."""
        return (self.default and self.method == "hash") or any(rule.action == "hash" for rule in self.rules)

    @property
    def masked(self) -> Redaction:
        """The same without hashes: what is taken if there is no key."""
        rules = tuple(replace(rule, action="mask") if rule.action == "hash" else rule for rule in self.rules)
        return Redaction(self.default, "mask", rules)


DEFAULT = Redaction()


Stays = Literal["beside", "request", "response"]
"""A part of an event that stays as it came: a body, or what is beside the bodies."""


def common(wanted: Collection[Redaction]) -> Redaction:
    """What may be taken before events are stored for all of these: what one of them keeps, stays. Each takes the rest
    itself when it delivers."""
    if len(found := set(wanted)) == 1:
        return found.pop()
    hashed = any(each.default and each.method == "hash" for each in found)
    return Redaction(all(each.default for each in found), "hash" if hashed else "mask")

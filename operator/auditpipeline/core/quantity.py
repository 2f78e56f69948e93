"""Kubernetes quantities and Go durations, as numbers: `10Gi` is bytes, `1h30m` is seconds."""

from __future__ import annotations

import re
from decimal import Decimal

from auditpipeline.core.errors import Invalid

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(|k|M|G|T|Ki|Mi|Gi|Ti)")
_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_bytes(text: str, path: str, least: int = 0) -> int:
    """The number of bytes of a quantity such as `100Mi` or `2G`, which has to be `least` or more."""
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise Invalid(path, f"{text!r} is no size: write a number with Ki, Mi, Gi or Ti, such as 100Mi")
    size = int(Decimal(found[1]) * _FACTORS[found[2]])
    if size < least:
        raise Invalid(path, f"{text!r} is too small: at least {least // 2**20}Mi are needed")
    return size


def parse_seconds(text: str, path: str) -> float:
    """The number of seconds of a duration such as `2h` or `1h30m`."""
    if not _DURATION.fullmatch(text):
        raise Invalid(path, f"{text!r} is no duration: write a number with h, m or s, such as 2h or 1h30m")
    return float(sum(Decimal(number) * _UNITS[unit] for number, unit in _PART.findall(text)))

"""File descriptors, and how many connections may be open: memory and descriptors are never a peer's to choose.

    limit of the process = half for spool, outputs and sources  +  a quarter, at most OPS, for the ops listener
                                                                +  the rest, at most AUDIT, for the audit listener

An open connection takes about 70 KB, so that all of them together take at most some 80 MB.
"""

from __future__ import annotations

import resource
from typing import NamedTuple

AUDIT = 1024
OPS = 128
HANDSHAKES = 64
UNKNOWN = 64
_ENOUGH = 65_536
"""A process that may open a billion files makes some libraries walk through all of them."""


class Places(NamedTuple):
    """How many connections one listener may have: in their handshake, of peers that have shown nothing (`unknown`),
    and of those that have shown a certificate or a token (`known`)."""

    handshakes: int
    unknown: int
    known: int


class Shares(NamedTuple):
    """The places of both listeners. Neither can take any of the other's."""

    audit: Places
    ops: Places


def raise_limit() -> int:
    """Raises the soft limit of open files to the hard one, at most to 65,536; the limit that is in force then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


def shares(limit: int) -> Shares:
    """The places under that limit of open files. Some are left even under an absurd one."""
    most = max(32, limit // 2)
    ops = min(OPS, most // 4)
    return Shares(_places(min(AUDIT, most - ops)), _places(ops))


def _places(most: int) -> Places:
    handshakes = min(HANDSHAKES, most // 2)
    unknown = min(UNKNOWN, most // 4)
    return Places(handshakes, unknown, most - handshakes - unknown)

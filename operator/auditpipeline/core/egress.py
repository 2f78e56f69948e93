"""Which addresses outputs may connect to. Pure: whoever connects has looked the name up, and asks for each address.

Refused are addresses that lead to the machine itself, to its link or to the control plane, however they are written:

    form       the address itself, and every IPv4 address that an IPv6 address carries: mapped (::ffff:0:0/96),
               compatible (::/96), translated (64:ff9b::/96, 64:ff9b:1::/48, ::ffff:0:0:0/96), 6to4, Teredo, ISATAP
    refused    loopback, unspecified, link-local, multicast, reserved, metadata services of clouds, the machine's own
               addresses, those of the API servers
    exempt     what the cluster's administrator names: a network, or one port of it

Private networks are allowed: most servers that take events are there. A cluster's own prefix for NAT64 is not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from auditpipeline.core.errors import Invalid

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
API_SERVER = "an address of the API server"
OWN = "an address of this machine"
FORMS = "write 10.1.2.3, 10.1.0.0/16, 10.1.2.3:8080, fd00::/8 or [fd00::1]:8080"
_LOCALHOST = IPv4Address("127.0.0.1")
_KINDS: tuple[tuple[str, tuple[Network, ...]], ...] = tuple(
    (kind, tuple(map(ip_network, networks)))
    for kind, networks in (
        ("a loopback address", ("127.0.0.0/8", "::1")),
        # To Linux, 0.0.0.0 and :: are loopback addresses too.
        ("an unspecified address", ("0.0.0.0/8", "::")),
        # 169.254.169.254, the metadata service of most clouds, is one of these.
        ("a link-local address", ("169.254.0.0/16", "fe80::/10")),
        ("a multicast address", ("224.0.0.0/4", "ff00::/8")),
        ("a reserved address", ("240.0.0.0/4",)),
        # Alibaba, Oracle and Azure; AWS and Google over IPv6.
        (
            "an address of a cloud's metadata service",
            ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"),
        ),
    )
)
_IN_LAST_BITS = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,250}|0[0-7]{0,250}|[1-9][0-9]{0,15}", re.ASCII)
_BRACKETS = re.compile(r"\[([^\[\]]*:[^\[\]]*)\](/[0-9]+)?(?::([0-9]{1,9}))?", re.ASCII)
_PORT = re.compile(r"([^:]*):([0-9]{1,9})", re.ASCII)


class Exempt(NamedTuple):
    """A network that may be connected to, at one port or at all of them (None)."""

    network: Network
    port: int | None


@dataclass(frozen=True)
class Rule:
    """What the administrator allows, and the addresses of the API servers."""

    exempt: tuple[Exempt, ...] = ()
    api_servers: frozenset[Address] = frozenset()


def rule(allow: Iterable[str], api_servers: Iterable[str]) -> Rule:
    """The rule that a configuration stands for. An entry that cannot be read, as a later release may write one, allows
    nothing."""
    exempt = []
    for text in allow:
        try:
            exempt.append(parse(text))
        except Invalid:
            continue
    return Rule(tuple(exempt), frozenset(filter(None, map(literal, api_servers))))


def parse(text: str, path: str = "egress.allow") -> Exempt:
    """What `text` exempts; Invalid, naming `path`, if it is not a network or an address, with or without a port."""
    host, port = _split(text)
    if port is not None and not 1 <= port <= 65535:
        raise Invalid(path, f"{text!r} has no valid port: write 1 to 65535")
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        network = None
    if network is None or "%" in host:
        raise Invalid(path, f"{text!r} is not a network or an address: {FORMS}")
    if "/" in host and network.network_address != ip_address(host.partition("/")[0]):
        raise Invalid(path, f"{text!r} has bits behind its prefix: write {network}")
    return Exempt(network, port)


def _split(text: str) -> tuple[str, int | None]:
    """Network and port. An IPv6 network has a port only behind brackets, with the prefix inside or behind them."""
    if found := _BRACKETS.fullmatch(text):
        return found[1] + (found[2] or ""), int(found[3]) if found[3] else None
    if found := _PORT.fullmatch(text):
        return found[1], int(found[2])
    return text, None


def literal(host: str) -> Address | None:
    """The address that the host of a URL is by itself, in each way to write one (127.1, 0x7f000001, [::1]), or that
    `localhost` stands for; None for any other name."""
    text = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if text == "localhost" or text.endswith(".localhost"):
        return _LOCALHOST
    try:
        return ip_address(text)
    except ValueError:
        return _by_inet_aton(text)


def refusal(address: Address, port: int, by: Rule, own: Collection[Address]) -> str:
    """What the address is that makes it refused; "" if it may be connected to. `own` are the machine's addresses."""

    def kind(form: Address) -> str:
        for name, networks in _KINDS:
            if any(form in network for network in networks):
                return name
        return API_SERVER if form in by.api_servers else OWN if form in own else ""

    return _first(address, port, by, kind)


def service_refusal(address: Address, port: int, by: Rule) -> str:
    """The same for the address of a Service, which the operator looked up: only that of the API servers is refused."""
    return _first(address, port, by, lambda form: API_SERVER if form in by.api_servers else "")


def _first(address: Address, port: int, by: Rule, kind: Callable[[Address], str]) -> str:
    """What the first form is that is refused. An address that is exempt as it is written is so in all of its forms."""
    if _is_exempt(address, port, by):
        return ""
    refused = ((kind(form), form) for form in (address, *_carried(address)))
    return next((found for found, form in refused if found and not _is_exempt(form, port, by)), "")


def _is_exempt(address: Address, port: int, by: Rule) -> bool:
    return any(address in network and found in (None, port) for network, found in by.exempt)


def _carried(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address carries, or may carry."""
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    if any(address in network for network in _IN_LAST_BITS) or number >> 32 & 0xFFFF_FFFF in _ISATAP:
        yield IPv4Address(number & 0xFFFF_FFFF)
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo
    if address in _LOCAL_NAT64:
        # Of the four ways to read it, those that find zeros are wrong.
        yield from (found for found in _translated(number) if int(found) >> 24)


def _translated(number: int) -> Iterator[IPv4Address]:
    """RFC 6052, 2.2: behind a prefix of 48, 56, 64 or 96 bits, around the bits 64 to 71, which are left out."""
    low = number & 2**64 - 1
    yield IPv4Address((number >> 64 & 0xFFFF) << 16 | low >> 40 & 0xFFFF)
    yield IPv4Address((number >> 64 & 0xFF) << 24 | low >> 32 & 0xFF_FFFF)
    yield IPv4Address(low >> 24 & 0xFFFF_FFFF)
    yield IPv4Address(low & 0xFFFF_FFFF)


def _by_inet_aton(text: str) -> IPv4Address | None:
    """inet_aton(3): one to four numbers, decimal, octal or hexadecimal, the last of which fills the rest."""
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    *first, last = (int(part, 16 if part[1:2] in ("x", "X") else 8 if part[0] == "0" else 10) for part in parts)
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        return None
    return IPv4Address(last + sum(number << 24 - 8 * index for index, number in enumerate(first)))

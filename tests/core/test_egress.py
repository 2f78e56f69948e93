"""Which addresses outputs may connect to, however an address is written and carried."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditpipeline.core.egress import Address, Rule, literal, parse, refusal, rule, service_refusal
from auditpipeline.core.errors import Invalid

API_SERVERS = rule([], ["10.96.0.1", "fd00:96::1"])
OWN = frozenset({ip_address("192.0.2.7"), ip_address("2001:db8::7")})


def judged(address: str, port: int = 443, by: Rule = API_SERVERS) -> str:
    """What the address is, if it is refused."""
    return refusal(ip_address(address), port, by, OWN)


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("a loopback address", "127.0.0.1 127.255.255.254 ::1"),
        ("an unspecified address", "0.0.0.0 0.1.2.3 ::"),
        ("a link-local address", "169.254.169.254 169.254.0.1 fe80::1 febf::1"),
        ("a multicast address", "224.0.0.1 239.255.255.255 ff02::1"),
        ("a reserved address", "240.0.0.1 255.255.255.255"),
        (
            "an address of a cloud's metadata service",
            "100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 fd20:ce::254",
        ),
        ("an address of the API server", "10.96.0.1 fd00:96::1"),
        ("an address of this machine", "192.0.2.7 2001:db8::7"),
    ],
)
def test_what_leads_to_the_machine_or_the_control_plane_is_refused(kind: str, addresses: str) -> None:
    """And the message says what it is."""
    assert {judged(address) for address in addresses.split()} == {kind}


def test_private_and_public_addresses_are_allowed() -> None:
    """Most servers that take events are in a private network."""
    private = ("10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.1.2.3")
    for address in (*private, "8.8.8.8", "2606:4700::1111"):
        assert judged(address) == "", address


CARRIED: dict[str, Callable[[int], int]] = {
    "mapped": lambda number: 0xFFFF << 32 | number,
    "compatible": lambda number: number,
    "translated": lambda number: 0x64FF9B << 96 | number,
    "translated, older": lambda number: 0xFFFF << 48 | number,
    "6to4": lambda number: 0x2002 << 112 | number << 80,
    "Teredo server": lambda number: 0x20010000 << 96 | number << 64 | 0xF5F5F5F5,
    "Teredo client": lambda number: 0x20010000 << 96 | 0x08080808 << 64 | number ^ 0xFFFFFFFF,
    "ISATAP": lambda number: 0xFD00 << 112 | 0x5EFE << 32 | number,
    "NAT64 of 48 bits": lambda n: 0x64FF9B0001 << 80 | n >> 16 << 64 | (n & 0xFFFF) << 40,
    "NAT64 of 56 bits": lambda n: 0x64FF9B0001 << 80 | n >> 24 << 64 | (n & 0xFFFFFF) << 32,
    "NAT64 of 64 bits": lambda n: 0x64FF9B0001 << 80 | n << 24,
    "NAT64 of 96 bits": lambda n: 0x64FF9B0001 << 80 | n,
}


@pytest.mark.parametrize("way", CARRIED)
@given(number=st.one_of(st.integers(0, 2**32 - 1), st.integers(0x7F000000, 0x7FFFFFFF), st.just(0xA9FEA9FE)))
def test_an_ipv4_address_is_judged_in_whatever_carries_it(way: str, number: int) -> None:
    """An address that is refused is refused in every form. 0.0.0.0/8 is left out, which no translator sends anything
    to."""
    if number >> 24:
        inner, outer = IPv4Address(number), IPv6Address(CARRIED[way](number))
        if judged(str(inner)):
            assert judged(str(outer))


@given(number=st.integers(0, 2**32 - 1))
def test_a_usual_translation_of_an_allowed_address_is_allowed(number: int) -> None:
    """In a cluster that has IPv6 alone, every server with an IPv4 address is reached so."""
    if not judged(str(IPv4Address(number))):
        for way in ("mapped", "translated", "6to4"):
            assert judged(str(IPv6Address(CARRIED[way](number)))) == ""


ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.ip_addresses(network="127.0.0.0/8"),
    st.ip_addresses(network="fe80::/10"),
    st.ip_addresses(network="::ffff:0:0/96"),
)


@given(address=ADDRESSES, bits=st.integers(0, 128), port=st.integers(1, 65535), other=st.integers(1, 65535))
def test_an_exemption_is_for_its_network_and_its_port(address: Address, bits: int, port: int, other: int) -> None:
    """Whatever the address is; other ports and other addresses are judged as before."""
    network = ip_network(f"{address}/{min(bits, address.max_prefixlen)}", strict=False)
    text = f"[{network}]:{port}" if address.version == 6 else f"{network}:{port}"
    exempting = rule([text], ["10.96.0.1"])
    assert refusal(address, port, exempting, OWN) == ""
    if other != port:
        assert refusal(address, other, exempting, OWN) == refusal(address, other, rule([], ["10.96.0.1"]), OWN)


def test_an_ipv4_exemption_holds_for_the_mapped_form_too() -> None:
    """And one of a mapped address holds for that form alone."""
    assert judged("::ffff:127.0.0.1", 80, rule(["127.0.0.0/8:80"], [])) == ""
    assert judged("::ffff:127.0.0.1", 81, rule(["127.0.0.0/8:80"], [])) == "a loopback address"
    assert judged("127.0.0.1", 80, rule(["::ffff:127.0.0.1"], [])) == "a loopback address"


def test_of_services_that_of_the_api_servers_alone_is_refused() -> None:
    """The operator looked the address up; whatever it is, it is the Service's."""
    assert service_refusal(IPv4Address("127.0.0.1"), 443, API_SERVERS) == ""
    assert service_refusal(IPv4Address("10.96.0.1"), 443, API_SERVERS) == "an address of the API server"
    assert service_refusal(IPv4Address("10.96.0.1"), 443, rule(["10.96.0.1:443"], ["10.96.0.1"])) == ""


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("127.0.0.1", "127.0.0.1/32", None),
        ("127.0.0.1:8080", "127.0.0.1/32", 8080),
        ("127.0.0.0/8", "127.0.0.0/8", None),
        ("10.0.0.0/8:443", "10.0.0.0/8", 443),
        ("fd00::/8", "fd00::/8", None),
        ("::1", "::1/128", None),
        ("[::1]:80", "::1/128", 80),
        ("[fd00::]/8:443", "fd00::/8", 443),
        ("[fd00::/8]:443", "fd00::/8", 443),
        ("[::1]", "::1/128", None),
    ],
)
def test_an_exemption_is_a_network_or_an_address_with_or_without_a_port(
    text: str, network: str, port: int | None
) -> None:
    """IPv6 with a port has brackets."""
    found = parse(text)
    assert (str(found.network), found.port) == (network, port)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("127.0.0.1/8", "write 127.0.0.0/8"),
        ("10.0.0.1:0", "write 1 to 65535"),
        ("10.0.0.1:65536", "write 1 to 65535"),
        ("", "not a network or an address"),
        ("siem.example", "not a network or an address"),
        ("siem.example:443", "not a network or an address"),
        ("127.1", "not a network or an address"),
        ("10.0.0.1:", "not a network or an address"),
        ("10.0.0.1:http", "not a network or an address"),
        ("10.0.0.0/33", "not a network or an address"),
        ("[10.0.0.1]:80", "not a network or an address"),
        ("fe80::1%eth0", "not a network or an address"),
        ("10.0.0.1:\uff18\uff10", "not a network or an address"),
    ],
)
def test_what_is_not_one_is_said_with_what_to_write(text: str, words: str) -> None:
    """And with the name of the option."""
    with pytest.raises(Invalid, match=f"^--egress-allow: .*{re.escape(words)}"):
        parse(text, "--egress-allow")


@given(st.text(max_size=30))
def test_every_text_is_an_exemption_or_invalid(text: str) -> None:
    """Nothing else is raised; and what a rule cannot read allows nothing."""
    try:
        parse(text)
    except Invalid:
        assert rule([text], []) == Rule()


@given(st.text(alphabet="0123456789abcdefx.", max_size=24))
def test_numbers_are_addresses_as_the_c_library_reads_them(text: str) -> None:
    """A proxy may read what it is asked for in this way."""
    try:
        expected = str(IPv4Address(socket.inet_aton(text)))
    except OSError:
        return
    assert str(literal(text)) == expected


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("[::1]", "::1"),
        ("fe80::1%25eth0", "fe80::1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("LocalHost.", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("siem.example", None),
        ("localhost.example", None),
        ("", None),
    ],
)
def test_a_host_is_an_address_or_a_name(host: str, address: str | None) -> None:
    """A name says nothing: it may lead anywhere."""
    found = literal(host)
    assert (str(found) if found else None) == address

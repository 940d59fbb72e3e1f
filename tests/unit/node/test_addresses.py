"""How addresses are read."""

from __future__ import annotations

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.node import addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 2377)),
        ("192.0.2.1:4000", ("192.0.2.1", 4000)),
        ("manager-1", ("manager-1", 2377)),
        ("manager-1:1", ("manager-1", 1)),
        ("[2001:db8::1]:4000", ("2001:db8::1", 4000)),
        ("[2001:db8::1]", ("2001:db8::1", 2377)),
        ("2001:db8::1", ("2001:db8::1", 2377)),
    ],
)
def test_parse(text: str, expected: tuple[str, int]) -> None:
    """Host and port are told apart, in IPv6 too; the port has a default."""
    assert addresses.parse(text, what="x") == expected


@pytest.mark.parametrize("text", ["", ":2377", "h:", "h:0", "h:65536", "h:x", "h:-1", "[::1", "[::1]x", "h:²"])
def test_parse_refuses(text: str) -> None:
    """What is no address is refused with the flag's name, or a default takes the place of an empty port."""
    if text == "h:":
        assert addresses.parse(text, what="--listen-addr") == ("h", 2377)
        return
    with pytest.raises(InvalidArgument, match="--listen-addr"):
        addresses.parse(text, what="--listen-addr")


def test_join_is_the_inverse() -> None:
    """What is joined is parsed to the same."""
    for host in ("192.0.2.1", "2001:db8::1", "name"):
        assert addresses.parse(addresses.join(host, 99), what="x") == (host, 99)


def test_resolve() -> None:
    """Addresses stay; names of this machine become addresses; nonsense is named."""
    assert addresses.resolve("192.0.2.1", what="x") == "192.0.2.1"
    assert addresses.resolve("localhost", what="x") in ("127.0.0.1", "::1")
    with pytest.raises(InvalidArgument, match=r"cannot resolve 'no\.such\.host\.invalid'"):
        addresses.resolve("no.such.host.invalid", what="x")


def test_own_address_toward_loopback() -> None:
    """The address used toward this machine itself is its own."""
    assert addresses.own_address("127.0.0.1") == "127.0.0.1"

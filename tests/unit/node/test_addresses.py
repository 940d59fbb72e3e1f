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


@pytest.mark.parametrize("text", ["a:b:c", "a:b:c:0", "1:2"])
def test_what_only_looks_like_ipv6(text: str) -> None:
    """Colons make an address of numbers or nothing."""
    if text == "1:2":
        assert addresses.parse(text, what="x") == ("1", 2)
        return
    with pytest.raises(InvalidArgument, match="is not HOST:PORT"):
        addresses.parse(text, what="x")


HERE, ALSO_HERE, GONE = "127.0.0.1", "127.0.0.2", "203.0.113.7"


@pytest.mark.parametrize(
    ("was", "was_chosen", "listen", "advertise", "now"),
    [
        pytest.param((GONE, GONE), False, "", "", (GONE, GONE, False), id="what was given is not second-guessed"),
        pytest.param(("0.0.0.0", HERE), True, "", "", ("0.0.0.0", HERE, True), id="still there"),
        pytest.param(("0.0.0.0", GONE), True, "", "", ("0.0.0.0", HERE, True), id="chosen anew"),
        pytest.param((GONE, GONE), False, HERE, "", (HERE, HERE, False), id="what hung together does so still"),
        pytest.param((GONE, GONE), False, "", HERE, (HERE, HERE, False), id="the same the other way round"),
        pytest.param(("0.0.0.0", GONE), False, "", HERE, ("0.0.0.0", HERE, False), id="listens everywhere"),
        pytest.param((HERE, GONE), False, ALSO_HERE, "", (ALSO_HERE, GONE, False), id="behind another address"),
        pytest.param((GONE, GONE), False, HERE, GONE, (HERE, GONE, False), id="both are given"),
        pytest.param(("0.0.0.0", GONE), True, HERE, "", (HERE, HERE, False), id="no longer chosen"),
    ],
)
def test_moving(
    was: tuple[str, str], was_chosen: bool, listen: str, advertise: str, now: tuple[str, str, bool]
) -> None:
    """Where a node is after it was started with other addresses, or with none."""
    before = addresses.join(was[0], 2377), addresses.join(was[1], 2377)
    after, chosen = addresses.move(before, listen, advertise, f"{HERE}:2377", was_chosen=was_chosen)
    assert (*after, chosen) == (addresses.join(now[0], 2377), addresses.join(now[1], 2377), now[2])


def test_moving_to_an_address_of_another_machine() -> None:
    """It cannot listen there, and hears so before anything is written down."""
    with pytest.raises(InvalidArgument, match=f"cannot listen on {GONE}: it is not an address of this machine"):
        addresses.move((f"{HERE}:2377", f"{HERE}:2377"), GONE, "", "", was_chosen=False)


@pytest.mark.parametrize("manager", ["", f"{HERE}:2377"], ids=["founding", "joining"])
def test_beginning_at_an_address_of_another_machine(manager: str) -> None:
    """A worker listens nowhere before it is promoted, and would never notice; behind a router it says so."""
    with pytest.raises(InvalidArgument, match=f"cannot listen on {GONE}: it is not an address of this machine"):
        addresses.choose(f"{GONE}:2377", "", manager)
    assert addresses.choose(f"{HERE}:2377", GONE, manager) == (f"{HERE}:2377", f"{GONE}:2377")

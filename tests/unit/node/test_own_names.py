"""What a machine can be called by in its certificate."""

from __future__ import annotations

import socket

from swarmpy.node import own_names
from swarmpy.node.own_names import interface_addresses, names_of
from swarmpy.security.api_certificates import is_server_name


def test_a_server_on_one_address_has_that_and_what_it_is_given() -> None:
    """On loopback also the name of that; twice the same is once, in lower case."""
    assert names_of("192.0.2.7", "Swarm.Example", "swarm.example", "host-1") == ["swarm.example", "host-1", "192.0.2.7"]
    assert set(names_of("127.0.0.5")) == {"127.0.0.5", "localhost", socket.gethostname().lower()}


def test_a_server_on_all_addresses_has_all_of_them() -> None:
    """Each that can be connected to from here; none that is "any"."""
    for wildcard in ("0.0.0.0", "::"):
        names = names_of(wildcard, "x")
        assert {"x", "localhost", "127.0.0.1", "::1"} <= set(names)
        assert wildcard not in names
        assert set(interface_addresses()) <= set(names)
        assert all(is_server_name(name) for name in names)


def test_what_cannot_stand_in_a_certificate_is_left_out() -> None:
    """A machine may be called anything; the rest of its names are good."""
    assert names_of("192.0.2.7", "", "a b", "host_1") == ["host_1", "192.0.2.7"]


def test_there_is_an_end_of_names(monkeypatch: object) -> None:
    """Every container of a machine may have an interface."""
    assert len(names_of("192.0.2.7", *(f"n{n}" for n in range(1000)))) == own_names.MAX_NAMES

"""The network for those who are not root: who connects is known, and what is cut does not arrive until it is healed."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest
from network import around
from proxies import Proxies, owner

QUIET_S = 0.3
"""So long nothing may come; a link that is not cut answers in a thousandth of that."""
SOON_S = 5.0


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A daemon that says what it hears."""
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


class Link:
    """A connection of ``a`` to the daemon of ``b``."""

    def __init__(self, network: Proxies, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.network = network
        self._reader = reader
        self.writer = writer

    async def carries(self, data: bytes) -> bool:
        """Sends it, and tells whether it comes back."""
        self.writer.write(data)
        return await self.brings(data, QUIET_S)

    async def brings(self, data: bytes, seconds: float = SOON_S) -> bool:
        """True when exactly that comes next."""
        try:
            async with asyncio.timeout(seconds):
                return await self._reader.readexactly(len(data)) == data
        except TimeoutError:
            return False


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """This process is ``a``; ``b`` is a daemon behind its proxy."""
    network = Proxies(["a", "b"])
    await network.open()
    network.started("a", os.getpid())
    daemon = await asyncio.start_server(echo, *address(network.addresses("b").listen))
    reader, writer = await asyncio.open_connection(*address(network.addresses("b").advertise))
    made = Link(network, reader, writer)
    assert await made.carries(b"hello") or await made.brings(b"hello")
    yield made
    writer.close()
    daemon.close()
    await network.close()


@pytest.mark.parametrize("cut", [{("a", "b")}, {("b", "a")}, {("a", "b"), ("b", "a")}])
async def test_a_direction_that_is_cut(link: Link, cut: set[tuple[str, str]]) -> None:
    """Question or answer wait, and arrive when the link is healed."""
    link.network.block(cut)
    assert not await link.carries(b"lost")
    link.network.block(frozenset())
    assert await link.brings(b"lost")


async def test_a_cut_between_others(link: Link) -> None:
    """It is nobody else's affair."""
    link.network.block({("b", "c"), ("c", "b"), ("a", "c")})
    link.writer.write(b"on")
    assert await link.brings(b"on")


async def test_a_new_connection_over_a_cut(link: Link) -> None:
    """It gets no answer, as if its first packets were lost, until the link is healed."""
    link.network.block(around({"a"}, ["a", "b"]))
    reader, writer = await asyncio.open_connection(*address(link.network.addresses("b").advertise))
    late = Link(link.network, reader, writer)
    assert not await late.carries(b"late")
    link.network.block(frozenset())
    assert await late.brings(b"late")
    writer.close()


def test_who_has_a_connection() -> None:
    """The process that has the other end open; nobody's when it is none of those asked for."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = client.getsockname()[1]
        assert owner(port, {"me": os.getpid()}) == "me"
        assert owner(port, {"init": 1_000_000_000}) == ""


def test_around() -> None:
    """Both directions between those inside and those outside, and none among either."""
    assert around({"a"}, ["a", "b", "c"]) == {("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")}
    assert len(around({"a", "b"}, list("abcde"))) == 12

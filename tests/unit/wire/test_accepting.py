"""Accepting connections by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from swarmpy.wire.accepting import accept


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A listening socket on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


async def test_connections_that_wait_and_that_come(listening: socket.socket) -> None:
    """Each is given once, non-blocking, with its address."""
    with socket.create_connection(listening.getsockname()) as first:
        sock, address = await accept(listening)
        with sock:
            assert (address, sock.gettimeout()) == (first.getsockname(), 0)
    coming = asyncio.create_task(accept(listening))
    await asyncio.sleep(0)
    assert not coming.done()
    with socket.create_connection(listening.getsockname()) as second:
        sock, address = await coming
        with sock:
            assert address == second.getsockname()


async def test_cancelled_as_a_connection_comes_in(listening: socket.socket) -> None:
    """Nothing is complained of, and the connection is the next caller's."""
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    waiting = asyncio.create_task(accept(listening))
    await asyncio.sleep(0)
    with socket.create_connection(listening.getsockname()) as client:
        # This task's next turn is queued before the loop looks at its sockets, and comes before what it finds there.
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        sock, address = await accept(listening)
        sock.close()
        assert address == client.getsockname()
    assert errors == []


async def test_a_closed_socket_is_an_error(listening: socket.socket) -> None:
    """And not a wait for ever."""
    listening.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await accept(listening)

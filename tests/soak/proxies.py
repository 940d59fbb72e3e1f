"""A network of TCP proxies on loopback, for those who are not root: one in front of each node's cluster port.

Who connects is found out from the process that has the other end open. A blocked direction carries nothing, as if its
packets were lost: what was sent waits, and arrives when the link is healed and the connection still stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from network import Addresses, Blocked, Network

from swarmpy.cli.local_cluster import CLUSTER_PORT, STATUS_PORT, reserve_prefix

LISTEN_PORT = 2379
"""Where a daemon listens behind its proxy."""
CHUNK = 65536


class Proxies(Network):
    """See the module."""

    name = "proxies"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._prefix = ""
        self._pids: dict[str, int] = {}
        self._blocked: Blocked = frozenset()
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen in front of every node. Raises OSError."""
        self._prefix, self._reservation = reserve_prefix(len(self._names), (LISTEN_PORT,))
        for name in self._names:
            server = await asyncio.start_server(self._serving(name), self._address(name), CLUSTER_PORT)
            self._servers.append(server)

    async def close(self) -> None:
        """End it."""
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._prefix:
            self._reservation.close()

    def addresses(self, name: str) -> Addresses:
        """The proxy is what others reach."""
        address = self._address(name)
        return Addresses(
            listen=f"{address}:{LISTEN_PORT}", advertise=f"{address}:{CLUSTER_PORT}", status=f"{address}:{STATUS_PORT}"
        )

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """Itself: the daemon is on loopback as it is."""
        return list(command)

    def started(self, name: str, pid: int) -> None:
        """Its connections are known by this process."""
        self._pids[name] = pid

    def block(self, blocked: Blocked) -> None:
        """From now on exactly these directions are cut."""
        self._blocked = blocked
        self._changed.set()
        self._changed = asyncio.Event()

    def _address(self, name: str) -> str:
        return f"{self._prefix}.{self._names.index(name) + 1}"

    def _serving(self, receiver: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            try:
                await self._relay(receiver, reader, writer)
            except OSError:
                pass  # one of the ends is gone; the other learns it from its own connection
            finally:
                self._connections.discard(task)
                writer.close()

        return serve

    async def _relay(self, receiver: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("peername")[1]
        sender = await asyncio.to_thread(owner, port, dict(self._pids)) or receiver
        await self._open_way(sender, receiver)
        await self._open_way(receiver, sender)
        there, back = await asyncio.open_connection(self._address(receiver), LISTEN_PORT)
        pumps = {
            asyncio.create_task(self._pump(reader, back, sender, receiver)),
            asyncio.create_task(self._pump(there, writer, receiver, sender)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str, receiver: str
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._open_way(sender, receiver)
            writer.write(data)
            await writer.drain()
        # The news of the end is a packet too.
        await self._open_way(sender, receiver)

    async def _open_way(self, sender: str, receiver: str) -> None:
        while (sender, receiver) in self._blocked:
            await self._changed.wait()


def owner(port: int, pids: dict[str, int]) -> str:
    """Whose daemon has a loopback connection from this local port; "" when none has."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(entry) in inodes:  # noqa: PTH115 - no path: "socket:[123]"
                        return name
    return ""

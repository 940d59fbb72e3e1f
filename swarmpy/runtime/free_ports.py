"""Ports of this machine for tasks that share its network, so that no two of them are given the same one.

Numbers come from below the range that the kernel uses for outgoing connections (and below 30000, where the cluster
publishes): a port that is free when it is looked at is still free when the task gets to listen. A reservation is an
abstract Unix socket: it holds against every other node in this network namespace, and goes with its process.
"""

from __future__ import annotations

import errno
import socket

from swarmpy.errors import TaskFailed
from swarmpy.model.objects import PortStatus
from swarmpy.model.specs import PortConfig
from swarmpy.model.wildcards import ANY_IPV4, ANY_IPV6
from swarmpy.ports import Random

FIRST = 20_000
LAST = 29_999


class FreePorts:
    """The ports reserved by one runtime."""

    def __init__(self, random: Random, *, first: int = FIRST, last: int = LAST) -> None:
        self._random = random
        self._first = first
        self._count = last - first + 1
        self._held: dict[tuple[int, str], socket.socket] = {}

    def take(self, protocol: str) -> int:
        """Reserve any port. Raises TaskFailed when none is left."""
        start = self._random.randrange(self._count)
        for step in range(self._count):
            port = self._first + (start + step) % self._count
            if self._reserve(port, protocol):
                return port
        raise TaskFailed(f"no free port is left between {self._first} and {self._first + self._count - 1} on this node")

    def take_exactly(self, port: int, protocol: str) -> int:
        """Reserve ``port``. Raises TaskFailed when it is in use."""
        if not self._reserve(port, protocol):
            raise TaskFailed(f"port {port}/{protocol} is already in use on this node")
        return port

    def take_for(self, ports: tuple[PortConfig, ...], address: str) -> tuple[PortStatus, ...]:
        """One port of this machine for each target port, the published one for a host port that names it.

        Raises TaskFailed, and then holds none of them.
        """
        chosen: dict[tuple[int, str], int] = {}
        try:
            # Host ports first: they cannot be chosen.
            for port in sorted(ports, key=lambda p: (p.publish_mode != "host", p.published_port == 0)):
                if (port.target_port, port.protocol) not in chosen:
                    fixed = port.published_port if port.publish_mode == "host" else 0
                    number = self.take_exactly(fixed, port.protocol) if fixed else self.take(port.protocol)
                    chosen[port.target_port, port.protocol] = number
        except TaskFailed:
            for (_, protocol), number in chosen.items():
                self.release(number, protocol)
            raise
        return tuple(
            PortStatus(
                protocol=port.protocol,
                target_port=port.target_port,
                published_port=port.published_port,
                publish_mode=port.publish_mode,
                host_address=address,
                host_port=chosen[port.target_port, port.protocol],
            )
            for port in ports
        )

    def give_back(self, ports: tuple[PortStatus, ...]) -> None:
        """Release what :meth:`take_for` reserved."""
        for port in ports:
            self.release(port.host_port, port.protocol)

    def release(self, port: int, protocol: str) -> None:
        """Give a port back. One that is not held is fine."""
        held = self._held.pop((port, protocol), None)
        if held is not None:
            held.close()

    def close(self) -> None:
        """Give all ports back."""
        for port, protocol in tuple(self._held):
            self.release(port, protocol)

    def _reserve(self, port: int, protocol: str) -> bool:
        if (port, protocol) in self._held:
            return False
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0swarmpy-port-{port}-{protocol}")
        except OSError:
            claim.close()
            return False
        if not _is_free(port, protocol):
            claim.close()
            return False
        self._held[port, protocol] = claim
        return True


def _is_free(port: int, protocol: str) -> bool:
    """True when nobody listens on the port on any address of this machine."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    for family, wildcard in ((socket.AF_INET6, ANY_IPV6), (socket.AF_INET, ANY_IPV4)):
        try:
            with socket.socket(family, kind) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if kind == socket.SOCK_STREAM:
                    # An address in TIME_WAIT is free for a server, which will set this as well.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((wildcard, port))
        except OSError as error:
            # A machine without IPv6 says EAFNOSUPPORT or EADDRNOTAVAIL, which is no obstacle; privileged ports are.
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
    return True

"""Simulated hosts and the network between them.

A :class:`Host` has a node id, a role, an address, a clock, a router and a life: everything it runs dies with it at a
crash. The network carries plain data only (each payload goes through msgpack) and behaves as connections over TCP do:
in order and without loss, until a partition holds everything up and the keepalive gives the connection up, or it is
reset, or an end crashes. Notifications may be lost, come twice and overtake each other: what uses them must not care.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import partial
from typing import Any

import attrs
from clock import SimClock
from connection import Connection, SimDialer
from loop import LIFE, Life, SimLoop

from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.wire.router import Router

Main = Callable[["Host"], Coroutine[Any, Any, None]]


@attrs.define(kw_only=True)
class NetOptions:
    """How good the network is; may be changed while it runs."""

    latency_min_s: float = 0.0002
    latency_mean_s: float = 0.001
    """Of the part above the minimum, exponentially distributed."""
    notify_loss: float = 0.0
    notify_overtake: float = 0.0
    """How likely a notification travels outside the connection's order."""
    notify_duplicate: float = 0.0
    """How likely a notification comes a second time, later."""
    answer_loss: float = 0.0
    """How likely the connection breaks when a request has been carried out and its answer is on the way."""
    dead_after_s: float = 6.0
    """A connection that nothing comes through for this long is given up."""


@attrs.define(eq=False)
class Link:
    """One direction between two hosts, whatever connections go over it."""

    far_s: float = 0.0
    """Seconds that every message takes longer."""
    jitter_s: float = 0.0
    """The most that is added to that by chance."""
    blocked_since: float | None = None
    """Nothing comes through, and after a while connections are given up."""
    is_clogged: bool = False
    """Nothing comes through for now; keepalives do, so that no connection is given up."""

    @property
    def is_held(self) -> bool:
        """True when nothing comes through."""
        return self.is_clogged or self.blocked_since is not None


class Host:
    """One machine. ``main`` is what runs on it; a restart runs it again with a new router and nothing else left."""

    def __init__(self, net: SimNetwork, node_id: str, role: Role | None, address: str, cluster_id: str) -> None:
        self.net = net
        self.node_id = NodeId(node_id)
        self.role = role
        """None: it has no certificate, and is anonymous to others."""
        self.address = address
        self.cluster_id = cluster_id
        self.clock = SimClock(net.loop, int(net.loop.random.uniform(-net.skew_s, net.skew_s) * 1e9))
        self.rate = 1 + net.loop.random.uniform(-net.drift, net.drift)
        """How fast its timers run, from the next boot on."""
        self.new_router: Callable[[], Router] = Router
        self.router = Router()
        self.dialer = SimDialer(self)
        self.on_crash: list[Callable[[], None]] = []
        self.on_failure: Callable[[BaseException], None] | None = None
        """Told when a task of the host ends by an exception; without it, that fails the simulation."""
        self.life: Life | None = None
        self._main: Main | None = None
        self._context = contextvars.Context()

    def __repr__(self) -> str:
        return f"<Host {self.node_id} {'up' if self.is_up else 'down'}>"

    @property
    def is_up(self) -> bool:
        """True between a boot and the next crash."""
        return self.life is not None and self.life.is_alive

    @property
    def is_paused(self) -> bool:
        """True while it stands still."""
        return self.is_up and self.life is not None and self.life.is_paused

    @property
    def identity(self) -> Peer:
        """What others see of this host."""
        host = self.address.rsplit(":", 1)[0]
        member = self.role is not None
        return Peer(
            node_id=self.node_id if member else None,
            role=self.role,
            cluster_id=self.cluster_id if member else "",
            address=f"{host}:40000",
        )

    def boot(self, main: Main) -> None:
        """Switch on and run ``main``."""
        assert not self.is_up, f"{self} is on already"
        self.life = self.net.loop.new_life(self.node_id, self.rate)
        self.router = self.new_router()
        self._main = main
        self._context = contextvars.Context()
        self._context.run(LIFE.set, self.life)
        self.spawn(main(self), name=f"{self.node_id} main")

    def restart(self) -> None:
        """Switch on again and run what ran before."""
        assert self._main is not None
        self.boot(self._main)

    def crash(self) -> None:
        """A power cut: nothing of this life runs any more, not even a ``finally``."""
        if self.life is None or not self.life.is_alive:
            return
        self.life.is_alive = False
        for hook in self.on_crash:
            hook()
        self.net.host_crashed(self)

    def pause(self) -> None:
        """Stand still until :meth:`resume`: no callback runs, no timer, nothing comes in."""
        if self.is_up and self.life is not None:
            self.net.loop.pause(self.life)

    def resume(self) -> None:
        """Go on, with all at once that has become due."""
        if self.is_paused and self.life is not None:
            self.net.loop.resume(self.life)
            self.net.release()

    def spawn(self, work: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        """Run ``work`` in this life."""
        task = self.net.loop.create_task(work, name=name, context=self._context.copy())
        task.add_done_callback(partial(self._ended, self.life), context=self.net.context)
        return task

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call ``fn`` in this life, so that what it starts dies with it."""
        return self._context.copy().run(fn, *args)

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None or not life.is_alive:
            return
        error = task.exception()
        assert error is not None
        if self.on_failure is not None:
            self.on_failure(error)
        else:
            self.net.loop.problems.append(f"{self.net.loop.now:.3f} s: {task.get_name()}: {error!r}")


class SimNetwork:
    """All hosts and everything between them. ``skew_s`` and ``drift`` are the most that the wall clock of a host is off
    and that its timers run too fast or too slow (0.1: by a tenth)."""

    def __init__(
        self, loop: SimLoop, options: NetOptions | None = None, *, skew_s: float = 0.0, drift: float = 0.0
    ) -> None:
        self.loop = loop
        self.options = options or NetOptions()
        self.skew_s = skew_s
        self.drift = drift
        self.hosts: dict[str, Host] = {}
        """By node id."""
        self.context = contextvars.Context()
        self.messages = 0
        self.handshake: Callable[[Host, Host], tuple[Peer, Peer]] = lambda client, server: (
            client.identity,
            server.identity,
        )
        """Who the two hosts of a new connection, client and server, are to each other; raises what one refuses."""
        self._links: dict[tuple[str, str], Link] = {}
        self._connections: list[Connection] = []

    def host(self, node_id: str, address: str, role: Role | None = Role.MANAGER, cluster_id: str = "c") -> Host:
        """Add a host, switched off."""
        host = Host(self, node_id, role, address, cluster_id)
        self.hosts[node_id] = host
        return host

    def at(self, address: str) -> Host | None:
        """The host at ``host:port``."""
        return next((host for host in self.hosts.values() if host.address == address), None)

    def link(self, source: str, target: str) -> Link:
        """The way from one host to another (node ids)."""
        return self._links.setdefault((source, target), Link())

    # -- faults -----------------------------------------------------------------------------------------------------

    def partition(self, source: str, target: str, *, one_way: bool = False) -> None:
        """Nothing gets from ``source`` to ``target`` (node ids), nor back unless ``one_way``."""
        for ends in ((source, target),) if one_way else ((source, target), (target, source)):
            link = self.link(*ends)
            if link.blocked_since is None:
                link.blocked_since = self.loop.now
        self.later(self.options.dead_after_s, self._give_up)

    def isolate(self, node_id: str) -> None:
        """Cut one host off from all others."""
        self.split({node_id})

    def split(self, part: Collection[str]) -> None:
        """Cut these hosts off from all others, not from each other."""
        for one in self.hosts:
            for other in self.hosts:
                if one in part and other not in part:
                    self.partition(one, other)

    def clog(self, source: str, target: str) -> None:
        """Hold up what goes from ``source`` to ``target``: it comes through later, in order."""
        self.link(source, target).is_clogged = True

    def heal(self, links: Iterable[tuple[str, str]] | None = None) -> None:
        """These (source, target), or all, are no longer blocked or clogged; what was held up comes through."""
        for ends in list(self._links) if links is None else links:
            link = self.link(*ends)
            link.blocked_since, link.is_clogged = None, False
        self.release()

    def straighten(self) -> None:
        """No link is far any more."""
        for link in self._links.values():
            link.far_s = link.jitter_s = 0.0

    def release(self) -> None:
        """What is no longer held up comes through."""
        for connection in self._connections:
            connection.up.release()
            connection.down.release()

    def reset(self, one: str, other: str) -> None:
        """All connections between two hosts break, and both ends know at once."""
        for connection in list(self._connections):
            if {connection.client.node_id, connection.server.node_id} == {one, other}:
                connection.lose("connection reset by peer")

    def is_blocked(self, source: Host, target: Host) -> bool:
        """True when nothing gets from one to the other: on the way, or because one of them stands still."""
        return self.link(source.node_id, target.node_id).is_held or target.is_paused

    def host_crashed(self, host: Host) -> None:
        """Its connections break: at once (the machine is up again soon and knows nothing), or by silence."""
        for connection in self._connections:
            if host in (connection.client, connection.server):
                silent = self.loop.random.random() < 0.5
                delay = self.options.dead_after_s if silent else self.latency()
                self.later(delay, connection.lose, f"connection to {host.address} lost")

    def _give_up(self) -> None:
        now, patience = self.loop.now, self.options.dead_after_s - 1e-6
        for connection in list(self._connections):
            ends = (connection.client.node_id, connection.server.node_id)
            blocked = (self.link(*ends).blocked_since, self.link(*ends[::-1]).blocked_since)
            if any(since is not None and now - since >= patience for since in blocked):
                connection.lose(f"nothing heard for {self.options.dead_after_s:g} s")

    # -- carrying ---------------------------------------------------------------------------------------------------

    def latency(self, link: Link | None = None) -> float:
        """Seconds that the next message takes, over ``link`` or over one that is near."""
        options, random = self.options, self.loop.random
        seconds = options.latency_min_s + random.expovariate(1 / options.latency_mean_s)
        if link is not None and link.far_s:
            seconds += link.far_s + random.uniform(0, link.jitter_s)
        return seconds

    def chance(self, probability: float) -> bool:
        """True in so many of all cases."""
        return probability > 0 and self.loop.random.random() < probability

    def later(self, delay_s: float, fn: Callable[..., Any], *args: Any) -> None:
        """Call ``fn`` on behalf of the network, which outlives every host."""
        self.loop.call_at_true(self.loop.now + delay_s, fn, *args, context=self.context)

    def connect(self, client: Host, server: Host) -> Connection:
        """A new connection. Raises what one of the two refuses."""
        client_seen, server_seen = self.handshake(client, server)
        server.router.check_peer(client_seen)
        connection = Connection(self, client, server, client_seen, server_seen)
        self._connections.append(connection)
        return connection

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)

"""A group of managers for simulations: Raft, store, disk and network of each, and a ledger of what must always hold."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from clock import SimClock
from disk import SimDisk
from loop import SimLoop, SimulationError
from net import Host, SimNetwork

from swarmpy.model.specs import RaftConfig
from swarmpy.ports import Peer
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.encoding import decode_messages, encode_messages
from swarmpy.raft.messages import ConfState, HardState, Member, Message, Snapshot
from swarmpy.raft.status import RaftStatus
from swarmpy.raft.storage import BOOTSTRAP_INDEX
from swarmpy.store.memory import Store
from swarmpy.wire.channels import PeerSender
from swarmpy.wire.router import MANAGERS

CONFIG = RaftConfig(snapshot_interval=60, log_entries_for_slow_followers=10)


class Ledger:
    """What is true of the whole group at every moment; the first contradiction ends the run."""

    def __init__(self, loop: SimLoop) -> None:
        self.leaders: dict[int, int] = {}
        """Who leads, by term."""
        self.entries: dict[int, bytes] = {}
        """A hash of what was applied, by index: the same on everyone, for ever."""
        self._loop = loop

    def led(self, term: int, raft_id: int) -> None:
        """There is at most one leader in a term."""
        other = self.leaders.setdefault(term, raft_id)
        if other != raft_id:
            raise SimulationError(f"two leaders in term {term}: {other} and {raft_id}")

    def applied(self, raft_id: int, index: int, data: bytes) -> None:
        """All apply the same entry at an index."""
        digest = hashlib.sha256(data).digest()
        if self.entries.setdefault(index, digest) != digest:
            raise SimulationError(f"member {raft_id} applied another entry {index} than somebody before it")
        self._loop.mark(raft_id, index, int.from_bytes(digest[:7], "big"))


class CheckedStore:
    """The state machine that Raft sees: the store, with every entry in the ledger."""

    def __init__(self, store: Store, ledger: Ledger, raft_id: int) -> None:
        self._store = store
        self._ledger = ledger
        self._raft_id = raft_id

    def apply(self, index: int, data: bytes) -> None:
        """See ``StateMachine``."""
        self._ledger.applied(self._raft_id, index, data)
        self._store.apply(index, data)

    async def snapshot(self) -> bytes:
        """See ``StateMachine``."""
        return await self._store.snapshot()

    def restore(self, data: bytes) -> None:
        """See ``StateMachine``."""
        self._store.restore(data)


class SimManager:
    """One life of one manager: what a node runs, without agent and API."""

    def __init__(self, group: Managers, host: Host) -> None:
        loop = group.net.loop
        self.member = group.member(host)
        self.store = Store(SimClock(loop))
        self._group = group
        self._sender = PeerSender(host.dialer, loop.random, on_unreachable=self._on_unreachable)
        self.driver = RaftDriver(
            raft_id=self.member.raft_id,
            storage=group.disks[host.node_id],
            transport=self,
            state_machine=CheckedStore(self.store, group.ledger, self.member.raft_id),
            random=loop.random,
            config=CONFIG,
        )
        self.driver.subscribe(self._on_status)
        host.router.notify("raft.messages", self._on_messages, MANAGERS)

    async def run(self) -> None:
        """Until the power goes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sender.run())
            group.create_task(self.driver.run())

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        """Implements ``RaftTransport``."""
        self._sender.send(to.address, "raft.messages", encode_messages(messages))

    def _on_messages(self, peer: Peer, payload: Any) -> None:
        for message in decode_messages(payload):
            self.driver.receive(message)

    def _on_unreachable(self, address: str) -> None:
        for member in self._group.members:
            if member.address == address:
                self.driver.report_unreachable(member.raft_id)

    def _on_status(self, status: RaftStatus) -> None:
        if status.is_leader:
            self._group.ledger.led(status.term, status.raft_id)
        self.store.set_proposer(self.driver if status.leader_ready else None)


class Managers:
    """A group that begins with all its members as voters."""

    def __init__(self, net: SimNetwork, count: int = 3) -> None:
        self.net = net
        self.ledger = Ledger(net.loop)
        self.hosts = [net.host(f"m{n}", f"10.0.0.{n}:2377") for n in range(1, count + 1)]
        self.members = tuple(
            Member(raft_id=n, node_id=host.node_id, address=host.address) for n, host in enumerate(self.hosts, 1)
        )
        self.disks = {host.node_id: SimDisk(net.loop) for host in self.hosts}
        self._running: dict[str, SimManager] = {}
        for host in self.hosts:
            host.on_crash.append(self.disks[host.node_id].crash)

    async def start(self) -> None:
        """Write the first membership to every disk and switch on."""
        snapshot = Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=ConfState(voters=self.members))
        for host in self.hosts:
            disk = self.disks[host.node_id]
            await disk.save_snapshot(snapshot, BOOTSTRAP_INDEX + 1)
            await disk.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
            host.boot(self._main)

    def member(self, host: Host) -> Member:
        """The Raft member on a host."""
        return next(member for member in self.members if member.node_id == host.node_id)

    def up(self) -> list[SimManager]:
        """The managers that run."""
        return [self._running[host.node_id] for host in self.hosts if host.is_up and host.node_id in self._running]

    def leader(self) -> SimManager | None:
        """The manager that thinks it leads and is ready to, of the highest term."""
        leading = [manager for manager in self.up() if manager.driver.is_leader_ready]
        return max(leading, key=lambda manager: manager.driver.status().term, default=None)

    async def wait_leader(self, timeout: float = 20.0) -> SimManager:
        """Wait until somebody leads."""
        async with asyncio.timeout(timeout):
            while (leader := self.leader()) is None:
                await asyncio.sleep(0.02)
        return leader

    async def wait_converged(self, timeout: float = 30.0) -> None:
        """Wait until everyone has applied the same entries."""
        async with asyncio.timeout(timeout):
            while len(self.up()) < len(self.hosts) or len({m.store.version for m in self.up()}) > 1:
                await asyncio.sleep(0.05)

    async def _main(self, host: Host) -> None:
        manager = SimManager(self, host)
        self._running[host.node_id] = manager
        await manager.run()

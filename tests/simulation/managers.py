"""A group of managers for simulations: Raft, store, disk and network of each, watched by the laws.

A host is one machine with one disk. It is a member under a raft id that goes with the disk: with a new disk comes a new
raft id, as in the product. Spare hosts are off until somebody makes them members.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from clients import serve
from disk import DiskOptions, SimDisk
from film import Film
from leader_laws import LeaderLaws
from loop import SimLoop, SimulationError
from net import Host, SimNetwork

from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.ports import Peer
from swarmpy.raft.driver import Proposal, RaftDriver
from swarmpy.raft.encoding import decode_messages, encode_messages
from swarmpy.raft.messages import ConfState, Entry, HardState, Member, Message, Snapshot
from swarmpy.raft.status import RaftStatus
from swarmpy.raft.storage import BOOTSTRAP_INDEX, StoredState
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


class Synced:
    """What the disk of one member has said to be durable."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self._snapshot_index = 0
        self._terms: dict[int, int] = {}
        self._last = 0

    def holds(self, index: int, term: int | None) -> bool:
        """See ``Durable``."""
        if index <= self._snapshot_index:
            return True
        return index <= self._last and term in (None, self._terms.get(index))

    def loaded(self, stored: StoredState) -> None:
        """All that is there after a crash."""
        self.hard_state = stored.hard_state
        self._snapshot_index = self._last = 0
        if stored.snapshot is not None:
            self.saved(stored.snapshot)
        self.appended(None, stored.entries)

    def appended(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """A write has returned."""
        self.hard_state = hard_state or self.hard_state
        for entry in entries:
            self._terms[entry.index] = entry.term
            self._last = entry.index

    def saved(self, snapshot: Snapshot) -> None:
        """A snapshot is there; what follows it stays only if it is of the same log."""
        if snapshot.index > self._snapshot_index:
            self._snapshot_index = snapshot.index
            if not (self._last >= snapshot.index and self._terms.get(snapshot.index) == snapshot.term):
                self._last = snapshot.index


class LawfulDisk:
    """A member's storage, under the eyes of the laws."""

    def __init__(self, disk: SimDisk, laws: LeaderLaws, raft_id: int, synced: Synced) -> None:
        self._disk = disk
        self._laws = laws
        self._raft_id = raft_id
        self._synced = synced

    async def load(self) -> StoredState:
        """See ``LogStorage``."""
        stored = await self._disk.load()
        self._synced.loaded(stored)
        self._laws.loaded(self._raft_id, stored)
        return stored

    async def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """See ``LogStorage``."""
        self._laws.writes(self._raft_id, entries)
        await self._disk.append(hard_state, entries)
        self._synced.appended(hard_state, entries)

    async def save_snapshot(self, snapshot: Snapshot, keep_from_index: int) -> None:
        """See ``LogStorage``."""
        self._laws.saves(self._raft_id, snapshot)
        await self._disk.save_snapshot(snapshot, keep_from_index)
        self._synced.saved(snapshot)

    async def read_snapshot(self) -> Snapshot | None:
        """See ``LogStorage``."""
        return await self._disk.read_snapshot()

    async def close(self) -> None:
        """See ``LogStorage``."""
        await self._disk.close()


class LawfulStore:
    """The state machine that Raft sees: the store, under the eyes of the laws."""

    def __init__(self, store: Store, laws: LeaderLaws, raft_id: int) -> None:
        self._store = store
        self._laws = laws
        self._raft_id = raft_id

    def apply(self, index: int, data: bytes) -> None:
        """See ``StateMachine``."""
        self._laws.applies(self._raft_id, index, data)
        self._store.apply(index, data)

    async def snapshot(self) -> bytes:
        """See ``StateMachine``."""
        version = self._store.version
        data = await self._store.snapshot()
        self._laws.snapshots(self._raft_id, version, data)
        return data

    async def restore(self, data: bytes) -> None:
        """See ``StateMachine``."""
        await self._store.restore(data)
        self._laws.restores(self._raft_id, self._store.version, data)


class LawfulProposer:
    """What the store proposes to: the driver, under the eyes of the laws."""

    def __init__(self, driver: RaftDriver, laws: LeaderLaws, raft_id: int) -> None:
        self._driver = driver
        self._laws = laws
        self._raft_id = raft_id

    def propose(self, data: bytes) -> Proposal:
        """See ``Proposer``."""
        proposal = self._driver.propose(data)
        self._laws.accepts_write(self._raft_id)
        return proposal


class SimManager:
    """One life of one manager: what a node runs, without agent and API."""

    def __init__(self, group: Managers, host: Host) -> None:
        loop = group.net.loop
        self.host = host
        self.member = group.member(host)
        self.store = Store(host.clock)
        self._group = group
        self._laws = group.laws
        raft_id = self.member.raft_id
        self._sender = PeerSender(host.dialer, loop.random, on_unreachable=self._on_unreachable)
        self.driver = RaftDriver(
            raft_id=raft_id,
            storage=LawfulDisk(group.disks[host.node_id], self._laws, raft_id, group.synced[raft_id]),
            transport=self,
            state_machine=LawfulStore(self.store, self._laws, raft_id),
            random=loop.random,
            config=group.config,
            address=host.address,
        )
        self._laws.born(raft_id, self.driver)
        self._proposer = LawfulProposer(self.driver, self._laws, raft_id)
        self.driver.subscribe(self._on_status)
        host.router.notify("raft.messages", self._on_messages, MANAGERS)
        serve(host.router, self.store)

    async def run(self) -> None:
        """Until the power goes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sender.run())
            group.create_task(self.driver.run())

    async def read_index(self, timeout: float) -> int:
        """The driver's, under the eyes of the laws."""
        asked_at = self._laws.commit
        index = await self.driver.read_index(timeout)
        self._laws.shows(self.member.raft_id, index, asked_at)
        return index

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        """Implements ``RaftTransport``."""
        self._laws.sends(self.member.raft_id, messages)
        self._sender.send(to.address, "raft.messages", encode_messages(messages))

    def _on_messages(self, peer: Peer, payload: Any) -> None:
        for message in decode_messages(payload):
            self._laws.hears(self.member.raft_id, message)
            self.driver.receive(message)

    def _on_unreachable(self, address: str) -> None:
        for member in self.driver.status().members:
            if member.address == address:
                self.driver.report_unreachable(member.raft_id)

    def _on_status(self, status: RaftStatus) -> None:
        self._laws.look(status.raft_id)
        self._group.tell(self.host, status)
        self.store.set_proposer(self._proposer if status.leader_ready else None)
        if status.removed:
            self._group.net.later(0.0, self._group.is_removed, self.host, status.raft_id)


class Managers:
    """A group that begins with ``count`` voters and may grow by ``spares``."""

    def __init__(
        self,
        net: SimNetwork,
        count: int = 3,
        *,
        spares: int = 0,
        config: RaftConfig = CONFIG,
        film: Film | None = None,
        new_disk_options: Callable[[], DiskOptions] = DiskOptions,
    ) -> None:
        self.net = net
        self.config = config
        self.film = film or Film()
        self.synced: dict[int, Synced] = {}
        """By raft id; of a member that lost its disk, as it was then."""
        self.laws = LeaderLaws(net.loop, self.film, self.synced, election_s=config.election_tick * config.tick_ns / 1e9)
        self.hosts = [net.host(f"m{n}", f"10.0.0.{n}:2377") for n in range(1, count + spares + 1)]
        self.disks: dict[str, SimDisk] = {}
        self.founders: tuple[Member, ...] = ()
        self.on_removed: Callable[[Host], None] = lambda host: None
        """Called when a member has learnt that it was removed."""
        self._new_disk_options = new_disk_options
        self._identities: dict[str, Member] = {}
        self._node_of: dict[int, str] = {}
        self._running: dict[str, SimManager] = {}
        for host in self.hosts:
            host.on_crash.append(lambda host=host: self._on_crash(host))
            self.new_identity(host)
        self.founders = tuple(self._identities[host.node_id] for host in self.hosts[:count])

    # -- identities and disks -----------------------------------------------------------------------------------------

    def new_identity(self, host: Host) -> Member:
        """A host that is off gets an empty disk, and with it a new raft id."""
        raft_id = len(self._node_of) + 1
        self._node_of[raft_id] = host.node_id
        self.synced[raft_id] = Synced()
        self.disks[host.node_id] = SimDisk(self.net.loop, self._new_disk_options())
        self._identities[host.node_id] = Member(raft_id=raft_id, node_id=host.node_id, address=host.address)
        return self._identities[host.node_id]

    def move(self, host: Host, address: str) -> Member:
        """A host that is off gets another address."""
        host.address = address
        self._identities[host.node_id] = attrs.evolve(self.member(host), address=address)
        return self.member(host)

    def member(self, host: Host) -> Member:
        """The Raft member on a host."""
        return self._identities[host.node_id]

    def host_of(self, raft_id: int) -> Host | None:
        """Where a member is; None when it lost its disk."""
        host = self.net.hosts[self._node_of[raft_id]]
        return host if self.member(host).raft_id == raft_id else None

    def _on_crash(self, host: Host) -> None:
        self.disks[host.node_id].crash()
        self._running.pop(host.node_id, None)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Write the first membership to the disks of the founders and switch them on."""
        snapshot = Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=ConfState(voters=self.founders))
        self.laws.founded(snapshot.conf)
        for member in self.founders:
            disk = self.disks[member.node_id]
            await disk.save_snapshot(snapshot, BOOTSTRAP_INDEX + 1)
            await disk.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
            self.boot(self.net.hosts[member.node_id])

    def boot(self, host: Host) -> None:
        """Switch on."""
        host.boot(self._main)

    def is_removed(self, host: Host, raft_id: int) -> None:
        """A member has learnt that it was removed: its node stops managing."""
        if self.member(host).raft_id == raft_id:
            self.on_removed(host)

    def tell(self, host: Host, status: RaftStatus) -> None:
        """Something has changed in what a member believes."""
        voters = ",".join(str(m.raft_id) for m in status.conf.voters)
        learners = "".join(f" +{m.raft_id}" for m in status.conf.learners)
        ready = " (ready)" if status.leader_ready else ""
        self.film.tell(
            host.node_id,
            f"raft {status.raft_id}: {status.role.value}{ready} in term {status.term}, leader {status.leader_id}, "
            f"commit {status.commit} of {status.last_index}, voters {voters}{learners}",
        )

    # -- who is there -------------------------------------------------------------------------------------------------

    def up(self) -> list[SimManager]:
        """The managers that run."""
        return [self._running[host.node_id] for host in self.hosts if host.node_id in self._running]

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

    async def wait_converged(self, timeout: float = 30.0) -> list[SimManager]:
        """Wait until every member has applied the same entries, and is in the same configuration; returns them."""
        try:
            async with asyncio.timeout(timeout):
                while not self._is_converged():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            states = {m.host.node_id: (m.member.raft_id, m.driver.status().applied) for m in self.up()}
            raise SimulationError(f"no convergence in {timeout:g} s of {self.laws.confs[-1]}: {states}") from None
        return self.members_up()

    def members_up(self) -> list[SimManager]:
        """The members of the last committed configuration that run."""
        conf = self.laws.confs[-1]
        ids = {raft_id for raft_id, _ in (*conf.voters, *conf.learners)}
        return [manager for manager in self.up() if manager.member.raft_id in ids]

    def _is_converged(self) -> bool:
        conf, members = self.laws.confs[-1], self.members_up()
        if len(members) < len(conf.voters) + len(conf.learners):
            return False
        statuses = [manager.driver.status() for manager in members]
        return len({(status.applied, status.last_index, status.conf) for status in statuses}) == 1

    async def _main(self, host: Host) -> None:
        manager = SimManager(self, host)
        self._running[host.node_id] = manager
        await manager.run()

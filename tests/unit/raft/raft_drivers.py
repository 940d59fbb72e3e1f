"""Real drivers in one event loop, over a network that is a function call away and can be cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Self

import attrs
from raft_cluster import conf_of, member

from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.encoding import decode_messages, encode_messages
from swarmpy.raft.messages import HardState, Member, Message, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX, LogStorage, MemoryStorage

FAST = RaftConfig(tick_ns=20_000_000)
"""Heartbeat 20 ms, election 100 to 200 ms."""
DEADLINE = 10.0


class Words:
    """A state machine that remembers what it was told; a word "boom" makes it fail."""

    def __init__(self) -> None:
        self.words: list[bytes] = []
        self.restored = 0

    def apply(self, index: int, data: bytes) -> None:
        if data == b"boom":
            raise ZeroDivisionError
        self.words.append(data)

    async def snapshot(self) -> bytes:
        fixed = list(self.words)
        await asyncio.sleep(0)
        return b"\n".join(fixed)

    async def restore(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self.restored += 1
        self.words = data.split(b"\n") if data else []


@attrs.define
class Network:
    """Who can talk to whom."""

    drivers: dict[int, RaftDriver] = attrs.Factory(dict)
    cut: set[frozenset[int]] = attrs.Factory(set)
    largest_frame: int = 0
    """Bytes of entries in one call."""
    drop: Callable[[Message], bool] = lambda message: False

    def deliver(self, source: int, to: int, messages: Sequence[Message]) -> None:
        driver = self.drivers.get(to)
        if driver is None or frozenset({source, to}) in self.cut:
            return
        self.largest_frame = max(self.largest_frame, sum(len(e.data) for m in messages for e in m.entries))
        for message in decode_messages(encode_messages(messages)):
            if not self.drop(message):
                driver.receive(message)

    def isolate(self, raft_id: int, ids: Sequence[int]) -> None:
        self.cut |= {frozenset({raft_id, other}) for other in ids if other != raft_id}


@attrs.frozen
class Link:
    """One member's end of the network."""

    source: int
    network: Network

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        asyncio.get_running_loop().call_soon(self.network.deliver, self.source, to.raft_id, list(messages))


class Group:
    """Members that can be started, killed and waited for."""

    def __init__(self, *ids: int, config: RaftConfig = FAST, joiners: Sequence[int] = (), seed: int = 0) -> None:
        self.seed = seed
        self.ids = (*ids, *joiners)
        self.config = config
        self.network = Network()
        self.storages: dict[int, LogStorage] = {i: MemoryStorage() for i in self.ids}
        self.machines: dict[int, Words] = {}
        self.drivers: dict[int, RaftDriver] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.founders = ids
        self.new_machine: Callable[[], Words] = Words

    async def __aenter__(self) -> Self:
        for raft_id in self.founders:
            storage = self.storages[raft_id]
            if (await storage.load()).is_empty:
                await storage.save_snapshot(Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=conf_of(*self.founders)), 2)
                await storage.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
        for raft_id in self.ids:
            self.start(raft_id)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for raft_id in list(self.tasks):
            await self.kill(raft_id)

    def start(self, raft_id: int) -> RaftDriver:
        self.machines[raft_id] = self.new_machine()
        driver = RaftDriver(
            raft_id=raft_id,
            storage=self.storages[raft_id],
            transport=Link(raft_id, self.network),
            state_machine=self.machines[raft_id],
            random=random.Random(f"{self.seed}/{raft_id}"),
            config=self.config,
        )
        self.drivers[raft_id] = self.network.drivers[raft_id] = driver
        self.tasks[raft_id] = asyncio.create_task(driver.run())
        return driver

    async def kill(self, raft_id: int, *, reset: bool = False) -> None:
        """End a member; with ``reset`` the others notice that its connections broke."""
        task = self.tasks.pop(raft_id)
        self.network.drivers.pop(raft_id, None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if reset:
            for driver in self.network.drivers.values():
                driver.report_unreachable(raft_id)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to become true, at most :data:`DEADLINE` seconds."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.001)

    def leader_id(self) -> int | None:
        ready = [i for i in self.tasks if self.drivers[i].is_leader_ready]
        return max(ready, key=lambda i: self.drivers[i].status().term, default=None)

    async def leader(self, *, other_than: int = 0) -> RaftDriver:
        """Wait for a leader that is ready."""
        await self.until(lambda: self.leader_id() not in (None, other_than))
        return self.drivers[self.leader_id() or 0]

    async def write(self, *words: bytes) -> None:
        """Have words applied at the leader."""
        driver = await self.leader()
        for proposal in [driver.propose(word) for word in words]:
            await asyncio.wait_for(proposal.done, DEADLINE)

    def agree(self, *ids: int) -> bool:
        """True when these (or all running) members have the same words."""
        words = [self.machines[i].words for i in (ids or self.tasks)]
        return all(w == words[0] for w in words)


__all__ = ["DEADLINE", "FAST", "Group", "Network", "Words", "member"]

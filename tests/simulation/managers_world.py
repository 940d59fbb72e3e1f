"""The world of managers alone: the Raft group, their stores, clients on them, an operator, and all that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bursts import Bursts
from clients import COUNTERS, REGISTERS, Client, Clients, Lines
from faults import Nemesis
from film import Film
from knobs import Knobs
from linearizability import Kind, Outcome
from loop import SimLoop, SimulationError
from managers import Managers, SimManager
from net import Host

from swarmpy.errors import SwarmpyError
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Member

SPARES = 2
PROGRESS_S = 30.0
"""In so many virtual seconds a healed quorum must have committed a write, and after that everybody be equal."""
FIRST_LEADER_S = 20.0
CHECK_S = 1.0
"""How often the history is looked at while it grows."""
ACT_MEAN_S = 0.7
CHANGE_S = 2.0
"""How long the operator waits for one change."""
RETRY_S = 0.2
DECOMMISSION_S = 2.0
"""The most that a removed machine is left running."""


class Operator:
    """Adds, promotes, removes, replaces and moves managers, one thing at a time, and hands the leadership about."""

    def __init__(self, managers: Managers, nemesis: Nemesis, film: Film) -> None:
        self.is_busy = False
        """It is about to change something, or a machine is half on its way in or out: the group may need all others."""
        self.doing = "nothing"
        self._managers = managers
        self._nemesis = nemesis
        self._film = film
        self._loop = managers.net.loop
        self._random = managers.net.loop.random
        self._lines = Lines()
        self._stopping = False
        self._addresses = len(managers.hosts)
        managers.on_removed = self._decommission
        founders = {member.node_id for member in managers.founders}
        nemesis.retired.update(host.node_id for host in managers.hosts if host.node_id not in founders)

    async def run(self) -> None:
        """One thing after the other until :meth:`stop`, and then what was begun to its end."""
        add, promote, remove = self._add, self._promote, self._remove
        actions = (add, add, promote, promote, remove, remove, self._replace, self._transfer, self._move)
        while not self._stopping:
            await asyncio.sleep(self._random.expovariate(1 / ACT_MEAN_S))
            if not self._stopping:
                await self._do(actions[self._random.randrange(len(actions))])

    def stop(self) -> None:
        """Begin nothing new."""
        self._stopping = True

    async def _do(self, action: Callable[[], Awaitable[str | None]]) -> None:
        self.is_busy, self.doing = True, action.__name__.strip("_")
        try:
            done = await action()
        except SwarmpyError as error:
            self._film.did(f"operator: {self.doing} failed")
            self._film.tell("operator", f"{self.doing}: {error!r}")
        else:
            if done is not None:
                self._film.did(f"operator: {self.doing}")
                self._film.tell("operator", done)
        self.is_busy = False

    # -- what it knows ------------------------------------------------------------------------------------------------

    def members(self, raft_ids: list[int]) -> list[Host]:
        """Where they are."""
        return [host for raft_id, host in self._members().items() if raft_id in raft_ids]

    def _members(self) -> dict[int, Host]:
        """Of the last committed configuration, those that still have their disks."""
        conf = self._managers.laws.confs[-1]
        hosts = {raft_id: self._managers.host_of(raft_id) for raft_id, _ in sorted(conf.voters | conf.learners)}
        return {raft_id: host for raft_id, host in hosts.items() if host is not None}

    def voters(self) -> list[int]:
        """Those of the last committed configuration."""
        return sorted(raft_id for raft_id, _ in self._managers.laws.confs[-1].voters)

    def _spare(self) -> Host | None:
        used = set(self._members().values())
        spares = [host for host in self._managers.hosts if host not in used and not host.is_up]
        return spares[self._random.randrange(len(spares))] if spares else None

    # -- what it does -------------------------------------------------------------------------------------------------

    async def _add(self) -> str | None:
        host = self._spare()
        if host is None:
            return None
        await self._join(host, self._managers.new_identity(host))
        return f"{host.node_id} is a learner"

    async def _promote(self) -> str | None:
        leader = self._managers.leader()
        learners = [] if leader is None else leader.driver.status().conf.learners
        if leader is None or not learners:
            return None
        await self._change(leader, ConfChangeKind.PROMOTE, learners[0])
        return f"{learners[0].node_id} votes"

    async def _remove(self) -> str | None:
        leader = self._managers.leader()
        if leader is None or len(self.voters()) < 2:
            return None
        members = leader.driver.status().members
        member = members[self._random.randrange(len(members))]
        if member.raft_id == leader.member.raft_id and self._random.random() < 0.5:
            await self._lines.call(
                leader.host, lambda: leader.driver.transfer_leadership(None, timeout=CHANGE_S), CHANGE_S + 1
            )
            leader = self._managers.leader()
            if leader is None:
                return None
        await self._change(leader, ConfChangeKind.REMOVE, member)
        return f"{member.node_id} is removed"

    async def _transfer(self) -> str | None:
        leader = self._managers.leader()
        if leader is None:
            return None
        target = self._random.choice([None, *self.voters()])
        await self._lines.call(
            leader.host, lambda: leader.driver.transfer_leadership(target, timeout=CHANGE_S), CHANGE_S + 1
        )
        return f"the leadership goes to {target}"

    async def _replace(self) -> str | None:
        """A machine loses its disk, while the others can spare it, and comes back as a new member."""
        voters, members = self.voters(), self._members()
        raft_id = self._random.choice(sorted(members))
        if raft_id in voters and not self._can_spare_one():
            return None
        host = members[raft_id]
        self._film.fault("lost disk", host.node_id, "loses its disk")
        self._retire(host)
        old, new = self._managers.member(host), self._managers.new_identity(host)

        async def remove() -> None:
            await self._change(self._managers.leader(), ConfChangeKind.REMOVE, old)

        await self._insist(remove, lambda: raft_id not in (*self.voters(), *self._learners()))
        await self._join(host, new)
        return f"{host.node_id} is a new member"

    async def _move(self) -> str | None:
        """A machine comes back under another address."""
        voters, members = self.voters(), self._members()
        raft_id = self._random.choice(sorted(members))
        if raft_id in voters and not self._can_spare_one():
            return None
        host = members[raft_id]
        self._addresses += 1
        self._retire(host)
        member = self._managers.move(host, f"10.0.0.{self._addresses}:2377")
        self._boot(host)

        async def update() -> None:
            await self._change(self._managers.leader(), ConfChangeKind.UPDATE, member)

        await self._insist(update, lambda: self._knows(raft_id, member.address))
        return f"{host.node_id} is at {member.address}"

    async def _join(self, host: Host, member: Member) -> None:
        self._boot(host)

        async def add() -> None:
            await self._change(self._managers.leader(), ConfChangeKind.ADD_LEARNER, member)

        await self._insist(add, lambda: member.raft_id in self._members())

    # -- how ----------------------------------------------------------------------------------------------------------

    def _can_spare_one(self) -> bool:
        """One voter of three may be lost or unknown where it is - not while a change may take away another one."""
        return len(self.voters()) >= 3 and self._managers.laws.is_membership_settled()

    def _learners(self) -> list[int]:
        return sorted(raft_id for raft_id, _ in self._managers.laws.confs[-1].learners)

    def _knows(self, raft_id: int, address: str) -> bool:
        conf = self._managers.laws.confs[-1]
        mine = [place for place in sorted(conf.voters | conf.learners) if place[0] == raft_id]
        return not mine or mine == [(raft_id, address)]

    async def _change(self, leader: SimManager | None, kind: ConfChangeKind, member: Member) -> None:
        if leader is None:
            return
        change = ConfChange(kind=kind, member=member)
        await self._lines.call(
            leader.host, lambda: leader.driver.propose_conf_change(change, timeout=CHANGE_S), CHANGE_S + 1
        )

    async def _insist(self, attempt: Callable[[], Awaitable[None]], is_done: Callable[[], bool]) -> None:
        """Until it is so, whatever is refused or lost."""
        while not is_done():
            try:
                await attempt()
            except SwarmpyError as error:
                self._film.tell("operator", f"again: {error!r}")
            await asyncio.sleep(RETRY_S)

    def _boot(self, host: Host) -> None:
        self._nemesis.retired.discard(host.node_id)
        self._managers.boot(host)

    def _retire(self, host: Host) -> None:
        """Off, until the operator says otherwise."""
        self._nemesis.retired.add(host.node_id)
        host.crash()

    def _decommission(self, host: Host) -> None:
        life = host.life
        self._managers.net.later(self._random.uniform(0, DECOMMISSION_S), self._switch_off, host, life)

    def _switch_off(self, host: Host, life: object) -> None:
        if host.life is life and host.is_up:
            self._film.tell(host.node_id, "is switched off for good")
            self._retire(host)


async def play(loop: SimLoop, knobs: Knobs, film: Film) -> None:
    """From founding to peace; raises when a law is broken or peace does not come."""
    managers = Managers(
        knobs.network(loop),
        knobs.managers,
        spares=SPARES,
        config=knobs.raft,
        film=film,
        new_disk_options=knobs.disk_options,
    )
    story = loop.create_task(_story(managers, knobs, film))
    await asyncio.wait((story, managers.laws.broken), return_when=asyncio.FIRST_COMPLETED)
    if managers.laws.broken.done():
        managers.laws.broken.result()
    story.result()


async def _story(managers: Managers, knobs: Knobs, film: Film) -> None:
    loop = managers.net.loop
    nemesis = Nemesis(managers.net, managers.disks, film=film, knobs=knobs, leader=lambda: _leading(managers))
    operator, clients = Operator(managers, nemesis, film), Clients(managers, loop, film)
    await managers.start()
    await managers.wait_leader(FIRST_LEADER_S)
    operating = loop.create_task(operator.run())
    jobs = (clients.run(), _keep_checking(clients), Bursts(managers, loop).run())
    working = [loop.create_task(job) for job in jobs]
    await nemesis.run(knobs.trouble_s, heal=False)
    operator.stop()
    if not operator.is_busy and managers.laws.is_membership_settled():
        nemesis.heal_quorum([host.node_id for host in operator.members(operator.voters())])
        await progress(clients, film, "a healed quorum")
    nemesis.stop()
    await _end(operating, operator, working)
    await quiet(managers, clients, film)


def _leading(managers: Managers) -> str | None:
    leader = managers.leader()
    return None if leader is None else leader.host.node_id


async def _keep_checking(clients: Clients) -> None:
    while True:
        await asyncio.sleep(CHECK_S)
        clients.check()


async def _end(operating: asyncio.Task[None], operator: Operator, working: list[asyncio.Task[None]]) -> None:
    """The operator ends what it has begun, the clients stop where they are."""
    done, _ = await asyncio.wait([operating], timeout=2 * PROGRESS_S)
    if not done:
        raise SimulationError(f"the operator cannot end what it has begun: {operator.doing}")
    operating.result()
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    for task in working:
        if not task.cancelled():
            task.result()


async def progress(clients: Clients, film: Film, who: str) -> None:
    """A write is committed in bounded time."""
    client = Client(clients, f"w{clients.next_number()}")
    try:
        async with asyncio.timeout(PROGRESS_S):
            while (await client.write(Kind.INCREMENT, COUNTERS[0], 1)).outcome is not Outcome.DONE:
                pass
    except TimeoutError:
        raise SimulationError(f"{who} commits no write within {PROGRESS_S:g} s") from None
    film.checked(f"{who} makes progress")


async def quiet(managers: Managers, clients: Clients, film: Film) -> None:
    """After all is repaired writes succeed, members come to hold the same bytes, and clients were told the truth."""
    await progress(clients, film, "a healed cluster")
    members = await managers.wait_converged(PROGRESS_S)
    states = {await manager.store.snapshot() for manager in members}
    if len(states) != 1:
        raise SimulationError("members hold different states")
    for manager in members:
        for key in (*REGISTERS, *COUNTERS):
            operation = await clients.read("end", key, manager)
            if operation.outcome is not Outcome.DONE:
                raise SimulationError(f"a member of a healed cluster cannot read: {operation}")
    clients.check()
    clients.check_marks(members[0].store.view())
    film.checked("all members end with the same bytes")

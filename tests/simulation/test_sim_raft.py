"""Managers under crashes and partitions, while the membership changes: one scenario a test, then universes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest
from clients import value_of
from film import Film
from knobs import Knobs
from loop import SimLoop, run, seeds
from managers import CONFIG, Managers, SimManager
from managers_world import play as play_managers
from net import Host, SimNetwork

from swarmpy.errors import AlreadyExists, FailedPrecondition, NotLeader, SwarmpyError, Unavailable
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node
from swarmpy.model.specs import NodeSpec
from swarmpy.raft.messages import ConfChange, ConfChangeKind, Member
from swarmpy.store.transaction import Tx

FEW_ENTRIES = attrs.evolve(CONFIG, snapshot_interval=10, log_entries_for_slow_followers=1)
CHANGE_S = 5.0


def put(name: str, value: str = "") -> Callable[[Tx], None]:
    """A transaction that sets ``name``."""

    def fn(tx: Tx) -> None:
        node = tx.node(NodeId(name))
        if node is None:
            tx.create(Node(id=NodeId(name), spec=NodeSpec(name=value)))
        else:
            tx.update(attrs.evolve(node, spec=NodeSpec(name=value)))

    return fn


def scenario(body: Callable[[Managers], Coroutine[Any, Any, None]], *, seed: int = 0, **options: Any) -> None:
    """Play ``body`` with a group that has a leader; no law may be broken on the way."""

    async def main(loop: SimLoop) -> None:
        managers = Managers(SimNetwork(loop), **options)
        await managers.start()
        await managers.wait_leader()
        await body(managers)

    run(seed, main)


async def change(leader: SimManager, kind: ConfChangeKind, member: Member) -> None:
    """Change the membership."""
    await leader.driver.propose_conf_change(ConfChange(kind=kind, member=member), timeout=CHANGE_S)


async def join(managers: Managers, host: Host) -> Member:
    """Make the manager on a spare host a voter."""
    managers.boot(host)
    member = managers.member(host)
    leader = await managers.wait_leader()
    await change(leader, ConfChangeKind.ADD_LEARNER, member)
    async with asyncio.timeout(CHANGE_S):
        while not leader.driver.status().progress[member.raft_id].caught_up:
            await asyncio.sleep(0.05)
    await change(leader, ConfChangeKind.PROMOTE, member)
    return member


async def fresh(managers: Managers, old: SimManager) -> SimManager:
    """Wait for a leader that is not ``old``."""
    async with asyncio.timeout(10):
        while (leader := managers.leader()) is None or leader.member == old.member:
            await asyncio.sleep(0.02)
    return leader


def followers(managers: Managers, leader: SimManager) -> list[SimManager]:
    return [manager for manager in managers.up() if manager is not leader]


# -- power and leaders ------------------------------------------------------------------------------------------------


def test_a_write_survives_the_loss_of_all_power() -> None:
    """What was acknowledged is there after every manager lost its power at once."""

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        await leader.store.update(lambda tx: tx.create(Node(id=NodeId("a"))))
        for host in managers.hosts:
            host.crash()
        await asyncio.sleep(1)
        for host in managers.hosts:
            host.restart()
        leader = await managers.wait_leader()
        with pytest.raises(AlreadyExists):
            await leader.store.update(lambda tx: tx.create(Node(id=NodeId("a"))))

    scenario(body)


def test_a_new_leader_is_there_within_a_second() -> None:
    """When the leader loses its power, the next write succeeds in little more than an election timeout."""
    times = []

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        await asyncio.sleep(1)
        leader.host.crash()
        lost_at = managers.net.loop.now
        leader = await managers.wait_leader()
        await leader.store.update(put("a"))
        times.append(managers.net.loop.now - lost_at)

    for seed in range(20):
        scenario(body, seed=seed)
    times.sort()
    assert times[10] < 1.0
    assert times[-1] < 2.5


@pytest.mark.parametrize("seed", range(5))
def test_a_leader_that_stood_still_serves_no_stale_read(seed: int) -> None:
    """Asked in the moment it goes on, it shows what its successor has written meanwhile, or nothing."""

    async def body(managers: Managers) -> None:
        old = await managers.wait_leader()
        await old.store.update(put("a", "before"))
        old.host.pause()
        leader = await fresh(managers, old)
        await leader.store.update(put("a", "after"))
        old.host.resume()
        try:
            await old.driver.read_index(1.0)
        except SwarmpyError:
            return
        assert value_of(old.store.view(), "a") == "after"

    scenario(body, seed=seed)


def test_a_leader_that_is_cut_off_refuses_within_an_election_timeout() -> None:
    """It takes no write and holds no read up any more than that after the last answer of the others."""

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        managers.net.isolate(leader.host.node_id)
        await asyncio.sleep(1.2 * CONFIG.election_tick * CONFIG.tick_ns / 1e9)
        with pytest.raises(NotLeader):
            await leader.store.update(put("a"))
        asked_at = managers.net.loop.now
        with pytest.raises(Unavailable):
            await leader.driver.read_index(10)
        assert managers.net.loop.now == asked_at

    scenario(body)


# -- partitions -------------------------------------------------------------------------------------------------------


def test_reads_on_every_member_during_a_partition() -> None:
    """The members of the majority all show the last write; the cut off one shows nothing."""

    async def body(managers: Managers) -> None:
        old = await managers.wait_leader()
        managers.net.isolate(old.host.node_id)
        leader = await fresh(managers, old)
        await leader.store.update(put("a", "after"))
        for manager in followers(managers, old):
            await manager.driver.read_index(CHANGE_S)
            assert value_of(manager.store.view(), "a") == "after"
        with pytest.raises(Unavailable):
            await old.driver.read_index(CHANGE_S)

    scenario(body)


def test_the_membership_changes_during_a_partition() -> None:
    """With one cut off none of the others can be removed, but a new one be taken in; in the end all agree on it."""

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        lost, kept = followers(managers, leader)
        managers.net.isolate(lost.host.node_id)
        await asyncio.sleep(1)
        with pytest.raises(FailedPrecondition, match="cannot be removed"):
            await change(leader, ConfChangeKind.REMOVE, kept.member)
        member = await join(managers, managers.hosts[3])
        managers.net.heal()
        members = await managers.wait_converged()
        assert len(members) == 4
        assert all(member in manager.driver.conf.voters for manager in members)

    scenario(body, spares=1)


def test_a_change_that_a_lost_leader_began_is_not_half_made() -> None:
    """What a cut off leader has written of a change is gone or in force on all, and the next change works."""

    async def body(managers: Managers) -> None:
        old = await managers.wait_leader()
        managers.net.isolate(old.host.node_id)
        spare = managers.hosts[3]
        with pytest.raises(SwarmpyError):
            await change(old, ConfChangeKind.ADD_LEARNER, managers.member(spare))
        await fresh(managers, old)
        managers.net.heal()
        await join(managers, spare)
        assert len(await managers.wait_converged()) == 4

    scenario(body, spares=1)


# -- coming and going -------------------------------------------------------------------------------------------------


def test_a_leader_that_removes_itself() -> None:
    """The others elect another one and go on; the removed member learns of it and leads no more."""
    removed: list[str] = []

    async def body(managers: Managers) -> None:
        managers.on_removed = lambda host: removed.append(host.node_id)
        old = await managers.wait_leader()
        await change(old, ConfChangeKind.REMOVE, old.member)
        leader = await fresh(managers, old)
        await leader.store.update(put("a"))
        assert len(await managers.wait_converged()) == 2
        assert removed == [old.host.node_id]
        with pytest.raises(NotLeader):
            await old.store.update(put("b"))

    scenario(body)


def test_a_leader_hands_over_and_is_removed() -> None:
    """Nothing is refused for long: the successor is there when the hand-over returns."""

    async def body(managers: Managers) -> None:
        old = await managers.wait_leader()
        target = followers(managers, old)[0]
        await old.driver.transfer_leadership(target.member.raft_id, timeout=CHANGE_S)
        assert target.driver.status().is_leader
        await managers.wait_leader()
        await change(target, ConfChangeKind.REMOVE, old.member)
        await target.store.update(put("a"))

    scenario(body)


def test_a_member_that_lost_its_disk_comes_back_as_another() -> None:
    """Its old identity is removed, and its new one gets a vote when it has everything."""

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        await leader.store.update(put("a", "kept"))
        lost = followers(managers, leader)[0]
        lost.host.crash()
        managers.new_identity(lost.host)
        await change(leader, ConfChangeKind.REMOVE, lost.member)
        member = await join(managers, lost.host)
        members = await managers.wait_converged()
        assert member.raft_id != lost.member.raft_id
        assert [value_of(manager.store.view(), "a") for manager in members] == ["kept"] * 3

    scenario(body)


def test_a_leader_that_has_moved_reaches_a_member_that_missed_it() -> None:
    """A member that was away answers where the leader says it is, not only where the membership of old times has it."""

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        away, moving, *_ = followers(managers, leader)
        away.host.crash()
        moving.host.crash()
        moved = managers.move(moving.host, "10.0.9.9:2377")
        managers.boot(moving.host)
        leader = await managers.wait_leader()
        await change(leader, ConfChangeKind.UPDATE, moved)
        for number in range(30):  # more than the log remembers
            await leader.store.update(put(f"w{number}"))
        await leader.driver.transfer_leadership(moved.raft_id, timeout=CHANGE_S)
        away.host.restart()
        assert len(await managers.wait_converged()) == 5

    scenario(body, count=5, config=FEW_ENTRIES)


@pytest.mark.parametrize("seed", range(5))
def test_two_crashes_in_a_row_while_a_snapshot_is_installed(seed: int) -> None:
    """A member that crashes between the pieces of a snapshot, and again, ends with all that the others have."""

    async def body(managers: Managers) -> None:
        leader = await managers.wait_leader()
        slow = followers(managers, leader)[0]
        slow.host.crash()
        for number in range(40):
            await leader.store.update(put(f"w{number}", "x" * 1000))
        for _ in range(2):
            slow.host.restart()
            heard = managers.film.checks["a restored state is one that was saved"]
            async with asyncio.timeout(10):
                while managers.film.checks["a restored state is one that was saved"] == heard:
                    await asyncio.sleep(0.0003)
            slow.host.crash()
        slow.host.restart()
        assert len(await managers.wait_converged()) == 3

    scenario(body, seed=seed, config=FEW_ENTRIES)


# -- universes --------------------------------------------------------------------------------------------------------


async def universe(loop: SimLoop) -> Film:
    """Three managers or more and everything that can go wrong, also with the membership; then peace."""
    film = Film()
    film.attach(lambda: loop.now)
    knobs = Knobs.draw(loop.random, "managers")
    try:
        await play_managers(loop, knobs, film)
    except BaseException as error:
        error.add_note("\n".join(film.lines))
        raise
    return film


@pytest.mark.parametrize("seed", seeds(6))
def test_all_laws_hold(seed: int) -> None:
    """In every universe the laws hold at every step, histories are linearizable, and all members agree in the end."""
    film = run(seed, universe)
    assert film.operations["read done"]
    assert film.operations["increment done"]


def test_universes_are_worth_something() -> None:
    """A few of them together see every law checked, leaders change, and members come, vote and go."""
    films = [run(seed, universe) for seed in range(100, 106)]
    checks = sum((film.checks for film in films), films[0].checks.__class__())
    operations = sum((film.operations for film in films), films[0].operations.__class__())
    assert len(checks) >= 18
    assert checks["one leader in a term"] > len(films)
    assert {"operator: add", "operator: promote", "operator: remove", "answer lost"} <= operations.keys()

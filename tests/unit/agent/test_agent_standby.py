"""When every agent looks for the next leader at once: no needless handshake, and patience with a busy manager."""

from __future__ import annotations

import asyncio

import pytest
from agent_world import Host, Manager, MemoryChannel, Network, eventually

from swarmpy.errors import ConnectionFailed
from swarmpy.model.assignments import AssignmentUpdate, ManagerAddress, SessionMessage
from swarmpy.model.ids import NodeId
from swarmpy.security.serials import make_serial


def open_channels(manager: Manager) -> list[MemoryChannel]:
    return [channel for channel in manager.channels if not channel._closed.is_set()]


async def test_the_same_connection_is_used_again_until_somebody_leads() -> None:
    """During an election managers are asked again and again, but connected to once."""
    managers = [Manager("m1"), Manager("m2")]
    for manager in managers:
        manager.redirect = ""
    host = Host(*managers)
    async with host.run() as agent:
        await eventually(lambda: all(manager.asked >= 3 for manager in managers))
        assert sorted(host.network.dialled) == ["m1", "m2"]
        managers[0].redirect = None
        await eventually(lambda: agent.manager == "m1")
        assert sorted(host.network.dialled) == ["m1", "m2"]
        # The other one may lead next.
        await asyncio.sleep(0.02)
        assert len(open_channels(managers[1])) == 1
    assert not open_channels(managers[0])
    assert not open_channels(managers[1])


def told(*managers: Manager) -> SessionMessage:
    """What a leader says of the managers."""
    known = tuple(ManagerAddress(node_id=NodeId(m.address), address=m.address) for m in managers)
    return SessionMessage(managers=known, assignments=AssignmentUpdate(sequence=1))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Manager, Manager]:
    """A leader, and a follower that knows it; what is missing is made up for soon."""
    monkeypatch.setattr("swarmpy.agent.standby.PAUSE_FIRST_S", 0.02)
    monkeypatch.setattr("swarmpy.agent.standby.PAUSE_MOST_S", 0.04)
    leader, follower = Manager("m1"), Manager("m2")
    leader.first = follower.first = told(leader, follower)
    follower.redirect = "m1"
    return leader, follower


def change_leader(old: Manager, new: Manager) -> None:
    """The leader dies, and the other one leads."""
    old.die()
    old.redirect, new.redirect = new.address, None


async def test_in_a_session_one_other_manager_is_connected_with(pair: tuple[Manager, Manager]) -> None:
    """Also for who found the leader at once; anew when it is lost; and the next leader is had without a handshake."""
    leader, follower = pair
    host = Host(*pair, seeds=("m1",))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m1" and open_channels(follower))
        assert host.network.dialled == ["m1", "m2"]
        follower.channels[0].cut()
        await eventually(lambda: open_channels(follower))
        assert host.network.dialled == ["m1", "m2", "m2"]
        change_leader(leader, follower)
        await eventually(lambda: agent.manager == "m2")
        assert host.network.dialled.count("m2") == 2
        # The lost one comes back, and is the other one now.
        leader.alive = True
        await eventually(lambda: open_channels(leader))
        assert len(open_channels(follower)) == 1
    assert not open_channels(leader) + open_channels(follower)


async def test_the_other_manager_says_who_leads(pair: tuple[Manager, Manager]) -> None:
    """It is asked first when the leader is lost; the third one is not connected to in vain."""
    third = Manager("m3")
    leader, follower = pair
    leader.first = third.first = told(leader, follower)
    host = Host(*pair, third, seeds=("m1",))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m1" and open_channels(follower))
        for manager in pair:
            manager.redirect = "m3"
        leader.die()
        await eventually(lambda: agent.manager == "m3")
        assert host.network.dialled == ["m1", "m2", "m3"]
        assert follower.asked == 1


async def test_a_kept_connection_is_looked_at_anew(pair: tuple[Manager, Manager]) -> None:
    """In a session a node hears which certificates count no more: nothing is asked of, or told to, who has one."""
    leader, follower = pair
    follower.serial = f"{make_serial(1, b'key'):x}"
    host = Host(*pair, seeds=("m1",))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m1" and open_channels(follower))
        leader.tell(revoked={"m": 1})
        await eventually(lambda: host.local.remembered.revoked == {"m": 1})
        change_leader(leader, follower)
        await eventually(lambda: host.network.dialled.count("m2") >= 2)
        assert follower.channels[0] not in open_channels(follower)
        # Who dials judges by itself; this world's network lets everybody through.
        await eventually(lambda: agent.manager == "m2")


async def test_a_node_with_another_certificate_connects_anew(pair: tuple[Manager, Manager]) -> None:
    """What was made with the one before is not used any more."""
    leader, follower = pair
    host = Host(*pair, seeds=("m1",))
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m1" and open_channels(follower))
        agent.renewed()
        await eventually(lambda: len(follower.channels) == 2 and open_channels(follower) == follower.channels[1:])
        assert open_channels(leader) == leader.channels, "the session goes on"


async def test_a_manager_that_does_not_answer_is_left_alone_for_longer(pair: tuple[Manager, Manager]) -> None:
    """And an only manager is nobody to be connected with twice."""
    leader, follower = pair
    follower.alive = False
    host = Host(*pair, seeds=("m1",))
    async with host.run() as agent:
        await eventually(lambda: host.network.dialled.count("m2") >= 3)
        assert agent._standby._pause.bound == 0.04
        leader.tell(managers=told(leader).managers)
        await eventually(lambda: agent.known_managers() == ("m1",))
        host.network.dialled.clear()
        await asyncio.sleep(0.2)
        assert host.network.dialled == []


async def test_a_kept_connection_that_broke_is_made_anew() -> None:
    """A manager that was restarted meanwhile is dialled, not given up."""
    manager = Manager("m1")
    manager.redirect = ""
    host = Host(manager)
    async with host.run() as agent:
        await eventually(lambda: manager.asked >= 2)
        for channel in manager.channels:
            channel.cut()
        manager.redirect = None
        await eventually(lambda: agent.manager == "m1")


async def test_no_more_than_a_few_are_kept() -> None:
    """Of many managers only the latest few have a connection that nobody uses."""
    managers = [Manager(f"m{number}") for number in range(5)]
    for manager in managers:
        manager.redirect = ""
    host = Host(*managers)
    async with host.run():
        await eventually(lambda: all(manager.asked >= 2 for manager in managers))
        assert sum(len(open_channels(manager)) for manager in managers) <= 3
    await eventually(lambda: not any(open_channels(manager) for manager in managers))


class _BusyNetwork(Network):
    """Of a manager that has so many handshakes to do that each takes ``takes`` seconds."""

    takes = 0.0

    def __init__(self, *managers: Manager) -> None:
        super().__init__(*managers)
        self.timeouts: list[float] = []

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> MemoryChannel:
        self.timeouts.append(timeout)
        await asyncio.sleep(min(timeout, self.takes))
        if timeout < self.takes:
            raise ConnectionFailed(f"{address} does not answer within {timeout:g} s")
        return await super().dial(address, timeout=timeout, expect=expect)


async def test_a_busy_manager_is_given_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that gave up in vain waits longer the next time, up to a bound, and is impatient again after that."""
    monkeypatch.setattr("swarmpy.agent.agent.DIAL_FIRST_S", 0.02)
    monkeypatch.setattr("swarmpy.agent.agent.DIAL_MOST_S", 0.08)
    manager = Manager("m1")
    host = Host(manager)
    host.network = network = _BusyNetwork(manager)
    network.takes = 0.05
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m1")
        assert network.timeouts == [0.02, 0.04, 0.08]
        network.timeouts.clear()
        network.takes = 1.0
        manager.die()
        manager.alive = True
        await eventually(lambda: len(network.timeouts) == 5)
        assert network.timeouts == [0.02, 0.04, 0.08, 0.08, 0.08]


async def test_a_manager_that_refuses_does_not_make_patient() -> None:
    """Only waiting in vain does: a dead manager is not to be waited for longer the next time."""
    manager = Manager("m1")
    manager.alive = False
    host = Host(manager)
    host.network = network = _BusyNetwork(manager)
    async with host.run():
        await eventually(lambda: len(network.timeouts) >= 5)
        assert set(network.timeouts) == {1.0}

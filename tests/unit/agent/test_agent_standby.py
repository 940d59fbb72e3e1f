"""When every agent looks for the next leader at once: no needless handshake, and patience with a busy manager."""

from __future__ import annotations

import asyncio

import pytest
from agent_world import Host, Manager, MemoryChannel, Network, eventually

from swarmpy.errors import ConnectionFailed
from swarmpy.model.ids import NodeId


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
        # Nobody needs a connection to a manager that does not lead.
        await eventually(lambda: not open_channels(managers[1]))
    assert not open_channels(managers[0])


async def test_no_connection_outlives_a_session() -> None:
    """In a session a node hears which certificates count no more; whoever leads after it is looked at anew."""
    managers = [Manager("m1"), Manager("m2")]
    managers[1].redirect = ""
    host = Host(*managers)
    async with host.run() as agent:
        await eventually(lambda: agent.manager == "m1")
        await eventually(lambda: len(open_channels(managers[0])) == 1 and not open_channels(managers[1]))
        host.network.dialled.clear()
        managers[0].redirect = ""
        await eventually(lambda: managers[0].asked >= 3)
        managers[0].redirect = None
        await eventually(lambda: agent.manager == "m1")
        assert host.network.dialled.count("m1") == 1


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

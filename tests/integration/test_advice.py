"""What ``status`` advises against while nothing is wrong yet, on real managers."""

from __future__ import annotations

import asyncio
import os
import signal

from hosts import Host, Hosts, until

from swarmpy.cli.client import ApiClient
from swarmpy.raft.status import CAUGHT_UP_ENTRIES

AT_ONCE = 50


def advice(host: Host) -> list[str]:
    """The lines of advice in ``status``, which every manager has from the leader."""
    return [line for line in host.does("status").splitlines() if line.startswith("advice: ")]


def write(host: Host, count: int) -> None:
    """So many entries of the log."""

    async def create(number: int, room: asyncio.Semaphore) -> None:
        body = {
            "Name": f"s{number}",
            "TaskTemplate": {"ContainerSpec": {"Image": "none"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        async with room:
            await ApiClient(host.data_dir / "swarmpy.sock").post("/services/create", body, timeout=60)

    async def all_of_them() -> None:
        room = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(create(number, room) for number in range(count)))

    asyncio.run(all_of_them())


def test_even_numbers_and_one_that_is_far_behind(hosts: Hosts) -> None:
    """Two and four managers, and one that answers but does not keep up, are pointed out, and no others."""
    managers = hosts.cluster(2, 0)
    for host in managers:
        assert advice(host) == [
            "advice: 2 managers: when either fails, nothing can be changed any more; add a third, or demote one"
        ]
    managers.append(hosts.new())
    managers[2].join(managers[0], "manager")
    until(lambda: all(advice(host) == [] for host in managers), "three are a good number")
    managers.append(hosts.new())
    managers[3].join(managers[0], "manager")
    even = "advice: 4 managers bear the loss of 1, as 3 managers do: add one, or demote one"
    until(lambda: all(advice(host) == [even] for host in managers), "four are no better than three")

    # A manager that stands still counts as one that answers until an election timeout is over.
    managers[0].does("swarm", "update", "--heartbeat-interval", "1s", "--election-timeout", "59s")
    slow = managers[3]
    os.kill(slow.pid, signal.SIGSTOP)
    try:
        write(managers[0], CAUGHT_UP_ENTRIES + 100)
        for host in managers[:3]:
            lines = advice(host)
            assert lines[0] == even
            assert lines[1].startswith(f"advice: manager {slow.name} is 1")
            assert lines[1].endswith(
                " entries behind: until it has caught up, the cluster bears one failure less; look at its disk and at "
                "its network"
            )
            assert len(lines) == 2
    finally:
        os.kill(slow.pid, signal.SIGCONT)
    until(lambda: advice(managers[0]) == [even], "it has caught up")

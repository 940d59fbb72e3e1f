"""Writes through a follower while leaders are killed: each is answered clearly, and done once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import aiohttp
from clusters import ClusterMaker, leader_of, service_body

from swarmpy.api.request import KEY_HEADER
from swarmpy.cli.local_cluster import LocalCluster, LocalNode

WRITERS = 8
KILLS = 2


async def create(node: LocalNode, key: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """One creation of a service, sent once: what the daemon answers."""
    connector = aiohttp.UnixConnector(path=str(node.data_dir / "swarmpy.sock"))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.post("http://swarmpy/services/create", json=body, headers={KEY_HEADER: key}) as response,
    ):
        return response.status, await response.json()


class Writers:
    """Clients of one manager that create services, one after another each, until they are told to stop."""

    def __init__(self, node: LocalNode) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self._node = node
        self._answered = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Write."""
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._write(number))

    async def _write(self, writer: int) -> None:
        turn = 0
        while not self._stopping:
            key = f"{writer}-{turn}"
            self.answers[key] = await create(self._node, key, service_body(f"web-{key}", 0))
            self._answered.set()
            turn += 1

    async def answered(self, more: int) -> None:
        """Wait for so many further answers."""
        wanted = len(self.answers) + more
        async with asyncio.timeout(15):
            while len(self.answers) < wanted:
                self._answered.clear()
                await self._answered.wait()

    def stop(self) -> None:
        """Let each finish what it has begun."""
        self._stopping = True


async def kill_leaders(cluster: LocalCluster, follower: LocalNode, writers: Writers) -> None:
    """kill -9 of one leader after another, each under load, and never of the manager that is written through."""
    for _ in range(KILLS):
        await writers.answered(3 * WRITERS)
        leader = await leader_of(cluster)
        if leader is follower:
            return
        await leader.kill()
        await writers.answered(WRITERS)
        await leader.start()
    writers.stop()


async def test_each_creation_through_a_follower_is_done_once(make_cluster: ClusterMaker) -> None:
    """Killed leaders take answers with them: every client hears 201 all the same, and finds one service of its own."""
    cluster = await make_cluster(3, 0)
    leader = await leader_of(cluster)
    follower = next(node for node in cluster.managers if node is not leader)
    writers = Writers(follower)
    running = asyncio.create_task(writers.run())
    try:
        await kill_leaders(cluster, follower, writers)
        writers.stop()
        await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert {status for status, _ in writers.answers.values()} == {201}, writers.answers
    created = {service["Spec"]["Name"]: service["ID"] for service in await follower.client.services()}
    assert created == {f"web-{key}": answer["ID"] for key, (_, answer) in writers.answers.items()}
    assert len(created) == len(writers.answers)
    for key in list(writers.answers)[-WRITERS:]:
        repeated = await create(cluster.living_manager, key, service_body(f"web-{key}", 0))
        assert repeated == writers.answers[key]

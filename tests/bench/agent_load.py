"""Agents by the hundred in one process: ``python -m tests.bench.agent_load COUNT TOKEN MANAGER...``.

Each is a node of its own: it joins with the token, has its key and certificate, its connection and its session. Only
what runs its tasks is simulated. The process reads one JSON object a line from standard input, ``{"do": NAME, ...}``,
and answers each with one on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from swarmpy.agent.agent import Agent
from swarmpy.agent.local import MemoryLocalState
from swarmpy.agent.rest_of_node import RestOfNode
from swarmpy.cli.daemon import _die_with_parent
from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Availability, Role
from swarmpy.node.clock import SystemClock
from swarmpy.node.joining import fetch_identity
from swarmpy.ports import Channel, Dialer
from swarmpy.runtime.simulated import SimulatedRuntime
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.tls import Credentials
from swarmpy.wire.rpc import RpcDialer

ADDRESS = "127.0.0.1"
LOOK_S = 0.005
"""How often it is looked who has a session with whom: an agent tells only of its first one."""
GIVE_UP_S = 60.0
HANDSHAKES_AT_ONCE = 32


class NoDataPlane:
    """Routes nothing."""

    async def apply(self, ports: Mapping[PublishedPort, tuple[Endpoint, ...]]) -> None:
        """It is in force."""

    def problems(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def drain(self) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


class TakingTurns:
    """A dialler that shares this process's one processor with all others: a few handshakes at a time.

    Agents on machines of their own do theirs at once, and none waits for another one's.
    """

    def __init__(self, dialer: Dialer, turns: asyncio.Semaphore, begun: Callable[[], None]) -> None:
        """``begun`` is called for each handshake that begins."""
        self._dialer = dialer
        self._turns = turns
        self._begun = begun

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        """When it is its turn."""
        async with self._turns:
            self._begun()
            return await self._dialer.dial(address, timeout=timeout, expect=expect)


class Load:
    """So many agents."""

    def __init__(self, count: int, token: str, managers: list[str]) -> None:
        self._network = random.randrange(16, 256)
        self._turns = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
        self._count = count
        self._token = token
        self._managers = managers
        self._identities: list[NodeIdentity] = []
        self._agents: list[Agent] = []
        self._running: list[asyncio.Task[None]] = []
        self._handshakes = 0

    def _count_handshake(self) -> None:
        self._handshakes += 1

    async def join(self, *, at_once: int) -> dict[str, Any]:
        """All become nodes, so many at a time."""
        turns = asyncio.Semaphore(at_once)
        latencies: list[float] = []

        async def one(number: int) -> None:
            async with turns:
                began = time.perf_counter()
                identity, _ = await fetch_identity(
                    self._managers[:1],
                    self._token,
                    hostname=f"load-{number}",
                    availability=Availability.ACTIVE,
                    random=random.SystemRandom(),
                )
                latencies.append(time.perf_counter() - began)
                self._identities.append(identity)

        began = time.monotonic()
        await asyncio.gather(*(one(number) for number in range(self._count)))
        return {"began": began, "ended": time.monotonic(), "latencies": latencies}

    async def open(self) -> dict[str, Any]:
        """All open their sessions at once."""
        for number, identity in enumerate(self._identities):
            self._agents.append(self._agent(identity, f"127.{self._network}.{number // 250}.{number % 250 + 1}"))
        began, spent = time.monotonic(), self._spending()
        self._running = [asyncio.create_task(agent.run()) for agent in self._agents]
        async with asyncio.timeout(GIVE_UP_S):
            await asyncio.gather(*(agent.connected.wait() for agent in self._agents))
        return {"began": began, "ended": time.monotonic(), **spent()}

    def _spending(self) -> Callable[[], dict[str, Any]]:
        """What this process spends from now until what is returned is called: it is not the managers' share."""
        cpu_s, handshakes = time.process_time(), self._handshakes
        return lambda: {"load_cpu_s": time.process_time() - cpu_s, "handshakes": self._handshakes - handshakes}

    def _agent(self, identity: NodeIdentity, source: str) -> Agent:
        """``source``: where it connects from, as machines of its own would."""
        credentials = Credentials(identity)
        dialer = RpcDialer(credentials.client_context, identity.cluster_id, source=source)
        clock, rng = SystemClock(), random.SystemRandom()
        return Agent(
            node_id=identity.node_id,
            address=ADDRESS,
            role=Role.WORKER,
            dialer=TakingTurns(dialer, self._turns, self._count_handshake),
            runtime=SimulatedRuntime(node_id=identity.node_id, node_address=ADDRESS, hostname="load", random=rng),
            data_plane=NoDataPlane(),
            local=MemoryLocalState(),
            clock=clock,
            random=rng,
            rest=RestOfNode(seeds=lambda: self._managers, on_role_change=lambda _role: None),
        )

    async def reconnect(self, *, lost: str) -> dict[str, Any]:
        """Wait until every agent has a session with another manager than ``lost``: when each had one."""
        there: list[float] = []
        away, spent = list(self._agents), self._spending()
        async with asyncio.timeout(GIVE_UP_S):
            while away:
                left = [agent for agent in away if agent.manager in ("", lost)]
                there += [time.monotonic()] * (len(away) - len(left))
                away = left
                await asyncio.sleep(LOOK_S)
        return {"there": there, **spent()}

    async def lose(self) -> dict[str, Any]:
        """One node falls silent: nobody says goodbye for it."""
        task, identity = self._running.pop(), self._identities[len(self._running)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return {"lost": [identity.node_id]}

    async def close(self) -> dict[str, Any]:
        """End them."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        return {}


async def run(options: argparse.Namespace) -> None:
    """Do what is asked, one thing after the other, until standard input ends."""
    load = Load(options.count, options.token, options.managers)
    loop = asyncio.get_running_loop()
    commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
        "join": load.join, "open": load.open, "reconnect": load.reconnect, "close": load.close,
        "lose": load.lose,
    }  # fmt: skip
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        print(json.dumps(await commands[asked.pop("do")](**asked)), flush=True)


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("token")
    parser.add_argument("managers", nargs="+")
    options = parser.parse_args()
    _die_with_parent()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    asyncio.run(run(options))


if __name__ == "__main__":
    main()

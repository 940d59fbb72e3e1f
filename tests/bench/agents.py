"""Agents by the hundred: how fast they join and open sessions, what a heartbeat costs, how soon all are back."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog

from swarmpy.cli.local_cluster import LocalNode
from tests.bench.clusters import HostedNode, leader_of, leading, quorum_whole, running
from tests.bench.figures import distribution, emit, quantile
from tests.bench.heartbeat import heartbeat_cost

AT_ONCE = 8
"""Machines that each load process lets join at a time: a manager takes 32 callers without a certificate."""
LOADS = 2
SETTLE_S = 2.0
ROUNDS_A_SECOND = 500
"""Of the measurement of one heartbeat, for each second that the others take."""
ANSWER_TIMEOUT_S = 120.0


class Loads:
    """Processes full of agents."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def do(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        """Have all do something at once; what each found."""
        line = json.dumps({"do": name, **arguments}).encode() + b"\n"
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answers = await asyncio.gather(*(p.stdout.readline() for p in self._processes if p.stdout is not None))
        if not all(answers):
            raise SystemExit("a process with agents has ended")
        return [json.loads(answer) for answer in answers]


@contextlib.asynccontextmanager
async def loads(count: int, token: str, managers: list[LocalNode]) -> AsyncIterator[Loads]:
    """``count`` agents, in as many processes as this machine has processors for."""
    shares = [count // LOADS + (number < count % LOADS) for number in range(LOADS)]
    command = [sys.executable, "-m", "tests.bench.agent_load"]
    arguments = [token, *(manager.cluster_address for manager in managers)]
    processes = [
        await asyncio.create_subprocess_exec(
            *command, str(share), *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
        )
        for share in shares if share
    ]  # fmt: skip
    try:
        yield Loads(processes)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await asyncio.gather(*(process.wait() for process in processes))


async def agents(options: argparse.Namespace) -> None:
    """All of it, at one cluster."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with running(options.managers) as cluster:
        leader = await leader_of(cluster)
        token = (await leader.client.get("/swarm"))["JoinTokens"]["Worker"]
        others = [each for each in cluster.managers if each is not leader and isinstance(each, HostedNode)]
        async with loads(options.agents, token, [leader, *others]) as load:
            await _joins(load, leader, options.agents)
            await _sessions(load, leader, options.agents)
            await _heartbeats(leader, options.agents, options.seconds)
            if others:
                await quorum_whole(cluster)
                await _reconnect(load, leader, others)
                await leading(cluster)
    emit(bench="agents", what="cost of a heartbeat", **await heartbeat_cost(round(ROUNDS_A_SECOND * options.seconds)))


async def _joins(load: Loads, leader: HostedNode, count: int) -> None:
    cpu = leader.cpu_s
    listening = asyncio.create_task(leader.do("listen"))
    profile = asyncio.create_task(leader.do("attributed_until_enough"))
    found = await load.do("join", at_once=AT_ONCE)
    cpu = leader.cpu_s - cpu
    await leader.do("enough")
    emit(
        bench="agents",
        what="join",
        agents=count,
        **_rate(found, count, cpu),
        **distribution([seconds for each in found for seconds in each["latencies"]]),
        **await listening,
        us_by_layer=_each(await profile, count),
    )


async def _sessions(load: Loads, leader: HostedNode, count: int) -> None:
    cpu = leader.cpu_s
    listening = asyncio.create_task(leader.do("listen"))
    profile = asyncio.create_task(leader.do("attributed_until_enough"))
    found = await load.do("open")
    cpu = leader.cpu_s - cpu
    await leader.do("enough")
    emit(
        bench="agents",
        what="session",
        agents=count,
        **_rate(found, count, cpu),
        **_load(found),
        **await listening,
        us_by_layer=_each(await profile, count),
    )


async def _reconnect(load: Loads, leader: HostedNode, others: list[HostedNode]) -> None:
    """The leader is killed. Where the load shares the machine, its processor time is part of how long that takes."""
    cpu, term = sum(manager.cpu_s for manager in others), await _term(others[0])
    waiting = asyncio.create_task(load.do("reconnect", lost=leader.cluster_address))
    began = time.monotonic()
    await leader.kill()
    found = await waiting
    there = sorted(moment - began for each in found for moment in each["there"])
    after = {f"p{share * 100:g}_s": round(quantile(there, share), 3) for share in (0.01, 0.5, 0.99)}
    emit(
        bench="agents",
        what="reconnect",
        agents=len(there),
        **after,
        all_s=round(there[-1], 3),
        terms=await _term(others[0]) - term,
        managers_cpu_s=round(sum(manager.cpu_s for manager in others) - cpu, 2),
        **_load(found),
    )


async def _term(manager: HostedNode) -> int:
    """Raft's, as this manager knows it: one more means one election, that of the next leader."""
    return int((await manager.client.status())["raft"]["term"])


async def _heartbeats(leader: HostedNode, count: int, seconds: float) -> None:
    await asyncio.sleep(min(SETTLE_S, seconds))
    cpu, began = leader.cpu_s, time.monotonic()
    profile = await leader.do("attributed", seconds=seconds)
    took = time.monotonic() - began
    # Each agent calls once a second, give or take; the jitter is even.
    beats = count * took
    used = leader.cpu_s - cpu
    emit(
        bench="agents",
        what="heartbeats",
        agents=count,
        leader_cpu_share=round(used / took, 3),
        leader_cpu_us=round(used / beats * 1e6),
        us_by_layer=_each(profile, round(beats)),
    )


def _rate(found: list[dict[str, Any]], count: int, cpu_s: float) -> dict[str, Any]:
    took = max(each["ended"] for each in found) - min(each["began"] for each in found)
    return {"per_s": round(count / took), "took_s": round(took, 2), "leader_cpu_us": round(cpu_s / count * 1e6)}


def _load(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What the agents' own processes have spent, and how many handshakes they began."""
    spent = round(sum(each["load_cpu_s"] for each in found), 2)
    return {"load_cpu_s": spent, "handshakes": sum(each["handshakes"] for each in found)}


def _each(profile: dict[str, float], count: int) -> dict[str, int]:
    return {layer: round(seconds / count * 1e6) for layer, seconds in profile.items() if seconds / count > 1e-6}

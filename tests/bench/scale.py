"""The whole control plane with many agents and tasks: deploying, at rest, updating, and when a node is lost.

Agents are nodes of their own, each with its key, its connection and its session; only what runs their tasks is
simulated. They take their part of this machine's processors: what the leader used is told beside the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import structlog

from tests.bench.agents import AT_ONCE, Loads, loads
from tests.bench.clusters import HostedNode, leader_of, running
from tests.bench.figures import emit

SETTLE_S = 5.0
UPDATE_PARTS = 10
"""A rolling update replaces so much of the tasks at a time."""


async def scale(options: argparse.Namespace) -> None:
    """One service with all the tasks, on all the agents."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    count = options.tasks
    async with running(options.managers) as cluster:
        leader = await leader_of(cluster)
        token = (await leader.client.get("/swarm"))["JoinTokens"]["Worker"]
        others = [manager for manager in cluster.managers if manager is not leader]
        async with loads(options.agents, token, [leader, *others]) as load:
            await _set_heartbeat(leader, options.agent_heartbeat_s)
            await load.do("join", at_once=AT_ONCE)
            await load.do("open")
            shape = {"managers": options.managers, "agents": options.agents, "tasks": count}
            async with _measured(leader, "deploy", **shape):
                created = await leader.client.post("/services/create", _spec(count, "none:1"))
                await leader.do("until_running", service=created["ID"], count=count)
            await asyncio.sleep(min(SETTLE_S, options.seconds))
            async with _measured(leader, "rest", **shape):
                await asyncio.sleep(options.seconds)
            async with _measured(leader, "update", **shape):
                service = await leader.client.get(f"/services/{created['ID']}")
                version = str(service["Version"]["Index"])
                await leader.client.post(
                    f"/services/{created['ID']}/update", _spec(count, "none:2"), query={"version": version}
                )
                await leader.do("until_running", service=created["ID"], count=count, image="none:2")
            await _lose_a_node(load, leader, created["ID"], shape)


async def _lose_a_node(load: Loads, leader: HostedNode, service: str, shape: dict[str, Any]) -> None:
    async with _measured(leader, "lost node", **shape) as found:
        lost = [node_id for answer in await load.do("lose") for node_id in answer["lost"]]
        found["tasks_lost"] = (await leader.do("tasks_on", nodes=lost))["tasks"]
        await leader.do("until_running", service=service, count=shape["tasks"], image="none:2", without=lost)


async def _set_heartbeat(leader: HostedNode, seconds: float) -> None:
    swarm = await leader.client.get("/swarm")
    spec = swarm["Spec"]
    spec["Dispatcher"]["HeartbeatPeriod"] = round(seconds * 1e9)
    await leader.client.post("/swarm/update", spec, query={"version": str(swarm["Version"]["Index"])})


def _spec(count: int, image: str) -> dict[str, Any]:
    return {
        "Name": "scale",
        "TaskTemplate": {
            "ContainerSpec": {"Image": image},
            "Placement": {"Constraints": ["node.role==worker"]},
        },
        "Mode": {"Replicated": {"Replicas": count}},
        "UpdateConfig": {"Parallelism": max(1, count // UPDATE_PARTS), "Order": "stop-first"},
    }


@contextlib.asynccontextmanager
async def _measured(leader: HostedNode, what: str, **shape: Any) -> AsyncIterator[dict[str, Any]]:
    """How long the block took, what the leader used meanwhile, and how late its loop was."""
    found: dict[str, Any] = {}
    listening = asyncio.create_task(leader.do("listen"))
    profile = asyncio.create_task(leader.do("attributed_until_enough"))
    await asyncio.sleep(0)
    before = await leader.client.raft_status()
    cpu, began = leader.cpu_s, time.monotonic()
    yield found
    took, used = time.monotonic() - began, leader.cpu_s - cpu
    after = await leader.client.raft_status()
    await leader.do("enough")
    emit(
        bench="scale",
        what=what,
        **shape,
        seconds=round(took, 2),
        leader_cpu_s=round(used, 2),
        log_entries=after["commit"] - before["commit"],
        log_bytes=after["log"]["bytes"] - before["log"]["bytes"],
        **await listening,
        leader_resident_mb=round(leader.resident_bytes / 1e6),
        elections=after["term"] - before["term"],
        cpu_s_by_layer={layer: round(s, 2) for layer, s in (await profile).items() if s > 0.05},
        **found,
    )

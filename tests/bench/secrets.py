"""Secrets on their way to a node: how long until it has all that its tasks refer to, and what one question costs."""

from __future__ import annotations

import argparse
import asyncio
import base64
import logging
import os
import time
from typing import Any

import attrs
import structlog

from swarmpy.agent.dependencies import Ask, DependencyKeeper
from swarmpy.cli.local_cluster import LocalNode
from swarmpy.model.dependencies import DependenciesReply
from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.states import TaskState
from tests.bench.agent_load import Load
from tests.bench.clusters import HostedNode, leader_of, running
from tests.bench.figures import distribution, emit

SECRETS = 1000
SERVICES = 50
SHAPES = {"own": 20, "shared": 250}
"""Secrets that each service refers to: every one of another service, or each of many of them."""
SIZES = (1024, 32 * 1024)
QUESTIONS = 400
"""Of the measurement of one question: fewer than a worker may ask at once."""
CREATIONS_AT_ONCE = 16


@attrs.define
class Watched:
    """Notes how long each question of an agent takes."""

    keeper: DependencyKeeper
    ask: Ask | None = None
    took_s: list[float] = attrs.Factory(list)
    began: float = 0.0
    ended: float = 0.0
    bytes_got: int = 0

    def attach(self) -> None:
        """To the next session."""
        begin = self.keeper.begin_session

        def begin_watched(ask: Ask) -> None:
            self.ask = ask
            begin(self._asked)

        self.keeper.begin_session = begin_watched  # type: ignore[method-assign]

    async def _asked(
        self, task: TaskId, secrets: tuple[SecretId, ...], configs: tuple[ConfigId, ...]
    ) -> DependenciesReply:
        assert self.ask is not None
        began = time.monotonic()
        reply = await self.ask(task, secrets, configs)
        self.ended = time.monotonic()
        self.began = self.began or began
        self.took_s.append(self.ended - began)
        self.bytes_got += sum(len(content.data) for content in reply.secrets.values())
        return reply


async def secrets(options: argparse.Namespace) -> None:
    """Each shape and size, at a cluster of its own."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    for shape in SHAPES:
        for size in SIZES:
            async with running(1) as cluster:
                await _one(await leader_of(cluster), shape, size)


async def _one(leader: LocalNode, shape: str, size: int) -> None:
    assert isinstance(leader, HostedNode)
    token = (await leader.client.get("/swarm"))["JoinTokens"]["Worker"]
    names = await _create_secrets(leader, size)
    await _create_services(leader, names, SHAPES[shape])
    load = Load(1, token, [leader.cluster_address])
    await load.join(at_once=1)
    [identity] = load._identities
    agent = load._agent(identity, "127.0.0.1")
    watched = Watched(agent._dependencies)
    watched.attach()
    cpu_s, began = leader.cpu_s, time.monotonic()
    task = asyncio.create_task(agent.run())
    async with asyncio.timeout(300):
        while sum(status.state is TaskState.RUNNING for status in agent.statuses.values()) < SERVICES:
            await asyncio.sleep(0.01)
    emit(
        bench="secrets",
        shape=shape,
        secrets=len(agent.held_dependencies),
        services=SERVICES,
        bytes_each=size,
        megabytes=round(watched.bytes_got / 1e6, 1),
        questions=len(watched.took_s),
        all_given_s=round(watched.ended - watched.began, 3),
        all_run_s=round(time.monotonic() - began, 3),
        **distribution(watched.took_s),
        leader_cpu_s=round(leader.cpu_s - cpu_s, 2),
    )
    await _cost_of_one(leader, watched, agent.statuses, min(SHAPES[shape], 20), size)
    task.cancel()
    await asyncio.wait([task])


async def _cost_of_one(
    leader: HostedNode, watched: Watched, statuses: dict[TaskId, Any], count: int, size: int
) -> None:
    """The same question again and again: what it costs the leader's process, over TLS."""
    questions = min(QUESTIONS, 40_000_000 // (count * size))
    task_id = next(iter(statuses))
    found = await leader.client.get(f"/tasks/{task_id}")
    references = found["Spec"]["ContainerSpec"]["Secrets"][:count]
    ids = tuple(SecretId(reference["SecretID"]) for reference in references)
    # The node has been given much already, and its share fills again.
    await asyncio.sleep(8)
    assert watched.ask is not None
    cpu_s, began = leader.cpu_s, time.monotonic()
    for _ in range(questions):
        await watched.ask(task_id, ids, ())
    emit(
        bench="secrets",
        what="one question",
        secrets=count,
        bytes_each=size,
        leader_cpu_ms=round((leader.cpu_s - cpu_s) / questions * 1e3, 3),
        round_ms=round((time.monotonic() - began) / questions * 1e3, 3),
    )


async def _create_secrets(leader: LocalNode, size: int) -> dict[str, str]:
    """Ids by names."""
    turns = asyncio.Semaphore(CREATIONS_AT_ONCE)

    async def one(number: int) -> tuple[str, str]:
        data = base64.b64encode(os.urandom(size)).decode()
        async with turns:
            made = await leader.client.post("/secrets/create", {"Name": f"s{number}", "Data": data})
        return f"s{number}", made["ID"]

    return dict(await asyncio.gather(*(one(number) for number in range(SECRETS))))


async def _create_services(leader: LocalNode, ids: dict[str, str], count: int) -> None:
    for number in range(SERVICES):
        chosen = [f"s{(number * SECRETS // SERVICES + each) % SECRETS}" for each in range(count)]
        container = {
            "Image": "x",
            "Secrets": [
                {
                    "SecretID": ids[name],
                    "SecretName": name,
                    "File": {"Name": name, "UID": "0", "GID": "0", "Mode": 0o444},
                }
                for name in chosen
            ],
        }
        task = {"ContainerSpec": container, "Placement": {"Constraints": ["node.role==worker"]}}
        await leader.client.post("/services/create", {"Name": f"web{number}", "TaskTemplate": task})

"""What secrets and their versions cost the managers: many secrets, and services with many of them each."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from swarmpy.cli.client import ApiClient
from swarmpy.cli.data_client import DataClient
from tests.bench.clusters import leader_of, running
from tests.bench.figures import distribution, emit

SECRETS = 1000
SERVICES = 50
OF_EACH = 20
"""Secrets of a service; one of them is everybody's."""
CLIENTS = 16
CONFIG = bytes(1000 * 1024)
REPEATS = 10
NAME = "s0"
"""The secret of all services."""


async def versions(options: argparse.Namespace) -> None:
    """Creations of secrets, configs and services, updates, and versions that one and that all services follow to."""
    async with running(options.managers) as cluster:
        leader = await leader_of(cluster)
        async with ApiClient(leader.data_dir / "swarmpy.sock") as client:
            await _measure(client)


async def _measure(client: ApiClient) -> None:
    secrets, configs = DataClient(client, "secret"), DataClient(client, "config")
    data = b"x" * 1024
    alone = SECRETS // 5
    ids = await _timed("create a secret", alone, lambda i: secrets.create(f"s{i}", data))
    ids += await _timed(
        "create a secret, 16 clients", SECRETS - alone, lambda i: secrets.create(f"s{alone + i}", data), CLIENTS
    )
    await _timed("create a config of 1000 KiB", REPEATS, lambda i: configs.create(f"c{i}", CONFIG))
    await _timed("create a service", SERVICES, lambda i: client.create_service(_service(f"plain{i}", {})))
    referred = [_referred(ids, number) for number in range(SERVICES)]
    await _timed(
        "create a service with 20 secrets",
        SERVICES,
        lambda i: client.create_service(_service(f"secretive{i}", {"Secrets": referred[i]})),
    )
    for word, what in (("plain", "update a service"), ("secretive", "update a service with 20 secrets")):
        current = [await client.service(f"{word}{number}") for number in range(SERVICES)]
        await _timed(what, SERVICES, lambda i, current=current: _update(client, current[i]))  # type: ignore[misc]
    await _timed("a version that one service uses", SERVICES, lambda i: secrets.new_version(f"s{i + 1}", b"new"))
    await _timed("a version that 50 services use", REPEATS, lambda i: secrets.new_version(NAME, b"new %d" % i))
    await _timed("list 1,000 secrets", REPEATS, lambda _: secrets.list())


def _referred(ids: list[str], number: int) -> list[dict[str, Any]]:
    first = 1 + number * (OF_EACH - 1)
    wanted = [0, *range(first, first + OF_EACH - 1)]
    return [{"SecretID": ids[i], "SecretName": f"s{i}", "File": {"Name": f"s{i}"}} for i in wanted]


def _service(name: str, container: dict[str, Any]) -> dict[str, Any]:
    """Without tasks: what these cost is another measurement."""
    template = {"ContainerSpec": {"Image": "none", **container}}
    return {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": 0}}}


async def _update(client: ApiClient, service: dict[str, Any]) -> None:
    spec = service["Spec"]
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["V=1"]
    await client.update_service(service["ID"], service["Version"]["Index"], spec)


async def _timed(what: str, count: int, do: Callable[[int], Awaitable[Any]], clients: int = 1) -> list[Any]:
    turns = asyncio.Semaphore(clients)
    seconds: list[float] = []

    async def one(number: int) -> Any:
        async with turns:
            began = time.perf_counter()
            result = await do(number)
            seconds.append(time.perf_counter() - began)
            return result

    began = time.perf_counter()
    results = await asyncio.gather(*(one(number) for number in range(count)))
    a_second = round(count / (time.perf_counter() - began), 1)
    emit(bench="versions", what=what, count=count, a_second=a_second, **distribution(seconds))
    return results

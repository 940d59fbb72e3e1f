"""``GET /services`` with thousands of services: of swarmpy, and of Docker Swarm in the same run where it can be had."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from pathlib import Path

from tests.bench.clusters import leader_of, running
from tests.bench.engines import running_engine
from tests.bench.figures import distribution, emit
from tests.bench.http_load import HttpClient, service

CLIENTS = 16
LISTS = 25


async def listing(options: argparse.Namespace) -> None:
    """Fill both with as many services, and list them."""
    async with running(options.managers) as cluster:
        ours = await _measure("swarmpy", (await leader_of(cluster)).data_dir / "swarmpy.sock", options.services)
    if shutil.which("dockerd") is None:
        print("bench: no dockerd on this machine: nothing to compare with", file=sys.stderr)
        return
    # It needs no network: a swarm of one manager, and services without tasks.
    async with running_engine("--bridge", "none", "--iptables=false", images=False) as engine:
        await engine.api.ask("POST", "swarm/init", {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"})
        theirs = await _measure("docker", engine.socket, options.services)
    emit(bench="list", docker_to_swarmpy=round(theirs / ours, 1))


async def _measure(name: str, socket: Path, count: int) -> float:
    began = time.perf_counter()
    await _fill(socket, count)
    emit(bench="list", server=name, services=count, created_per_s=round(count / (time.perf_counter() - began)))
    client = HttpClient(socket)
    await client.open()
    seconds = []
    for _ in range(LISTS):
        began = time.perf_counter()
        status, body = await client.request("GET", "/services")
        seconds.append(time.perf_counter() - began)
        assert (status, len(json.loads(body))) == (200, count)
    await client.close()
    emit(bench="list", server=name, services=count, first_ms=round(seconds[0] * 1e3, 1), **distribution(seconds[1:]))
    return statistics.median(seconds[1:])


async def _fill(socket: Path, count: int) -> None:
    numbers = iter(range(count))

    async def client() -> None:
        http = HttpClient(socket)
        await http.open()
        for number in numbers:
            status, answer = await http.request("POST", "/services/create", service(f"service-{number}"))
            assert status == 201, answer
        await http.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())

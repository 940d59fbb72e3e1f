"""``GET /services`` with thousands of services: of swarmpy, and of Docker Swarm in the same run where it can be had."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench.clusters import leader_of, running
from tests.bench.figures import distribution, emit
from tests.bench.http_load import HttpClient, service

CLIENTS = 16
LISTS = 25
START_TIMEOUT_S = 30.0


async def listing(options: argparse.Namespace) -> None:
    """Fill both with as many services, and list them."""
    async with running(options.managers) as cluster:
        ours = await _measure("swarmpy", (await leader_of(cluster)).data_dir / "swarmpy.sock", options.services)
    if shutil.which("dockerd") is None:
        print("bench: no dockerd on this machine: nothing to compare with", file=sys.stderr)
        return
    async with _docker_swarm() as socket:
        theirs = await _measure("docker", socket, options.services)
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


@contextlib.asynccontextmanager
async def _docker_swarm() -> AsyncIterator[Path]:
    """A Docker Engine of its own, in a network of its own, as the only manager of a swarm. Needs root."""
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-bench-docker-"))
    socket = directory / "docker.sock"
    options = ["--data-root", "data", "--exec-root", "exec", "--pidfile", "pid", "--host", f"unix://{socket}"]
    options += ["--bridge", "none", "--iptables=false", "--shutdown-timeout", "2"]
    # A second engine with no bridge in the same network would remove the bridge of the first.
    script = 'ip link set lo up && exec dockerd "$@"'
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *("unshare", "--net", "sh", "-c", script, "sh"),
            *(str(directory / o) if o in ("data", "exec", "pid") else o for o in options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        client = await _connect(socket, process, directory / "log")
        body = {"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"}
        status, answer = await client.request("POST", "/swarm/init", json.dumps(body).encode())
        assert status == 200, answer
        await client.close()
        yield socket
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _connect(socket: Path, process: asyncio.subprocess.Process, log: Path) -> HttpClient:
    """A client of the engine as soon as it answers."""
    client = HttpClient(socket)
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.returncode is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            await client.open()
            return client
        await asyncio.sleep(0.1)
    raise SystemExit(f"dockerd did not come up: {(await asyncio.to_thread(log.read_text))[-500:]}")

"""HTTP clients that cost little: what is measured is the daemon, on a machine that it shares with them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

REQUEST_TIMEOUT_S = 30.0


class HttpClient:
    """One kept connection to a unix socket, one request at a time."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_unix_connection(self._socket, limit=1 << 26)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        headers = f"Host: d\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        head = f"{method} {path} HTTP/1.1\r\n{headers}"
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            self._writer.write(head.encode() + body)
            answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = int(answer.split(" ", 2)[1])
            if "transfer-encoding: chunked" in answer:
                return status, await self._chunks()
            length = int(answer.split("content-length:", 1)[1].split("\r\n", 1)[0])
            return status, await self._reader.readexactly(length)

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self._reader.readline(), 16):
            parts.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(parts)


def service(name: str) -> bytes:
    """A service without tasks, as a client creates it."""
    spec: dict[str, Any] = {
        "Name": name,
        "Mode": {"Replicated": {"Replicas": 0}},
        "TaskTemplate": {"ContainerSpec": {"Image": "none:latest", "Args": ["sleep", "100000"]}},
    }
    return json.dumps(spec).encode()


async def creations(socket: Path, *, clients: int, seconds: float, prefix: str) -> tuple[list[float], float]:
    """Create services with so many clients; the latency of each, and how long all took, in seconds."""
    latencies: list[float] = []

    async def client(number: int) -> None:
        http = HttpClient(socket)
        await http.open()
        count = 0
        while (began := time.perf_counter()) < stop_at:
            count += 1
            status, answer = await http.request("POST", "/services/create", service(f"{prefix}-{number}-{count}"))
            if status != 201:
                raise SystemExit(f"POST /services/create: {status} {answer.decode(errors='replace')}")
            latencies.append(time.perf_counter() - began)
        await http.close()

    began = time.perf_counter()
    stop_at = began + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return latencies, time.perf_counter() - began

"""A registry on this machine that asks for credentials: Debian's ``docker-registry``, with one user."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

USER, PASSWORD = "puller", "hunter2-planted"
# Of the password, by bcrypt, which is all that the registry takes.
HTPASSWD = "puller:$2y$05$AxyEQcDBkZaTIZXjvcbDOupT60vwEbggWwJSkuaC4mg5HxUT8zDTG\n"
CONFIG = {
    "version": 0.1,
    "log": {"level": "warn"},
    "auth": {"htpasswd": {"realm": "test"}},
}


def auth(password: str = PASSWORD) -> bytes:
    """Credentials, as a secret has them."""
    return json.dumps({"username": USER, "password": password}).encode()


def header(credentials: bytes) -> dict[str, str]:
    """The same for the engine's API."""
    return {"X-Registry-Auth": base64.urlsafe_b64encode(credentials).decode()}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def private_registry(directory: Path) -> AsyncIterator[str]:
    """Its address. Skips where the program is not installed."""
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("SWARMPY_REQUIRE_ENGINE") == "1":
            pytest.fail("SWARMPY_REQUIRE_ENGINE=1, but docker-registry is not installed")
        pytest.skip("docker-registry is not installed")
    address = f"127.0.0.1:{_free_port()}"
    (directory / "htpasswd").write_text(HTPASSWD)
    config = {
        **CONFIG,
        "http": {"addr": address},
        "storage": {"filesystem": {"rootdirectory": str(directory / "images")}},
        "auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}},
    }
    (directory / "registry.yml").write_text(json.dumps(config))
    with (directory / "registry.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "serve", str(directory / "registry.yml"), stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"http://{address}/v2/") as response:
                        assert response.status == 401
                        break
                await asyncio.sleep(0.05)
        yield address
    finally:
        process.terminate()
        await process.wait()


async def push(engine: aiohttp.ClientSession, source: str, image: str) -> None:
    """Have the engine put an image into the registry under another name, and forget it."""
    name, _, tag = image.rpartition(":")
    async with engine.post(f"images/{source}/tag", params={"repo": name, "tag": tag}) as response:
        assert response.status == 201
    async with engine.post(f"images/{name}/push", params={"tag": tag}, headers=header(auth())) as response:
        text = await response.text()
        assert response.status == 200
        assert "error" not in text, text
    await forget(engine, image)


async def forget(engine: aiohttp.ClientSession, image: str) -> None:
    """Make the engine's machine one that has not pulled it yet."""
    async with engine.delete(f"images/{image}", params={"force": "true"}):
        pass

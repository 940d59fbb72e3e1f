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
from typing import Any

import aiohttp
import pytest

USER, PASSWORD = "puller", "hunter2-planted"
# Of the password, by bcrypt, which is all that the registry takes.
HTPASSWD = "puller:$2y$05$AxyEQcDBkZaTIZXjvcbDOupT60vwEbggWwJSkuaC4mg5HxUT8zDTG\n"
HOST = "127.0.0.3"
"""Not 127.0.0.1, from which all connections within this machine come: one may take its port while it is away."""
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


def login_at(registry: str) -> dict[str, Any]:
    """What the docker command has in its configuration after a login."""
    return {"auths": {registry: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


class Registry:
    """One that may be killed, and started again at its address."""

    def __init__(self, program: str, directory: Path) -> None:
        self.address = f"{HOST}:{_free_port()}"
        self._program = program
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        (directory / "htpasswd").write_text(HTPASSWD)
        config = {
            **CONFIG,
            "http": {"addr": self.address},
            "storage": {"filesystem": {"rootdirectory": str(directory / "images")}},
            "auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}},
        }
        (directory / "registry.yml").write_text(json.dumps(config))

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._directory / "registry.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._program, "serve", str(self._directory / "registry.yml"), stdout=log, stderr=log
            )
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"http://{self.address}/v2/") as response:
                        assert response.status == 401
                        return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def running_registry(directory: Path) -> AsyncIterator[Registry]:
    """One that runs. Skips where the program is not installed."""
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("SWARMPY_REQUIRE_ENGINE") == "1":
            pytest.fail("SWARMPY_REQUIRE_ENGINE=1, but docker-registry is not installed")
        pytest.skip("docker-registry is not installed")
    registry = Registry(program, directory)
    try:
        await registry.start()
        yield registry
    finally:
        await registry.kill()


@contextlib.asynccontextmanager
async def private_registry(directory: Path) -> AsyncIterator[str]:
    """The address of one that runs."""
    async with running_registry(directory) as registry:
        yield registry.address


async def push(engine: aiohttp.ClientSession, source: str, image: str) -> None:
    """Have the engine put an image into the registry under another name, and forget it."""
    name, _, tag = image.rpartition(":")
    async with engine.post(f"images/{source}/tag", params={"repo": name, "tag": tag}) as response:
        assert response.status == 201
    await push_own(engine, image)


async def push_own(engine: aiohttp.ClientSession, image: str) -> None:
    """Have the engine put an image into the registry that it is named after, and forget it."""
    name, _, tag = image.rpartition(":")
    async with engine.post(f"images/{name}/push", params={"tag": tag}, headers=header(auth())) as response:
        text = await response.text()
        assert response.status == 200
        assert "error" not in text, text
    await forget(engine, image)


async def forget(engine: aiohttp.ClientSession, image: str) -> None:
    """Make the engine's machine one that has not pulled it yet."""
    async with engine.delete(f"images/{image}", params={"force": "true"}):
        pass


async def forget_all(engine: aiohttp.ClientSession, registry: str) -> None:
    """The same for all that has come from a registry."""
    async with engine.get("images/json", params={"all": "false"}) as response:
        listed = await response.json()
    for image in listed:
        names = [*(image["RepoTags"] or ()), *(image["RepoDigests"] or ())]
        for name in names:
            if name.startswith(f"{registry}/"):
                await forget(engine, name)

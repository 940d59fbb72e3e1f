"""The docker command line, as it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli.client import ApiClient

DOCKER = shutil.which("docker")
# Where everything has to run, a missing client is a failure.
IS_MISSING = DOCKER is None and os.environ.get("SWARMPY_REQUIRE_ENGINE") != "1"
is_needed = pytest.mark.skipif(IS_MISSING, reason="no docker command line on this machine")


class Docker:
    """Runs docker commands against a server."""

    def __init__(self, home: Path, socket: Path) -> None:
        self._socket = socket
        self._env = {
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_CONFIG": str(home),
            "HOME": str(home),
            "PATH": "/usr/bin",
        }

    async def __call__(self, *args: str, fails: bool = False, stdin: bytes | None = None) -> str:
        """The output of one command; the error output of one that ``fails``."""
        assert DOCKER is not None
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            DOCKER, *args, stdin=pipe if stdin is not None else None, stdout=pipe, stderr=pipe, env=self._env
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin)
        assert (process.returncode != 0) is fails, (args, out, err)
        return (err if fails else out).decode().strip()

    async def api(self, method: str, path: str, body: object) -> Any:
        """What the docker command has no word for: the answer to a request of our own."""
        async with ApiClient(self._socket) as client:
            return await client.request(method, path, body=body)

"""An engine of a test's own, for what only an engine's configuration can say: labels, generic resources."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from images import ensure_images

from swarmpy.errors import RuntimeUnavailable
from swarmpy.runtime.docker_engine import probe_engine

START_TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def own_engine(*options: str) -> AsyncIterator[str]:
    """A ``dockerd`` in a network that leads nowhere, with the images of the tests; the path of its socket."""
    # Sockets below it must not be longer than the kernel takes, as pytest's directories are.
    directory = Path(tempfile.mkdtemp(prefix="engine-", dir="/tmp"))
    socket = directory / "docker.sock"
    with (directory / "log").open("wb") as log:
        # In a network of its own: an engine without a bridge takes away the one that it finds.
        process = await asyncio.create_subprocess_exec(
            "unshare", "--net", "sh", "-c", 'ip link set lo up && exec dockerd "$@"', "sh",
            "--host", f"unix://{socket}", "--data-root", directory / "data", "--exec-root", directory / "exec",
            "--pidfile", directory / "pid", "--bridge=none", "--iptables=false", "--shutdown-timeout", "2", *options,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await _answers(socket):
                assert process.returncode is None, (directory / "log").read_text()[-1000:]
                await asyncio.sleep(0.1)
        await ensure_images(str(socket))
        yield str(socket)
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(START_TIMEOUT_S):
                await process.wait()
        shutil.rmtree(directory)


async def _answers(socket: Path) -> bool:
    try:
        await probe_engine(f"unix://{socket}", 1)
    except RuntimeUnavailable:
        return False
    return True

"""What earlier runs of the process runtime may have left on the machine, and how to get rid of it.

Every process of a runtime carries the runtime's directory in its environment. That is enough to find those that
survived both their agent and their warden, and nobody else's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import structlog

from swarmpy.runtime.warden import environment_has, kill_pid, process_table

log = structlog.get_logger(__name__)

RUNTIME_MARK = "SWARMPY_RUNTIME"
"""Environment variable that marks every process of a runtime with its directory."""

_GIVE_UP_SECONDS = 5.0
_PAUSE_SECONDS = 0.01


def marked_processes(directory: Path) -> list[int]:
    """The processes of the runtime in ``directory`` that are alive, without this one."""
    mark = f"{RUNTIME_MARK}={directory}"
    alive = (info.pid for info in process_table().values() if info.state not in "ZX")
    return [pid for pid in alive if pid != os.getpid() and environment_has(pid, mark)]


async def kill_marked(directory: Path) -> None:
    """Kill them, again and again until there is none: one that forks meanwhile is found the next time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GIVE_UP_SECONDS
    while loop.time() < deadline:
        left = marked_processes(directory)
        if not left:
            return
        for pid in left:
            kill_pid(pid)
        await asyncio.sleep(_PAUSE_SECONDS)
    log.error("processes_survive_kill", directory=str(directory))


def remove_subdirectories(directory: Path) -> None:
    """Delete the task directories of an earlier run."""
    for entry in sorted(directory.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)

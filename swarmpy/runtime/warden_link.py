"""The agent's end of the socket to its warden: starts it, gives it orders, hears of exits, notices its death.

No child watcher of asyncio is involved, so that any number of nodes can live in one process (and in any thread).
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import structlog

from swarmpy.errors import RuntimeUnavailable
from swarmpy.runtime import warden
from swarmpy.security.private_files import append_privately
from swarmpy.wire.descriptors import restore_limit

log = structlog.get_logger(__name__)

START_TIMEOUT = 30.0
"""Seconds for a new warden to say that it is ready."""
CALL_TIMEOUT = 20.0
"""Seconds for a spawn to be answered."""
_GONE_TIMEOUT = 15.0
_GONE_POLL = 0.01
_LINE_LIMIT = 1 << 20


class WardenLost(RuntimeUnavailable):
    """The warden has died, and its processes with it."""


class SpawnRefused(Exception):
    """The command could not be executed. Never leaves the process runtime."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        self.reason = reason


@attrs.define(eq=False)
class _Unit:
    spawned: asyncio.Future[int]
    exited: asyncio.Future[int]


class WardenLink:
    """One running warden. Once it is lost it stays lost: make a new link."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._units: dict[str, _Unit] = {}
        self._ready: asyncio.Future[None] | None = None
        self._lost = False

    @property
    def is_lost(self) -> bool:
        """True when the warden is gone."""
        return self._lost

    @property
    def pid(self) -> int:
        """The warden's process id; 0 before it is started."""
        return self._process.pid if self._process else 0

    async def open(self, log_path: Path) -> None:
        """Start the warden; what it complains about goes to ``log_path``. Raises RuntimeUnavailable."""
        ours, theirs = socket.socketpair()
        try:
            with theirs, append_privately(log_path) as log_file:
                # Isolated and without site packages: it starts in a few hundredths of a second and stays small.
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own script, no waiting  # nosec B603
                    [sys.executable, "-I", "-S", str(warden.__file__), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            restore_limit(self._process.pid)
        except OSError as error:
            ours.close()
            raise RuntimeUnavailable(f"the warden process cannot be started: {error}") from error
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_LIMIT)
        self._ready = asyncio.get_running_loop().create_future()
        self._reader_task = asyncio.create_task(self._read(reader), name="warden-link")
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._ready
        except (TimeoutError, WardenLost) as error:
            await self.close()
            raise RuntimeUnavailable(f"the warden process did not start: see {log_path}") from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Hang up: the warden kills all that it holds, and goes. Idempotent."""
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
        await self._hang_up()

    async def spawn(
        self, unit: str, argv: Sequence[str], env: Mapping[str, str], cwd: Path, log_path: Path, log_limit: int = 0
    ) -> int:
        """Execute a command; its process id. Raises SpawnRefused, WardenLost."""
        loop = asyncio.get_running_loop()
        entry = _Unit(spawned=loop.create_future(), exited=loop.create_future())
        if self._lost:
            raise WardenLost("the warden process has died")
        assert unit not in self._units, f"unit {unit} runs already"
        self._units[unit] = entry
        request = {"op": "spawn", "unit": unit, "argv": list(argv), "env": dict(env), "cwd": str(cwd)}
        self._send({**request, "log": str(log_path), "log_limit": log_limit})
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                return await asyncio.shield(entry.spawned)
        except TimeoutError:
            self._give_up(unit)
            raise RuntimeUnavailable(f"the warden process did not answer within {CALL_TIMEOUT:.0f} s") from None
        except asyncio.CancelledError:
            self._give_up(unit)
            raise

    async def exited(self, unit: str) -> int:
        """Return the exit code when the unit has ended and none of its processes is left.

        Raises WardenLost, also for a unit that it does not know (any more).
        """
        entry = self._units.get(unit)
        if entry is None:
            raise WardenLost(f"the warden process holds no {unit}")
        return await asyncio.shield(entry.exited)

    def signal(self, unit: str, number: int) -> None:
        """Send a signal to every process of the unit; one that has ended is fine."""
        if unit in self._units:
            self._send({"op": "signal", "unit": unit, "signal": int(number)})

    def kill(self, unit: str) -> None:
        """Make every process of the unit end; :meth:`exited` tells when."""
        if unit in self._units:
            self._send({"op": "kill", "unit": unit})

    def forget(self, unit: str) -> None:
        """Drop what is remembered of a unit that has ended."""
        self._units.pop(unit, None)

    # -- inside --

    def _give_up(self, unit: str) -> None:
        self.kill(unit)
        self.forget(unit)

    def _send(self, request: dict[str, Any]) -> None:
        if self._writer is not None and not self._lost:
            self._writer.write(json.dumps(request).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._hear(json.loads(line))
        except (OSError, ValueError) as error:
            log.warning("warden_link_broken", error=str(error))
        self._lose()
        await self._hang_up()

    def _hear(self, message: dict[str, Any]) -> None:
        event = message["event"]
        if event == "ready":
            assert self._ready is not None
            if not self._ready.done():
                self._ready.set_result(None)
            return
        entry = self._units.get(message["unit"])
        if entry is None:
            return
        if event == "spawned":
            entry.spawned.set_result(message["pid"])
        elif event == "refused":
            self.forget(message["unit"])
            entry.spawned.set_exception(SpawnRefused(message["errno"], message["error"]))
            # Also for a caller that was cancelled meanwhile: nobody else would ever look at it.
            entry.spawned.exception()
            entry.exited.cancel()
        elif event == "exited":
            entry.exited.set_result(message["code"])

    def _lose(self) -> None:
        """Tell everybody who waits that the warden is gone."""
        self._lost = True
        waiting = [future for unit in self._units.values() for future in (unit.spawned, unit.exited)]
        for future in [*waiting, self._ready]:
            if future is not None and not future.done():
                future.set_exception(WardenLost("the warden process has died"))
                future.exception()  # retrieved here: it is no mistake when nobody waits

    async def _hang_up(self) -> None:
        self._lose()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError as error:
                log.debug("warden_link_close", error=str(error))
        await self._reap()

    async def _reap(self) -> None:
        """Wait for the warden's end. Polled: there is no event that works in every loop and thread."""
        process = self._process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _GONE_TIMEOUT
        while process.poll() is None:
            if loop.time() > deadline:
                log.error("warden_does_not_end", pid=process.pid)
                process.kill()
                deadline = loop.time() + _GONE_TIMEOUT
            await asyncio.sleep(_GONE_POLL)

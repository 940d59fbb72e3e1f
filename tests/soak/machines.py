"""One node as a real daemon: started, ended, stopped, watched."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
from clocks import Clock
from disks import SmallDisk
from network import Network

import swarmpy
from swarmpy.cli.client import ApiClient
from swarmpy.errors import SwarmpyError

START_TIMEOUT_S = 40.0
EXIT_TIMEOUT_S = 40.0
POLL_S = 0.1
"""A starting daemon's socket is tried so often; it has no other way to say that it is there."""
DISK_FAILED = 74

Complain = Callable[[str], None]


@attrs.define(kw_only=True, eq=False)
class Machine:
    """One daemon. ``changed`` is called when it is up, down, stopped or goes on."""

    name: str
    data_dir: Path
    log_file: Path
    is_manager: bool
    network: Network
    complain: Complain
    changed: Callable[[], None]
    clock: Clock
    disk: SmallDisk | None = None
    process: asyncio.subprocess.Process | None = None
    started_at: float = 0.0
    is_up: bool = False
    """Its API has answered since it was started."""
    is_full: bool = False
    was_full: bool = False
    """Its disk was filled at least once."""
    may_end: set[int] = attrs.Factory(set)
    """Exit codes that the process that runs may end with, as somebody sees to it. Each process has its own set: the
    next one can be there before it is heard how this one ended."""
    _answered: bool = False
    """The process that runs now has come so far."""
    _paused: bool = False
    _undisturbed_since: float = 0.0
    _lock: asyncio.Lock = attrs.Factory(asyncio.Lock)
    _watchers: set[asyncio.Task[None]] = attrs.Factory(set)

    @property
    def socket(self) -> Path:
        """Its API."""
        return self.data_dir / "swarmpy.sock"

    @property
    def client(self) -> ApiClient:
        """A client of its API."""
        return ApiClient(self.socket, timeout=15)

    @property
    def is_running(self) -> bool:
        """True while its process lives, stopped or not."""
        return self.process is not None and self.process.returncode is None

    @property
    def is_well(self) -> bool:
        """True when it can do its part, as far as it is concerned."""
        return self.is_running and self.is_up and not self._paused and not self.is_full

    @property
    def is_paused(self) -> bool:
        """True while it is stopped."""
        return self._paused

    def undisturbed_since(self, moment: float) -> bool:
        """True when the daemon's process lives and was not stopped since then."""
        return self.is_running and self._undisturbed_since <= moment

    # -- its process --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the daemon unless it runs, and wait until its API answers or it has ended."""
        async with self._lock:
            if self.is_running:
                return
            self.may_end = {DISK_FAILED} if self.is_full else set()
            self.is_up = self._paused = self._answered = False
            self.data_dir.mkdir(mode=0o700, exist_ok=True)
            with self.log_file.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    *self.network.command(self.name, self._command()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment(),
                    start_new_session=True,
                )
            self.started_at = self._undisturbed_since = time.monotonic()
            self.network.started(self.name, self.process.pid)
            watcher = asyncio.create_task(self._watch(self.process, self.may_end))
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)
            await self._wait_api(self.process)

    def _command(self) -> list[str]:
        options = ["--runtime", "process", "--hostname", self.name, "--exit-with-parent"]
        options += ["--status-addr", self.network.addresses(self.name).status]
        return [sys.executable, *self.clock.command(), "--data-dir", str(self.data_dir), "node", "run", *options]

    def _environment(self) -> dict[str, str]:
        root = str(Path(swarmpy.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        return {**os.environ, "PYTHONPATH": path}

    async def _wait_api(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while process.returncode is None:
            with contextlib.suppress(SwarmpyError):
                await self.client.get("/_ping", timeout=5)
                self.is_up = self._answered = True
                self.changed()
                return
            if self._paused:
                deadline = time.monotonic() + START_TIMEOUT_S
            elif time.monotonic() > deadline:
                self.complain(f"{self.name} did not answer within {START_TIMEOUT_S:g} s of its start")
                return
            await asyncio.sleep(POLL_S)

    async def _watch(self, process: asyncio.subprocess.Process, may_end: set[int]) -> None:
        code = await process.wait()
        if process is self.process:
            self.is_up = self._paused = False
            self.changed()
        if code not in may_end:
            self.complain(f"{self.name} ended with exit code {code}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line of the daemon's log."""
        lines = self.log_file.read_text(errors="replace").strip().splitlines() if self.log_file.exists() else []
        return lines[-1][:500] if lines else "it said nothing"

    async def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.is_running:
            self.may_end.add(-signal.SIGKILL)
            self._send(self.process, signal.SIGKILL)
            await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM; the daemon must end in good order."""
        process = self.process
        if process is None or not self.is_running:
            return
        self.resume(process)
        self.may_end.add(0)
        if not self._answered:
            self.may_end.add(-signal.SIGTERM)  # an interpreter that has only just begun knows of no handlers yet
        self.is_up = False
        self.changed()
        self._send(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            self.complain(f"{self.name} did not end within {EXIT_TIMEOUT_S:g} s of SIGTERM")
            await self.kill()

    def pause(self) -> asyncio.subprocess.Process | None:
        """SIGSTOP; returns what to resume."""
        if self.process is None or not self.is_running:
            return None
        self._paused, self._undisturbed_since = True, math.inf
        self._send(self.process, signal.SIGSTOP)
        self.changed()
        return self.process

    def resume(self, process: asyncio.subprocess.Process | None = None) -> None:
        """SIGCONT, unless ``process`` is not the daemon's any more."""
        if self._paused and self.process is not None and process in (None, self.process):
            self._send(self.process, signal.SIGCONT)
            self._paused, self._undisturbed_since = False, time.monotonic()
            self.changed()

    def _send(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        # Not process.send_signal(): that one polls first, and takes the exit code away from asyncio's watcher (255).
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    # -- its disk -----------------------------------------------------------------------------------------------------

    def fill_disk(self) -> None:
        """From now on it may end of that."""
        assert self.disk is not None
        self.is_full = self.was_full = True
        self.may_end.add(DISK_FAILED)
        self.changed()
        self.disk.fill()

    def empty_disk(self) -> None:
        """Make room. A daemon that has met the full disk and not ended yet may still end of it."""
        if self.disk is not None and self.is_full:
            self.disk.empty()
            self.is_full = False
            self.changed()

    def lose_log(self) -> None:
        """Remove the Raft log, as docs/disk.md tells operators to when it is damaged."""
        shutil.rmtree(self.data_dir / "raft", ignore_errors=True)
        (self.data_dir / "raft.mark").unlink(missing_ok=True)

    def resident_kib(self) -> int:
        """Memory of its process in KiB; 0 when it has none."""
        if self.process is None or not self.is_running:
            return 0
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
        return 0

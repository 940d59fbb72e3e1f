"""Machines of a pretended network: loopback addresses with a data directory each, worked on by command line only."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from swarmpy.cli.local_cluster import reserve_prefix

MAX_HOSTS = 9
DOCKER = "/usr/local/bin/docker"
Finished = subprocess.CompletedProcess[str]

SLEEP = """
services:
  web:
    image: none
    command: sleep 100000
    stop_grace_period: 1s
    deploy:
      replicas: {replicas}
      update_config: {{monitor: 500ms}}
    environment: {{VERSION: "{version}"}}
"""


def until(condition: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    """Wait for a condition that has no event for an outsider; returns what it gave. An AssertionError is 'not yet'."""
    deadline = time.monotonic() + timeout
    last: Any = None
    while True:
        try:
            if found := condition():
                return found
        except AssertionError as error:
            last = error
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what} ({last})"
        time.sleep(0.1)


def swarmpy(*arguments: str | Path, timeout: float = 60, env: dict[str, str] | None = None) -> Finished:
    """The command line, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "swarmpy", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(env or {})},
    )


def last_line(done: Finished) -> str:
    """The last line of standard error. There never is a traceback."""
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


def refused(done: Finished, code: int, *words: str) -> str:
    """Checks that a command failed as it should, with one line of its own that has all ``words``; returns the line."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("swarmpy: ")]
    assert (done.returncode, len(lines)) == (code, 1), f"exit code {done.returncode}: {done.stderr or done.stdout}"
    assert last_line(done) == lines[0]
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"
    return lines[0]


def processes_with(text: str) -> list[int]:
    """The processes that have ``text`` in their command line, or work in a directory with it in its path."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            if text in words or text in str((entry / "cwd").readlink()):
                found.append(int(entry.name))
    return found


@attrs.frozen(kw_only=True)
class Host:
    """One machine."""

    name: str
    address: str
    data_dir: Path

    @property
    def cluster_address(self) -> str:
        """Where it listens as a manager."""
        return f"{self.address}:2377"

    @property
    def own(self) -> list[str]:
        """The options of a daemon on this machine."""
        return ["--runtime", "process", "--hostname", self.name, "--status-addr", f"{self.address}:2378"]

    @property
    def log(self) -> str:
        """What its daemon said in the background."""
        return (self.data_dir / "daemon.log").read_text()

    def swarmpy(self, *arguments: str | Path, timeout: float = 60) -> Finished:
        """A command on this machine."""
        return swarmpy("--data-dir", self.data_dir, *arguments, timeout=timeout)

    def does(self, *arguments: str | Path, timeout: float = 60) -> str:
        """What a command that works says."""
        done = self.swarmpy(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}"
        return done.stdout

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        """The rows of a listing."""
        return [json.loads(line) for line in self.does(*arguments, "--format", "json").splitlines()]

    def status(self) -> dict[str, Any]:
        """What ``status`` says."""
        answer: dict[str, Any] = json.loads(self.does("status", "--format", "json"))
        return answer

    def docker(self, *arguments: str, timeout: float = 60) -> str:
        """What the docker CLI says that speaks to this machine's daemon."""
        command = [DOCKER, "-H", f"unix://{self.data_dir}/swarmpy.sock", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}"
        return done.stdout

    def get(self, path: str, *, method: str = "GET", host: str | None = None, port: int = 2378) -> tuple[int, Any]:
        """Status and JSON of a page of this machine's status server."""
        request = urllib.request.Request(f"http://{self.address}:{port}{path}", method=method)  # noqa: S310
        if host is not None:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    # -- clusters -----------------------------------------------------------------------------------------------------

    def init(self) -> str:
        """Found a cluster with a daemon in the background."""
        return self.does("swarm", "init", "--detach", "--listen-addr", self.cluster_address, *self.own)

    def token(self, role: str) -> str:
        """The cluster's join token, of a manager."""
        return self.does("swarm", "join-token", "-q", role).strip()

    def join(self, manager: Host, role: str = "worker") -> str:
        """Join the manager's cluster with a daemon in the background."""
        arguments = ["--token", manager.token(role), "--listen-addr", self.cluster_address, *self.own]
        return self.does("node", "join", "--detach", *arguments, manager.cluster_address)

    def resume(self) -> str:
        """Start the daemon in the background."""
        return self.does("node", "run", "--detach", *self.own)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        marker = f"--data-dir\0{self.data_dir}\0--log-level"
        (found,) = [
            pid for pid in processes_with(marker) if b"node\0run" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return found

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon."""
        pid = self.pid
        os.kill(pid, number)
        until(lambda: not Path(f"/proc/{pid}").exists(), f"{self.name}'s daemon ends")

    def tasks(self, service: str, state: str = "Running") -> list[dict[str, str]]:
        """The tasks of a service that are meant to run and are in that state."""
        rows = self.rows("service", "ps", service)
        return [
            row for row in rows if row["DesiredState"] == "Running" and re.match(rf"{state}\b", row["CurrentState"])
        ]

    def nodes(self) -> dict[str, dict[str, str]]:
        """The nodes by name."""
        return {row["Hostname"]: row for row in self.rows("node", "ls")}


class Hosts:
    """All machines of a test. :meth:`close` ends what runs on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._prefix, self._reservation = reserve_prefix(MAX_HOSTS)
        self._count = 0

    def new(self) -> Host:
        """Another machine, with no daemon."""
        self._count += 1
        name = f"host-{self._count}"
        assert self._count <= MAX_HOSTS
        return Host(name=name, address=f"{self._prefix}.{self._count}", data_dir=self.directory / name)

    def cluster(self, managers: int, workers: int) -> list[Host]:
        """A cluster; managers first."""
        first = self.new()
        first.init()
        others = [self.new() for _ in range(managers + workers - 1)]
        for number, host in enumerate(others, start=1):
            host.join(first, "manager" if number < managers else "worker")
        until(lambda: all(row["Status"] == "Ready" for row in first.rows("node", "ls")), "all nodes are ready")
        return [first, *others]

    def close(self) -> None:
        """kill -9 of every daemon; their tasks end with them."""
        try:
            for pid in processes_with(f"{self.directory}/"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not processes_with(f"{self.directory}/"), "everything has ended")
        finally:
            self._reservation.close()

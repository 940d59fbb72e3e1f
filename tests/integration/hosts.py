"""Machines of a pretended network: loopback addresses with a data directory each, worked on by command line only."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from clocks import Clock

from swarmpy.cli.local_cluster import reserve_prefix
from swarmpy.cli.main import main
from swarmpy.security.sealing import KeyRing
from swarmpy.security.vault import Vault

MAX_HOSTS = 9
DOCKER = shutil.which("docker") or "docker"
# Where everything has to run, a missing client is a failure.
_is_missing = not os.access(DOCKER, os.X_OK) and os.environ.get("SWARMPY_REQUIRE_ENGINE") != "1"
needs_docker_cli = pytest.mark.skipif(_is_missing, reason="needs the docker CLI")
Finished = subprocess.CompletedProcess[str]
PATIENT = ("--dispatcher-heartbeat", "10s")
"""Options of a founder in whose cluster a node that stands still is not taken for lost for half a minute."""

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


def in_process(*arguments: str | Path) -> Finished:
    """The command line without a process of its own, which takes most of a short command's time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, arguments)))
    return Finished(arguments, code, out.getvalue(), err.getvalue())


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


class _UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("swarmpy", timeout=30)
        self._path = path

    def connect(self) -> None:
        """To the socket, whatever the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@attrs.frozen(kw_only=True)
class Host:
    """One machine."""

    name: str
    address: str
    data_dir: Path
    code: Path | None = None
    """A directory with the swarmpy that its daemon runs; None: the one that is tested."""
    clock: Clock | None = None
    """Its wall clock, where that is not the machine's; OpenSSL goes by the machine's nevertheless."""
    _started: list[subprocess.Popen[bytes]] = attrs.field(factory=list, init=False)

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
        """A command on this machine; those that become or start a daemon have a process of their own."""
        if (
            "run" in arguments
            or "--detach" in arguments
            or ({"init", "join", "restore"} & set(arguments) and not self.is_up)
        ):
            return swarmpy("--data-dir", self.data_dir, *arguments, timeout=timeout)
        return in_process("--data-dir", self.data_dir, *arguments)

    def does(self, *arguments: str | Path, timeout: float = 60) -> str:
        """What a command that works says."""
        done = self.swarmpy(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}"
        return done.stdout

    def rows(self, *arguments: str) -> list[dict[str, str]]:
        """The rows of a listing."""
        return [json.loads(line) for line in self.does(*arguments, "--format", "json").splitlines()]

    def api(self, path: str, **filters: str) -> Any:
        """What the daemon's API answers to a GET; an error is an AssertionError."""
        query = f"?filters={quote(json.dumps({name: [value] for name, value in filters.items()}))}" if filters else ""
        connection = _UnixConnection(self.data_dir / "swarmpy.sock")
        try:
            connection.request("GET", path + query)
            response = connection.getresponse()
            body = json.loads(response.read())
        except OSError as error:
            raise AssertionError(f"{self.name}: GET {path}: {error}") from None
        finally:
            connection.close()
        assert response.status == 200, f"{self.name}: GET {path}: {body}"
        return body

    def status(self) -> dict[str, Any]:
        """What the daemon says of the cluster."""
        answer: dict[str, Any] = self.api("/status")
        return answer

    @property
    def is_manager(self) -> bool:
        """True when it answers as a manager."""
        self.api("/services")
        return True

    @property
    def ring(self) -> KeyRing | None:
        """What it seals with, where no operator's key is needed to have it; None where nothing is sealed."""
        vault = Vault(self.data_dir)
        if vault.exists:
            vault.open(tidy=False)
        return vault.ring

    def docker(self, *arguments: str, timeout: float = 60) -> str:
        """What the docker CLI says that speaks to this machine's daemon."""
        command = [DOCKER, "-H", f"unix://{self.data_dir}/swarmpy.sock", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}"
        return done.stdout

    def get(self, path: str, *, method: str = "GET", host: str | None = None, port: int = 2378) -> tuple[int, Any]:
        """Status and JSON of a page of this machine's status server."""
        request = urllib.request.Request(f"http://{self.address}:{port}{path}", method=method)
        if host is not None:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    # -- clusters -----------------------------------------------------------------------------------------------------

    def init(self, *options: str) -> str:
        """Found a cluster; returns what the daemon said until then."""
        self._start("swarm", "init", "--listen-addr", self.cluster_address, *self.own, *options)
        until(lambda: self.log.count("swarmpy node join --token") == 2, f"{self.name} founds a cluster")
        return self.log

    def token(self, role: str) -> str:
        """The cluster's join token, of a manager."""
        return self.does("swarm", "join-token", "-q", role).strip()

    def join(self, manager: Host, role: str = "worker") -> None:
        """Join the manager's cluster, with the daemon that runs or a new one."""
        join = ["node", "join", "--token", manager.token(role), "--listen-addr", self.cluster_address]
        if self.is_up:
            assert self.does(*join, manager.cluster_address) == f"This node joined a swarm as a {role}.\n"
        else:
            self._start(*join, *self.own, manager.cluster_address)
            until(lambda: f"joined a swarm as a {role}" in self.log, f"{self.name} joins")

    def resume(self, *options: str) -> None:
        """Start the daemon."""
        self._start("node", "run", *self.own, *options)
        until(lambda: self.api("/info"), f"{self.name} answers")

    def _start(self, *arguments: str) -> None:
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        with (self.data_dir / "daemon.log").open("w") as log:
            module = ["-m", "swarmpy"] if self.clock is None else self.clock.command()
            command = [sys.executable, *module, "--data-dir", str(self.data_dir), *arguments]
            env = dict(os.environ)
            if self.code is not None:
                # -P: or the working directory would come before it.
                command.insert(1, "-P")
                env["PYTHONPATH"] = str(self.code)
            self._started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env))

    @property
    def is_up(self) -> bool:
        """True while its daemon runs."""
        return bool(self._started) and self._started[-1].poll() is None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self._started[-1].pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End the daemon; returns its exit code."""
        self._started[-1].send_signal(number)
        return self._started[-1].wait(timeout=30)

    def tasks(self, service: str) -> dict[str, str]:
        """The tasks of a service that run and are meant to: the node's name by the task's id."""
        names = {node["id"]: node["hostname"] for node in self.status()["nodes"]}
        tasks = self.api("/tasks", service=service, **{"desired-state": "running"})
        return {task["ID"]: names[task["NodeID"]] for task in tasks if task["Status"]["State"] == "running"}

    def nodes(self) -> dict[str, tuple[str, str]]:
        """Each node's state and what it is as a manager: ``leader``, ``reachable``, ``unreachable`` or ""."""
        found = {}
        for node in self.api("/nodes"):
            manager = node.get("ManagerStatus") or {}
            standing = "leader" if manager.get("Leader") else manager.get("Reachability", "")
            found[node["Description"]["Hostname"]] = (node["Status"]["State"], standing)
        return found

    def ids(self) -> dict[str, str]:
        """Each node's id."""
        return {node["Description"]["Hostname"]: node["ID"] for node in self.api("/nodes")}


class Hosts:
    """All machines of a test. :meth:`close` ends what runs on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._prefix, self._reservation = reserve_prefix(MAX_HOSTS)
        self._hosts: list[Host] = []

    def new(self, code: Path | None = None, *, ahead_s: float | None = None) -> Host:
        """Another machine, with no daemon; ``ahead_s``: it has a wall clock of its own, which is ahead by so much."""
        name = f"host-{len(self._hosts) + 1}"
        clock = None
        if ahead_s is not None:
            clock = Clock(self.directory / f"{name}.clock")
            clock.set(ahead_s)
        host = Host(name=name, address=self._free_address(), data_dir=self.directory / name, code=code, clock=clock)
        self._hosts.append(host)
        return self._hosts[-1]

    def running(self, host: Host, code: Path) -> Host:
        """The machine ``host``, whose daemon has ended, with another swarmpy installed."""
        assert not host.is_up
        self._hosts[self._hosts.index(host)] = with_code = attrs.evolve(host, code=code)
        return with_code

    def moved(self, host: Host) -> Host:
        """A machine with the data and the name of ``host``, whose daemon has ended, and another address."""
        assert not host.is_up
        self._hosts.append(attrs.evolve(host, address=self._free_address()))
        return self._hosts[-1]

    def _free_address(self) -> str:
        number = len(self._hosts) + 1
        assert number <= MAX_HOSTS, "no more addresses are reserved"
        return f"{self._prefix}.{number}"

    def cluster(
        self, managers: int, workers: int, code: Path | None = None, *, options: Sequence[str] = ()
    ) -> list[Host]:
        """A cluster, founded with ``options``; managers first."""
        first = self.new(code)
        first.init(*options)
        others = [self.new(code) for _ in range(managers + workers - 1)]
        for number, host in enumerate(others, start=1):
            host.join(first, "manager" if number < managers else "worker")
        until(lambda: all(state == "ready" for state, _ in first.nodes().values()), "all nodes are ready")
        return [first, *others]

    def close(self) -> None:
        """kill -9 of every daemon; their tasks end with them."""
        try:
            for host in self._hosts:
                if host.is_up:
                    host.kill()
            for pid in processes_with(f"{self.directory}/"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until(lambda: not processes_with(f"{self.directory}/"), "everything has ended")
        finally:
            self._reservation.close()

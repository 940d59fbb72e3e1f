"""Logs from all nodes, with the docker command and real daemons: a leader, another manager, a worker."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import DOCKER, PATIENT, Host, Hosts, refused, swarmpy, until

CREATE = ("service", "create", "-d", "--no-resolve-image", "--restart-condition", "none", "--name")
LINE = re.compile(r"(\w+)\.(\d)\.(\w+)@(\S+)\s+\| (.*)")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Machines for all tests of this file."""
    made = Hosts(tmp_path_factory.mktemp("network"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def cluster(network: Hosts) -> list[Host]:
    """A leader, another manager and a worker."""
    hosts = [network.new() for _ in range(3)]
    hosts[0].init(*PATIENT)
    hosts[1].join(hosts[0], "manager")
    hosts[2].join(hosts[0], "worker")
    until(lambda: all(state == "ready" for state, _ in hosts[0].nodes().values()), "all nodes are ready")
    return hosts


@pytest.fixture(scope="module")
def pair(network: Hosts) -> list[Host]:
    """A manager and a worker: a busy machine costs them no election, and no task that is replaced and heard twice."""
    hosts = [network.new() for _ in range(2)]
    hosts[0].init(*PATIENT)
    hosts[1].join(hosts[0], "worker")
    until(lambda: all(state == "ready" for state, _ in hosts[0].nodes().values()), "both nodes are ready")
    return hosts


class Follower:
    """``docker service logs -f``, as it goes; ``lines`` has its errors, too."""

    def __init__(self, host: Host, *arguments: str) -> None:
        command = [DOCKER, "-H", f"unix://{host.data_dir}/swarmpy.sock", "service", "logs", "-f", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    def has_ended(self) -> bool:
        """True when it has ended by itself, and all that it said is there."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def end(self) -> None:
        """As with Ctrl-C."""
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def following(host: Host, *arguments: str) -> Iterator[Follower]:
    """One, until the block is over."""
    follower = Follower(host, *arguments)
    try:
        yield follower
    finally:
        follower.end()


def memory_kib(host: Host) -> int:
    """What its daemon has of the machine's memory."""
    text = Path(f"/proc/{host.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0])


def said_by(host: Host, service: str) -> set[tuple[str, str, str]]:
    """Service, slot and text of each line on standard output."""
    said = host.docker("service", "logs", service)
    found = [LINE.fullmatch(line) for line in said.splitlines()]
    assert all(found), said
    return {(m[1], m[2], m[5]) for m in found if m}


def ended(host: Host, service: str, count: int) -> bool:
    """True when so many of its tasks have ended."""
    tasks = host.api("/tasks", service=service)
    return sum(task["Status"]["State"] in ("complete", "failed", "shutdown") for task in tasks) >= count


def test_every_task_is_heard_through_any_manager(cluster: list[Host]) -> None:
    """What tasks on three nodes wrote, by each manager; with the names of task and node before it."""
    leader, other, _ = cluster
    leader.docker(*CREATE, "hello", "--replicas", "6", "none", "sh", "-c", "echo out; echo err >&2; sleep 1000")
    until(lambda: len(leader.tasks("hello")) == 6, "all run")
    assert len(set(leader.tasks("hello").values())) == 3
    for host in (leader, other):
        until(
            lambda host=host: said_by(host, "hello") == {("hello", str(i), "out") for i in range(1, 7)},
            "all is heard",
            timeout=90,
        )
    task = next(iter(leader.tasks("hello")))
    until(lambda: other.docker("service", "logs", "--raw", task) == "out\n", f"{task} is heard", timeout=90)
    raw = subprocess.run(
        [DOCKER, "-H", f"unix://{other.data_dir}/swarmpy.sock", "service", "logs", "--raw", task],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert (raw.stdout, raw.stderr) == (b"out\n", b"err\n")


def test_tail_since_and_times(pair: list[Host]) -> None:
    """The last lines; those since; each with its time and where it comes from."""
    leader = pair[0]
    leader.docker(*CREATE, "counts", "none", "sh", "-c", "seq 100; sleep 3; echo late; sleep 1000")
    until(lambda: "late" in leader.docker("service", "logs", "--raw", "counts"), "all is written")
    assert leader.docker("service", "logs", "--raw", "--tail", "2", "counts") == "100\nlate\n"
    said = leader.docker("service", "logs", "--raw", "--timestamps", "--tail", "1", "--details", "counts").strip()
    stamp, details, text = said.split(" ")
    assert text == "late"
    assert details.startswith("com.docker.swarm.node.id=")
    before = stamp.replace("Z", "")[:-7] + "000000Z"
    assert leader.docker("service", "logs", "--raw", "--since", before, "counts") == "late\n"


def test_who_follows_sees_tasks_come_and_go(pair: list[Host]) -> None:
    """Tasks that are added are heard from their first line, those that end to their last; nothing twice."""
    leader = pair[0]
    leader.docker(*CREATE, "comes", "none", "sh", "-c", "echo begun; sleep 2; echo bye")
    with following(leader, "--raw", "comes") as follower:

        def said_by(tasks: int) -> bool:
            # A busy machine may cost a session: that is told, and made up for.
            said = [line for line in follower.lines if not line.startswith("swarmpy: ")]
            assert sorted(said) == ["begun"] * tasks + ["bye"] * tasks, follower.lines
            return True

        until(lambda: said_by(1), "the first is heard", timeout=60)
        leader.docker("service", "scale", "-d", "comes=4")
        until(lambda: said_by(4), "the others are heard", timeout=60)


def test_who_follows_at_a_manager_that_dies_is_told(cluster: list[Host]) -> None:
    """The command ends with an error, and does not wait for what cannot come."""
    leader, other, _ = cluster
    leader.docker(*CREATE, "asked", "none", "sh", "-c", "echo begun; sleep 1000")
    with following(other, "--raw", "asked") as follower:
        until(lambda: follower.lines == ["begun"], "it is heard", timeout=90)
        other.kill(signal.SIGKILL)
        try:
            until(follower.has_ended, "the command has ended")
        finally:
            other.resume()
            until(lambda: all(state == "ready" for state, _ in leader.nodes().values()), "the manager is back")
        assert follower.lines[0] == "begun"
        assert "EOF" in follower.lines[-1]


def test_the_own_command_says_the_same(pair: list[Host]) -> None:
    """``swarmpy service logs`` and ``task logs``: as docker's, with the same names before each line."""
    leader = pair[0]
    leader.docker(*CREATE, "same", "--replicas", "2", "none", "sh", "-c", "echo out; sleep 1000")
    until(lambda: len(leader.docker("service", "logs", "same").splitlines()) == 2, "both are heard")
    own = ("-H", f"unix://{leader.data_dir}/swarmpy.sock")
    mine, docker = swarmpy(*own, "service", "logs", "same").stdout, leader.docker("service", "logs", "same")
    assert sorted(map(str.split, mine.splitlines())) == sorted(map(str.split, docker.splitlines()))
    task = next(iter(leader.tasks("same")))
    assert swarmpy(*own, "task", "logs", "--raw", "--tail", "1", "--since", "10m", task).stdout == "out\n"
    refused(leader.swarmpy("service", "logs", "nosuch"), 1, "no such task or service: nosuch")
    refused(leader.swarmpy("service", "logs", "--since", "yesterday", "same"), 1, "yesterday")


def test_bytes_and_huge_lines(pair: list[Host]) -> None:
    """Nothing is changed: neither what is no text nor a line of two megabytes."""
    leader = pair[0]
    script = "import os; w = os.fdopen(1, 'wb'); w.write(bytes(range(256)) + b'\\n' + b'x' * 2_000_000 + b'\\n')"
    leader.docker(*CREATE, "bytes", "none", sys.executable, "-S", "-c", script)
    until(lambda: ended(leader, "bytes", 1), "it has ended")
    url = f"{leader.data_dir}/swarmpy.sock"
    command = [DOCKER, "-H", f"unix://{url}", "service", "logs", "--raw", "bytes"]
    said = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert said == bytes(range(256)) + b"\n" + b"x" * 2_000_000 + b"\n"


def test_a_hundred_megabytes_stay_out_of_memory(pair: list[Host]) -> None:
    """A follower who takes all of it, and one who takes nothing: neither makes the daemon grow."""
    leader = pair[0]
    where = ("--constraint", f"node.id=={leader.ids()[leader.name]}")
    script = "import time; time.sleep(2)\nfor i in range(100): print((f'{i:03d}' + 'y' * 1020 + '\\n') * 1024, end='')"
    leader.docker(*CREATE, "much", *where, "none", sys.executable, "-S", "-c", script)
    until(lambda: leader.tasks("much"), "it runs")
    command = [DOCKER, "-H", f"unix://{leader.data_dir}/swarmpy.sock", "service", "logs", "-f", "--raw", "much"]
    stalled = subprocess.Popen(command, stdout=subprocess.PIPE)
    before = memory_kib(leader)
    most = before
    try:
        with following(leader, "--raw", "much") as follower:
            deadline = time.monotonic() + 60
            while not any(line.startswith("099") for line in follower.lines[-1:]) and time.monotonic() < deadline:
                most = max(most, memory_kib(leader))
                time.sleep(0.1)
        assert len(follower.lines) > 10_000
        assert any(line.startswith("099") for line in follower.lines[-5:])
    finally:
        stalled.kill()
        stalled.communicate(timeout=10)
    assert most - before < 40_000, f"from {before} to {most} KiB"


def test_a_node_that_is_gone_is_named_and_holds_nothing_up(pair: list[Host]) -> None:
    """The other tasks' logs come at once, and a line says what is missing and why."""
    leader, worker = pair
    leader.docker(*CREATE, "spread", "--mode", "global", "none", "sh", "-c", "echo here; sleep 1000")
    until(lambda: len(leader.tasks("spread")) == 2, "all run")
    until(lambda: leader.docker("service", "logs", "--raw", "spread") == "here\nhere\n", "both are heard")
    worker.kill(signal.SIGKILL)
    began = time.monotonic()
    done = subprocess.run(
        [DOCKER, "-H", f"unix://{leader.data_dir}/swarmpy.sock", "service", "logs", "--raw", "spread"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    took_s = time.monotonic() - began
    worker.resume()
    assert took_s < 15
    assert done.stdout == "here\n"
    assert re.fullmatch(
        r"swarmpy: the log of task \w+ cannot be had: its node \S+ (is down|has no session .*)\n", done.stderr
    )

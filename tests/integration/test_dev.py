"""``swarmpy dev``: a cluster for a stack file, to look at or to check, that leaves nothing behind."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import SLEEP, last_line, processes_with, refused, swarmpy, until

EXAMPLES = Path(__file__).parents[2] / "compose-examples"


class Dev:
    """A running ``swarmpy dev``; what it says is collected."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-u", "-m", "swarmpy", "dev", "--runtime", "process", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.said = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def wait_for(self, text: str) -> None:
        """Wait until it has said ``text``."""
        until(lambda: text in self.said or self.process.poll() is not None, f"{text!r} in {self.said!r}", timeout=60)
        assert text in self.said, self.said

    def ends(self) -> int:
        """Its exit code."""
        code = self.process.wait(timeout=40)
        self._reader.join(10)
        return code

    @property
    def directory(self) -> str:
        """Where its nodes live."""
        self.wait_for("state and logs: ")
        found = re.search(r"state and logs: (\S+)", self.said)
        assert found is not None
        return found[1]


@contextlib.contextmanager
def dev(*arguments: str | Path) -> Iterator[Dev]:
    """A ``swarmpy dev`` that is killed at the end of a test that fails."""
    running = Dev(*arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.ends()
        assert running.process.stdout is not None
        running.process.stdout.close()


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A stack of two tasks that answer nothing."""
    file = tmp_path / "sleeper.yml"
    file.write_text(SLEEP.format(replicas=2, version=1))
    return file


def test_check_asks_every_node(tmp_path: Path) -> None:
    """The quick start: five nodes, each asked for the published port, a table of answers, and nothing left behind."""
    directory = tmp_path / "cluster"
    done = swarmpy(
        "dev", EXAMPLES / "hello.yml", "--check", "--runtime", "process", "--data-dir", directory, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("node-")]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        *((f"node-{number}", "manager", "ok") for number in (1, 2, 3)),
        *((f"node-{number}", "worker", "ok") for number in (4, 5)),
    ]
    assert all(
        re.search(r"200 Hello from task hello_web\.[123]\.\w+ on node node-[1-5]\b", " ".join(row)) for row in rows
    )
    assert "all 5 requests were answered" in done.stdout
    assert not directory.exists()
    assert processes_with(f"{directory}/") == []


@pytest.mark.parametrize(("example", "requests"), [("web-api", 6), ("constraints", 6), ("env-health", 3)])
def test_examples_work(example: str, requests: int) -> None:
    """Every example stack works as it is on a manager and two workers."""
    size = ["--managers", "1", "--workers", "2"]
    done = swarmpy("dev", EXAMPLES / f"{example}.yml", "--check", "--runtime", "process", *size, timeout=90)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"all {requests} requests were answered" in done.stdout


def test_interrupt_takes_all_down(tmp_path: Path) -> None:
    """Without --check the URLs it prints answer until Ctrl-C, which ends every process and removes the directory."""
    with dev(EXAMPLES / "hello.yml", "--managers", "1", "--workers", "1") as running:
        running.wait_for("Ctrl-C takes everything down")
        directory = running.directory
        urls = re.findall(r"http://\S+", running.said)
        assert len(urls) == 4  # a status page and a published port for each node
        for url in urls:
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.status == 200
        running.process.send_signal(signal.SIGINT)
        assert running.ends() == 0
    assert not Path(directory).exists()
    assert processes_with(f"{directory}/") == []


def test_interrupt_while_it_sets_up(sleeper: Path) -> None:
    """Ctrl-C before the stack runs ends it at once, with the exit code of an interrupt."""
    with dev(sleeper, "--managers", "1", "--workers", "1") as running:
        running.wait_for("Creating service")
        directory = running.directory
        running.process.send_signal(signal.SIGINT)
        assert running.ends() == 130
    assert running.said.splitlines()[-2:] == ["interrupted", "taking the cluster down"]
    assert not Path(directory).exists()
    assert processes_with(f"{directory}/") == []


def test_kill_leaves_no_processes(sleeper: Path, tmp_path: Path) -> None:
    """kill -9 of ``swarmpy dev`` takes its daemons and their tasks with it."""
    directory = tmp_path / "cluster"
    with dev(sleeper, "--managers", "1", "--workers", "1", "--data-dir", directory) as running:
        running.wait_for("Ctrl-C takes everything down")
        assert len(processes_with(f"{directory}/")) >= 4
        running.process.kill()
        until(lambda: not processes_with(f"{directory}/"), "everything has ended")


def test_smallest_cluster_is_kept(sleeper: Path, tmp_path: Path) -> None:
    """One manager and no worker are a cluster; with --keep its state and log stay where the node can go on."""
    directory = tmp_path / "kept"
    size = ["--managers", "1", "--workers", "0", "--keep", "--data-dir", str(directory)]
    done = swarmpy("dev", sleeper, "--check", "--runtime", "process", *size)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the stack publishes no TCP port to ask" in done.stdout
    assert f"state and logs are kept in {directory}" in done.stdout
    assert (directory / "node-1" / "node.json").exists()
    log = (directory / "node-1" / "daemon.log").read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log
    again = swarmpy("dev", sleeper, "--runtime", "process", "--data-dir", directory)
    refused(again, 1, str(directory), "is not empty", "--data-dir")


def test_stack_that_cannot_run(tmp_path: Path) -> None:
    """A command that does not exist ends it with the reason when the time is over, and all is taken down."""
    file = tmp_path / "broken.yml"
    file.write_text("services: {web: {image: none, command: /no/such/command}}\n")
    directory = tmp_path / "cluster"
    size = ["--managers", "1", "--workers", "0", "--timeout", "2", "--data-dir", str(directory)]
    done = swarmpy("dev", file, "--check", "--runtime", "process", *size)
    refused(done, 75, "not converged within 2 s", "broken_web 0/1 running", "command not found: /no/such/command")
    assert not directory.exists()
    assert processes_with(f"{directory}/") == []


def test_published_port_is_taken(tmp_path: Path) -> None:
    """A port that another program holds on every address is named before anything is started."""
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        file = tmp_path / "web.yml"
        file.write_text(f'services: {{web: {{image: none, command: sleep 9, ports: ["{port}:80"]}}}}\n')
        done = swarmpy("dev", file, "--check", "--runtime", "process")
    refused(done, 1, f"port {port} is taken on every loopback address", "publish another port")
    assert list(tmp_path.iterdir()) == [file]


def test_missing_file(tmp_path: Path) -> None:
    """A file that cannot be read is named; nothing is started."""
    done = swarmpy("dev", tmp_path / "no.yml", "--runtime", "process")
    assert done.stdout == ""
    refused(done, 1, str(tmp_path / "no.yml"), "cannot be read")


def test_wrong_usage() -> None:
    """Wrong flags are explained with exit code 2."""
    done = swarmpy("dev", "x.yml", "--managers", "0")
    assert done.returncode == 2
    assert last_line(done) == "Error: Invalid value for '--managers': 0 is not in the range x>=1."

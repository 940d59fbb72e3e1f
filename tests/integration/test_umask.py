"""What is written under the most careless of masks: nothing that others could read, change or come in by."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import SLEEP, Finished, Host, Hosts, refused, swarmpy, until
from looking import paths_below

OTHERS = 0o077


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """No mask at all; commands and daemons inherit it."""
    before = os.umask(0)
    yield
    os.umask(before)


def run(*arguments: str | Path, timeout: float = 90) -> Finished:
    """A command that works, in a process of its own."""
    command = [sys.executable, "-m", "swarmpy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done


def open_to_others(directory: Path) -> list[str]:
    """Everything at and below ``directory`` that anybody but its owner may do something with."""
    shown = []
    for path in [directory, *paths_below(directory)]:
        with contextlib.suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & OTHERS:
                shown.append(f"{stat.filemode(mode)} {path}")
    return shown


def changeable_by_others(directory: Path, until_: Path) -> list[str]:
    """The directories on the way down to ``directory`` in which others could put something else in its place."""
    found = [path for path in directory.parents if path.is_relative_to(until_) and path != until_]
    return [str(path) for path in found if path.stat().st_mode & 0o022]


def test_data_directories(hosts: Hosts, tmp_path: Path) -> None:
    """Of a manager and a worker that were started in the background, with tasks and logs of both kinds of node."""
    manager, worker = (hosts.new() for _ in range(2))
    deep = {host.name: tmp_path / "new" / "deeper" / host.name for host in (manager, worker)}
    place = {host.name: ["--data-dir", deep[host.name]] for host in (manager, worker)}
    pids: list[int] = []
    try:
        init = ["swarm", "init", "--detach", "--listen-addr", manager.cluster_address, "--api-addr", manager.address]
        run(*place[manager.name], *init, *manager.own)
        run(*place[worker.name], "node", "run", "--detach", *worker.own)
        token = run(*place[manager.name], "swarm", "join-token", "-q", "worker").stdout.strip()
        join = ["node", "join", "--token", token, "--listen-addr", worker.cluster_address, manager.cluster_address]
        run(*place[worker.name], *join)
        stack = tmp_path / "stack.yml"
        stack.write_text(SLEEP.format(replicas=4, version="1"))
        run(*place[manager.name], "stack", "deploy", "-c", stack, "st")
        run(*place[manager.name], "swarm", "client-cert", "a", "--role", "admin", "--out", tmp_path / "certs" / "a")
        run(*place[manager.name], "swarm", "backup", tmp_path / "backup")
        run(*place[manager.name], "audit")
        pids = [pid for host in (manager, worker) for pid in daemons(deep[host.name])]
        assert len(pids) == 2
        for path in (*deep.values(), tmp_path / "certs" / "a", tmp_path / "backup"):
            assert open_to_others(path) == []
            assert changeable_by_others(path, tmp_path) == []
        names = {path.name for path in paths_below(deep[manager.name])}
        assert {"daemon.log", "audit.log", "swarmpy.sock", "raft.db", "swarm-node.key", "node.json", "lock"} <= names
        assert paths_below(deep[worker.name] / "tasks")
    finally:
        for pid in pids or [pid for path in deep.values() for pid in daemons(path)]:
            os.kill(pid, signal.SIGKILL)


def daemons(directory: Path) -> list[int]:
    """The daemons that hold a data directory's lock."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"run" in words and str(directory).encode() in words:
                found.append(int(entry.name))
    return found


def test_a_task_has_the_mask_of_its_daemon(hosts: Hosts, tmp_path: Path) -> None:
    """Only our own files are more secret than asked for: what tasks write is their users' affair."""
    (host,) = hosts.cluster(1, 0)
    stack = tmp_path / "stack.yml"
    written = tmp_path / "written"
    stack.write_text(f"services: {{web: {{image: none, command: [sh, -c, 'touch {written}; exec sleep 1000']}}}}\n")
    host.does("stack", "deploy", "--detach", "-c", stack, "st")
    until(written.exists, "the task has written")
    assert stat.S_IMODE(written.stat().st_mode) == 0o666


def test_directories_that_were_there_already(hosts: Hosts, tmp_path: Path) -> None:
    """What is put into an open directory is shut itself; nothing depends on the directory."""
    host = hosts.new()
    host.data_dir.mkdir(mode=0o755)
    host.init()
    host.does("swarm", "backup", host.data_dir / "backup")
    shown = [line for line in open_to_others(host.data_dir) if not line.endswith(("/daemon.log", host.name))]
    assert shown == []


def test_a_directory_that_others_can_write_to_is_refused(hosts: Hosts) -> None:
    """Whoever can put files into it can be this node; the daemon says what to do."""
    host = hosts.new()
    host.data_dir.mkdir(mode=0o777)
    words = str(host.data_dir), "mode 0777", "chmod 700"
    for more in ([], ["--detach"]):
        done = swarmpy("--data-dir", host.data_dir, "node", "run", *more, *host.own)
        refused(done, 74, *words)
    host.data_dir.chmod(0o700)
    host.resume()


def test_a_restored_cluster(hosts: Hosts, tmp_path: Path) -> None:
    """Its manager's directory is as shut as that of one that was founded."""
    host, second = hosts.new(), hosts.new()
    host.init()
    host.does("swarm", "backup", tmp_path / "backup")
    host.kill(signal.SIGKILL)
    restored = tmp_path / "restored"
    restore = ["swarm", "restore", tmp_path / "backup", "--detach", "--listen-addr", second.cluster_address]
    try:
        run("--data-dir", restored, *restore, *second.own)
        assert open_to_others(restored) == []
    finally:
        for pid in daemons(restored):
            os.kill(pid, signal.SIGKILL)


def test_dev(tmp_path: Path) -> None:
    """Every node of a cluster on one machine, with its logs."""
    stack = tmp_path / "stack.yml"
    stack.write_text(SLEEP.format(replicas=2, version="1"))
    directory = tmp_path / "new" / "dev"
    dev = ["dev", stack, "--check", "--keep", "--managers", "1", "--workers", "1", "--runtime", "process"]
    run(*dev, "--data-dir", directory)
    assert open_to_others(directory) == []
    assert changeable_by_others(directory, tmp_path) == []
    assert (directory / "node-1" / "daemon.log").exists()


def test_the_groups_socket(hosts: Hosts, tmp_path: Path) -> None:
    """Its directory is for all to pass through, and the socket for its group at most."""
    host: Host = hosts.new()
    tmp_path.chmod(0o755)
    host.resume("--group-socket", str(tmp_path / "run" / "s"))
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "run" / "s").stat().st_mode) in (0o600, 0o660)

"""Backups of a cluster that is at work, and clusters brought back from them on other machines: real daemons."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
from hosts import SLEEP, Finished, Host, Hosts, deploy, refused, services, until

from swarmpy.store.backup import FORMAT_VERSION, MAGIC

BACKUP = ("swarm", "backup")


def identity(host: Host) -> tuple[str, ...]:
    """What makes the cluster the one it is."""
    swarm = host.api("/swarm")
    return (swarm["ID"], json.dumps(swarm["JoinTokens"]), swarm["TLSInfo"]["TrustRoot"], swarm["CreatedAt"])


def processes(host: Host, service: str) -> dict[str, tuple[str, int]]:
    """Where the tasks of a service run, and as which process, by the task's id."""
    names = {node["id"]: node["hostname"] for node in host.status()["nodes"]}
    tasks = host.api("/tasks", service=service, **{"desired-state": "running"})
    return {
        task["ID"]: (names[task["NodeID"]], task["Status"]["ContainerStatus"]["PID"])
        for task in tasks
        if task["Status"]["State"] == "running"
    }


def restored(host: Host, file: Path, *more: str) -> Finished:
    """Bring the cluster back on a machine where no daemon runs; the daemon is left in the background."""
    listen = ("--listen-addr", host.cluster_address)
    return host.swarmpy("swarm", "restore", str(file), *listen, *more, "--detach", *host.own)


def test_a_backup_under_load_holds_every_write_that_was_done(hosts: Hosts, tmp_path: Path) -> None:
    """Taken through a manager that does not lead, while others write; the leader stays the leader."""
    first, second, _third = hosts.cluster(3, 0)
    # On a machine that is busy with all these commands no leader shall be lost to anything but the backup.
    first.does("swarm", "update", "--election-timeout", "5s")
    term = second.api("/status/raft")["term"]
    done: list[str] = []
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            name = f"load{number}"
            (tmp_path / f"{name}.yml").write_text(SLEEP.format(replicas=0, version="1"))
            command = ["--compose-file", str(tmp_path / f"{name}.yml"), name]
            ran = subprocess.run(
                [sys.executable, "-m", "swarmpy", "--data-dir", str(first.data_dir), "stack", "deploy", *command],
                check=False,
                capture_output=True,
            )
            if ran.returncode == 0:
                done.append(f"{name}_web")
            number += 1

    writing = threading.Thread(target=write)
    writing.start()
    known: list[set[str]] = []
    try:
        for number in range(4):
            until(lambda number=number: len(done) > 2 * number, "writes are done")
            known.append(set(done))
            said = second.does(*BACKUP, tmp_path / f"b{number}.bak")
            assert "keep it safe" in said
    finally:
        stop.set()
        writing.join()
    assert second.api("/status/raft")["term"] == term
    assert stat.S_IMODE((tmp_path / "b0.bak").stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".*.tmp"))
    was = identity(first)
    for host in hosts._hosts:
        host.kill()
    new = hosts.new()
    said = restored(new, tmp_path / "b3.bak").stdout
    assert "now its only manager" in said
    assert known[3] <= services(new)
    assert identity(new) == was
    before = services(new)
    deploy(new, tmp_path, "later")
    assert services(new) == before | {"later_web"}


def test_on_the_address_of_an_old_manager_everybody_comes_back(hosts: Hosts, tmp_path: Path) -> None:
    """The workers with the processes they have; the old managers, when they come back, as workers."""
    first, second, third, _ = hosts.cluster(3, 1)
    deploy(first, tmp_path, "shop", replicas=4)
    until(lambda: len(processes(first, "shop_web")) == 4, "all run")
    before, was = processes(first, "shop_web"), identity(first)
    file = tmp_path / "shop.bak"
    first.does(*BACKUP, file)
    new = Host(name="host-1-again", address=first.address, data_dir=tmp_path / "new")
    hosts._hosts.append(new)
    first.kill()
    refused(restored(new, file), 1, "the cluster of this backup is there", second.cluster_address, "--force")
    assert not (new.data_dir / "node.json").exists()
    until(lambda: not new.api("/info")["Swarm"]["NodeID"], "its daemon is there, in no cluster")
    second.kill()
    third.kill()
    new.does("swarm", "restore", file, "--listen-addr", new.cluster_address)
    assert identity(new) == was
    until(lambda: new.nodes()["host-4"][0] == "ready", "the worker is back")
    assert {t: p for t, p in before.items() if p[0] == "host-4"}.items() <= processes(new, "shop_web").items()
    assert [name for name, (_, standing) in new.nodes().items() if standing] == ["host-1-again"]
    until(lambda: len(processes(new, "shop_web")) == 4, "the tasks of the lost are replaced")
    refused(new.swarmpy("swarm", "restore", str(file)), 1, "already part of a swarm")

    second.resume()
    third.resume()
    until(lambda: new.nodes()["host-2"] == new.nodes()["host-3"] == ("ready", ""), "they are workers")
    new.does("node", "promote", "host-2")
    until(lambda: new.nodes()["host-2"] == ("ready", "reachable"), "and managers again, if wanted")


def test_what_is_no_sound_backup_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    """Before anything is touched: no daemon is started, the directory stays empty. Each with its exit code."""
    first, worker = hosts.cluster(1, 1)
    file = tmp_path / "good.bak"
    first.does(*BACKUP, file)
    good = file.read_bytes()
    assert "verdict: sound" in first.does("swarm", "restore", "--check", file)
    fixed = struct.pack(">HI", FORMAT_VERSION + 1, 2)
    newer = MAGIC + fixed + struct.pack(">I", zlib.crc32(fixed)) + b"{}"
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    new = hosts.new()
    for data, code, words in (
        (good[:-1], 74, ("cut short",)),
        (good[: len(good) // 2], 74, ("cut short",)),
        (bytes(flipped), 74, ("damaged",)),
        (good + b"x", 74, ("damaged",)),
        (b"hello", 74, ("cut short",)),
        (b"hello, this is text that is long enough", 74, ("no backup",)),
        (newer, 78, ("newer swarmpy", f"format {FORMAT_VERSION + 1}")),
    ):
        bad = tmp_path / "bad.bak"
        bad.write_bytes(data)
        refused(new.swarmpy("swarm", "restore", "--check", str(bad)), code, str(bad), *words)
        refused(restored(new, bad), code, str(bad), *words)
    refused(restored(new, tmp_path / "none.bak"), 1, "none.bak", "No such file")
    assert not new.data_dir.exists()
    refused(first.swarmpy(*BACKUP, file), 1, "exists already", "--force")
    assert file.read_bytes() == good
    first.does(*BACKUP, "--force", file)
    refused(first.swarmpy(*BACKUP, tmp_path / "none" / "x"), 1, "there is no directory")
    refused(worker.swarmpy(*BACKUP, tmp_path / "w.bak"), 1, "not a swarm manager")
    assert not (tmp_path / "w.bak").exists()
    piped = subprocess.run(
        [sys.executable, "-m", "swarmpy", "--data-dir", str(first.data_dir), *BACKUP, "-"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    bad.write_bytes(piped.stdout)
    assert "verdict: sound" in new.does("swarm", "restore", "--check", bad)
    status, _ = first.get("/swarm/backup")
    assert status == 404, "the page without authentication has no backups"


def test_a_full_disk_leaves_no_file(hosts: Hosts, tmp_path: Path) -> None:
    """Nothing half written stays, and an older backup is not touched: of a little that is flushed at its end, of more
    that is written on the way."""
    first = hosts.new()
    first.init()
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = f"a small disk cannot be mounted: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("SWARMPY_REQUIRE_ENGINE") else pytest.skip)(reason)
    try:
        older = small / "older.bak"
        older.write_bytes(b"older")
        for replicas in (0, 200):
            deploy(first, tmp_path, "shop", replicas=replicas)
            until(lambda wanted=replicas: len(first.api("/tasks")) >= wanted, "there is so much to write")
            refused(first.swarmpy(*BACKUP, "--force", older), 74, "No space left on device", "nothing was left")
            assert [path.name for path in small.iterdir()] == ["older.bak"]
            assert older.read_bytes() == b"older"
    finally:
        subprocess.run(["umount", "--lazy", small], check=True)
    first.does(*BACKUP, tmp_path / "enough.bak")


def test_killed_while_it_restores_a_machine_is_in_no_cluster_or_in_this_one(hosts: Hosts, tmp_path: Path) -> None:
    """kill -9 at several moments; the command is given again, and then it is done."""
    first = hosts.new()
    first.init()
    deploy(first, tmp_path, "shop")
    file = tmp_path / "shop.bak"
    first.does(*BACKUP, file)
    was = identity(first)
    first.kill()
    new = hosts.new()

    def log_made() -> int:
        """Which directory its log is in; 0 when there is none."""
        raft = new.data_dir / "raft"
        return raft.stat().st_ino if raft.exists() else 0

    for number in range(4):
        left = log_made()
        new.resume()
        if new.api("/info")["Swarm"]["NodeID"]:
            break
        command = ["--data-dir", str(new.data_dir), "swarm", "restore", str(file)]
        command += ["--listen-addr", new.cluster_address]
        with subprocess.Popen(
            [sys.executable, "-m", "swarmpy", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as asked:
            until(
                lambda asked=asked, left=left: log_made() not in (0, left) or asked.poll() is not None, "it has begun"
            )
            threading.Event().wait(0.02 * number)
            new.kill()
            assert asked.stderr is not None
            assert "Traceback" not in asked.stderr.read()
    if not new.is_up:
        new.resume()
    if not new.api("/info")["Swarm"]["NodeID"]:
        new.does("swarm", "restore", file, "--listen-addr", new.cluster_address)
    until(lambda: services(new) == {"shop_web"}, "it has the state")
    assert identity(new) == was

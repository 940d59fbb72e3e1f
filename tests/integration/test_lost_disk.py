"""Managers whose disks rot, fill up or are emptied: real daemons that stop, say why, and find their way back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Hosts, deploy, services, until

from swarmpy.errors import LogCorrupted
from swarmpy.wire import wal


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Machines; what runs on them ends with the test."""
    made = Hosts(tmp_path)
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes, mounted where the second machine has its data."""
    path = tmp_path / "host-2"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", path]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = f"a small disk cannot be mounted: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("SWARMPY_REQUIRE_ENGINE") else pytest.skip)(reason)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def raft_ids(host: Host) -> dict[str, int]:
    """Who the managers are in the Raft group, as node.json says, by name."""
    return {path.parent.name: _raft_id(path) for path in sorted(host.data_dir.parent.glob("host-*/node.json"))}


def _raft_id(path: Path) -> int:
    number: int = json.loads(path.read_text())["raft_id"]
    return number


def ended(host: Host) -> int:
    """The exit code of a daemon that ends by itself."""
    until(lambda: not host.is_up, f"{host.name} ends")
    return host._started[-1].wait(timeout=1)


def last_words(host: Host) -> str:
    """The one line of its own that a daemon ends with."""
    assert "Traceback" not in host.log, host.log
    lines = [line for line in host.log.splitlines() if line.startswith("swarmpy: ")]
    assert len(lines) == 1, host.log
    return lines[0]


def test_a_rotten_log_stops_its_manager_and_nobody_else(hosts: Hosts, tmp_path: Path) -> None:
    """Rot before the end of the log: exit code 74 and what to do; the others go on, and it joins them anew."""
    first, other, broken = hosts.cluster(3, 0)
    for number in range(3):
        deploy(first, tmp_path, f"s{number}")
    until(lambda: "s2_web" in services(broken), "the third manager has it all")
    broken.kill()
    file = broken.data_dir / "raft" / "raft.db-wal"
    data = bytearray(file.read_bytes())
    data[32 + 24 + 100] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(LogCorrupted):
        wal.check(file, 100)
    before = raft_ids(first)["host-3"]

    broken._start("node", "run", *broken.own)
    assert ended(broken) == 74
    words = last_words(broken)
    for word in (str(broken.data_dir / "raft"), "raft.db-wal is damaged at byte 32", "remove this directory"):
        assert word in words
    deploy(first, tmp_path, "meanwhile")
    assert "meanwhile_web" in services(other)

    shutil.rmtree(broken.data_dir / "raft")
    broken.resume()
    until(lambda: "meanwhile_web" in services(broken), "it has caught up")
    until(lambda: first.nodes()["host-3"] == ("ready", "reachable"), "it is a manager again")
    assert raft_ids(first)["host-3"] != before


def test_a_database_that_is_gone_is_not_begun_anew(hosts: Hosts) -> None:
    """Where only raft.db is missing the daemon refuses (78); so it does when an older copy of it is put back (74)."""
    first = hosts.new()
    first.init()
    raft = first.data_dir / "raft"
    first.kill()
    backup = raft.with_name("backup")
    shutil.copytree(raft, backup)
    (raft / "raft.db").unlink()
    first._start("node", "run", *first.own)
    assert ended(first) == 78
    assert "raft.db is missing" in last_words(first)

    shutil.copy(backup / "raft.db", raft / "raft.db")
    first.resume()
    until(lambda: first.is_manager, "it leads again")
    first.kill()
    for path in backup.iterdir():
        shutil.copy(path, raft / path.name)
    first._start("node", "run", *first.own)
    assert ended(first) == 74
    assert "older files were put back" in last_words(first)


def test_a_full_disk_stops_its_manager(small_disk: Path, hosts: Hosts, tmp_path: Path) -> None:
    """A manager whose disk is full stops with exit code 74; with room again it comes back and catches up."""
    first = hosts.new()
    first.init()
    second, third = hosts.new(), hosts.new()
    for host in (second, third):
        host.join(first, "manager")
    until(lambda: all(state == ("ready", "reachable") or "leader" in state for state in first.nodes().values()), "up")
    ballast = small_disk / "ballast"
    room = os.statvfs(small_disk)
    with ballast.open("wb", buffering=0) as file:
        file.write(bytes(room.f_bavail * room.f_frsize))
    written = 0

    def writes_until_it_ends() -> bool:
        nonlocal written
        deploy(first, tmp_path, f"full{written}")
        written += 1
        return not second.is_up

    until(writes_until_it_ends, "the second manager ends")
    assert ended(second) == 74
    assert f"full{written - 1}_web" in services(third)
    ballast.unlink()
    second.resume()
    wanted = {f"full{number}_web" for number in range(written)}
    until(lambda: wanted <= services(second), "it has caught up")
    until(lambda: first.nodes()["host-2"] == ("ready", "reachable"), "it is a manager again")

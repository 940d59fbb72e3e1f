"""The audit log on a disk: what its lines say, how it is bounded, and what happens when it cannot be written."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest

from swarmpy.api.audit import AuditEntry, as_line
from swarmpy.api.callers import Access, Caller, Door
from swarmpy.cli.audit import read, row
from swarmpy.cli.main import main
from swarmpy.errors import NotFound
from swarmpy.node.audit_log import AuditLog, numbered
from swarmpy.node.clock import SystemClock

NOW_NS = 1_790_000_000_123_000_000
SOCKET = Caller(access=Access.ADMIN, door=Door.SOCKET, address="/run/s", pid=42, uid=os.getuid())
VIEWER = Caller(access=Access.VIEWER, door=Door.TCP, address="192.0.2.7:5000", name="watcher", serial="1f")
MANAGER = Caller(access=Access.VIEWER, door=Door.FORWARDED, address="192.0.2.2:9", node_id="m2")


def entry(caller: Caller = SOCKET, **fields: Any) -> AuditEntry:
    """An entry, about a service that was created."""
    given: dict[str, Any] = {"time_ns": NOW_NS, "method": "POST", "path": "/services/create", "status": 201}
    return AuditEntry(caller=caller, duration_s=0.0123, **{**given, **fields})


def name_of(uid: int) -> str:
    """A user's name."""
    return f"user{uid}"


def test_what_a_line_says_of_a_caller_of_each_kind() -> None:
    """The kernel's word, the certificate's, or the manager that asks for somebody."""
    line = json.loads(as_line(entry(about={"id": "x1", "name": "web"}, version=7), name_of))
    assert line == {
        "time": "2026-09-21T14:13:20.123Z",
        "who": {"door": "socket", "user": f"user{os.getuid()}", "uid": os.getuid(), "pid": 42},
        "from": "/run/s",
        "method": "POST",
        "path": "/services/create",
        "object": {"id": "x1", "name": "web"},
        "status": 201,
        "version": 7,
        "ms": 12.3,
    }
    line = json.loads(as_line(entry(VIEWER, status=403), name_of))
    assert line["who"] == {"door": "tcp", "name": "watcher", "role": "viewer", "serial": "1f"}
    assert line["from"] == "192.0.2.7:5000"
    line = json.loads(as_line(entry(MANAGER, on_behalf_of=SOCKET), name_of))
    assert line["who"] == {"door": "forwarded", "node": "m2"}
    assert line["for"] == {"door": "socket", "uid": os.getuid(), "pid": 42, "from": "/run/s"}


def test_a_line_is_one_line_without_secrets_and_of_bounded_length() -> None:
    """Whatever a client puts into a path."""
    token = "SWMTKN-1-2f0qjnhb8acmgmzg9h2gkdb53c8a4vrvv4u1zktv1iiyz1gvsa-4kt2cfd5tq3vxl4kvcm4ayczn"
    path = f"/services/{token}/\n\x1b[31m\udcff" + "x" * 5000
    line = as_line(entry(path=path, query={"version": token}, about={"name": "SWMKEY-1-abc"}), name_of)
    assert "\n" not in line
    assert line.isascii()
    assert len(line) < 2000
    for part in ("2f0qjnhb8", "4kt2cfd5", "abc"):
        assert part not in line
    assert "\x1b" not in "".join(row(json.loads(line)))
    key = "SWMKEY-1-7c37Cc86+4o6p38HnroywCi19pl/OnGtbdZEgtKxZu8"
    for part in ("4o6p38H", "OnGtbd"):
        assert part not in as_line(entry(path=f"/services/{key}", about={"reference": key}), name_of)
    # A token that the cut goes through is no less hidden.
    assert "SWMTKN" not in as_line(entry(path="/" + "x" * 240 + token), name_of)


def files_in(directory: Path) -> dict[str, os.stat_result]:
    """What is in a directory."""
    return {file.name: file.stat() for file in directory.iterdir()}


async def written(log: AuditLog, *entries: AuditEntry) -> None:
    """Take the entries in and write them down."""
    log.start()
    for each in entries:
        log.record(each)
    await log.close()


async def test_entries_are_written_in_their_order_and_only_for_the_owner(tmp_path: Path) -> None:
    """To a file of mode 0600 whatever the umask, also where there was one with another."""
    path = tmp_path / "audit.log"
    path.touch(mode=0o666)
    path.chmod(0o666)
    before = os.umask(0)
    try:
        await written(AuditLog(path, SystemClock()), *(entry(path=f"/services/{n}") for n in range(500)))
        assert [line["path"] for line in read(path)] == [f"/services/{n}" for n in range(500)]
        await written(AuditLog(path, SystemClock(), file_bytes=1000), entry(path="/last"))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(found.st_mode) for found in files_in(tmp_path).values()] == [0o600, 0o600]
    assert [line["path"] for line in read(path)][-1] == "/last"


async def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    """The oldest go; what is left is whole and in order."""
    path = tmp_path / "audit.log"
    await written(
        AuditLog(path, SystemClock(), file_bytes=2000, files=3), *(entry(path=f"/services/{n}") for n in range(200))
    )
    found = files_in(tmp_path)
    assert sorted(found) == ["audit.log", *(f"audit.log.{n}" for n in (1, 2, 3))]
    assert all(file.st_size <= 2000 for file in found.values())
    numbers = [int(line["path"].rpartition("/")[2]) for line in read(path)]
    assert numbers == list(range(numbers[0], 200))
    assert len(numbers) >= 20


async def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    """A flood is not kept in memory; the number of what is missing is told and written."""
    path = tmp_path / "audit.log"
    log = AuditLog(path, SystemClock(), queue=10)
    await written(log, *(entry(path=f"/{n}") for n in range(25)))
    lines = list(read(path))
    assert lines[0]["lost"] == 15
    assert [line["path"] for line in lines[1:]] == [f"/{n}" for n in range(10)]
    assert log.problems() == ("15 entries of the audit log were lost since the daemon was started",)
    assert "15 entries were lost here" in row(lines[0])


async def test_a_disk_that_takes_nothing_is_told_and_forgotten_when_it_does(tmp_path: Path) -> None:
    """Requests go on; a half-written line is not taken for one."""
    directory = tmp_path / "d"
    path = directory / "audit.log"
    log = AuditLog(path, SystemClock())
    log.start()
    log.record(entry(path="/lost"))
    async with asyncio.timeout(10):
        while not log.problems():
            await asyncio.sleep(0.01)
    assert log.problems() == (
        f"the audit log {path} cannot be written: No such file or directory",
        "1 entries of the audit log were lost since the daemon was started",
    )
    directory.mkdir()
    path.write_text('{"time": "torn')
    log._is_torn = True
    log.record(entry(path="/kept"))
    await log.close()
    assert [line.get("path") or line["lost"] for line in read(path)] == [1, "/kept"]
    assert log.problems() == ("1 entries of the audit log were lost since the daemon was started",)


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Somebody who can put one into the data directory is not to choose what the daemon appends to."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "audit.log").symlink_to(target)
    log = AuditLog(tmp_path / "audit.log", SystemClock())
    await written(log, entry())
    assert target.read_text() == "precious"
    assert len(log.problems()) == 2


async def test_a_full_disk(tmp_path: Path) -> None:
    """/dev/full is a disk without room."""
    log = AuditLog(tmp_path / "audit.log", SystemClock())
    log.start()
    log._fd = os.open("/dev/full", os.O_WRONLY)
    log.record(entry())
    async with asyncio.timeout(10):
        while not log.problems():
            await asyncio.sleep(0.01)
    assert "No space left on device" in log.problems()[0]
    log.record(entry(path="/kept"))
    await log.close()
    assert [line.get("path") or line["lost"] for line in read(tmp_path / "audit.log")] == [1, "/kept"]


# -- reading it -----------------------------------------------------------------------------------------------------


async def test_the_command_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table, as lines, and only what is not older than asked for; what a crash tore is passed over."""
    path = tmp_path / "audit.log"
    old = entry(path="/old", about={"reference": "web"})
    new = attrs.evolve(entry(VIEWER, path="/new", status=403), time_ns=SystemClock().time_ns())
    await written(AuditLog(path, SystemClock()), old, entry(MANAGER, on_behalf_of=SOCKET), new)
    with path.open("a") as file:
        file.write('{"time": "2026-09')
    numbered(path, 1).write_text('{"time": "2026-01-01T00:00:00.000Z", "path": "/first"}\n7\n')
    assert main(["--data-dir", str(tmp_path), "audit", "--format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == ["/first", "/old", "/services/create", "/new"]
    assert main(["audit", "--data-dir", str(tmp_path), "--since", "1h"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["TIME", "WHO", "FROM", "REQUEST", "OBJECT", "STATUS", "VERSION"]
    assert table[1].split()[1:] == ["watcher", "(viewer)", "192.0.2.7:5000", "POST", "/new", "403"]
    assert len(table) == 2
    assert main(["--data-dir", str(tmp_path), "audit"]) == 0
    assert f"manager m2 for {os.getuid()} (pid 42)" in capsys.readouterr().out


def test_there_may_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so; a duration that is none is wrong usage."""
    with pytest.raises(NotFound):
        list(read(tmp_path / "audit.log"))
    assert main(["--data-dir", str(tmp_path), "audit"]) == 1
    assert "there is no audit log in" in capsys.readouterr().err
    assert main(["--data-dir", str(tmp_path), "audit", "--since", "yesterday"]) == 2

"""A cluster of the commit before is upgraded to this one, manager by manager, while it is used."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from hosts import SLEEP, Host, Hosts, in_process, until
from versions import MARK, TESTED, Previous, previous_version

from swarmpy.cli.client import ApiClient
from swarmpy.errors import AlreadyExists, NotFound, SwarmpyError
from swarmpy.model import codec

PAUSE_S = 0.03
"""Between two writes of the client."""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Previous:
    """The code to be upgraded from."""
    return previous_version(tmp_path_factory.mktemp("code"))


class Client:
    """Writes services through one manager after the other, reads each through the next one, and keeps count."""

    def __init__(self, sockets: list[Path]) -> None:
        self._clients = [ApiClient(socket) for socket in sockets]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.written: list[str] = []
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            name = f"w{number}"
            if await self._write(name, number):
                self.written.append(name)
                await self._read(name, number + 1)
            await asyncio.sleep(PAUSE_S)

    async def _write(self, name: str, number: int) -> bool:
        body = {
            "Name": name,
            "TaskTemplate": {"ContainerSpec": {"Image": "none"}},
            "Mode": {"Replicated": {"Replicas": 0}},
        }
        for client in self._from(number):
            try:
                await client.post("/services/create", body, timeout=15)
                return True
            except AlreadyExists:
                return True  # the first try did it, and its answer was lost with the manager
            except SwarmpyError:
                continue
        return False

    async def _read(self, name: str, number: int) -> None:
        for client in self._from(number):
            try:
                await client.get(f"/services/{name}", timeout=15)
                return
            except NotFound:
                self.wrong.append(f"{name} was written and is not there")
                return
            except SwarmpyError:
                continue

    def _from(self, number: int) -> Iterator[ApiClient]:
        for offset in range(len(self._clients)):
            yield self._clients[(number + offset) % len(self._clients)]


def version(host: Host) -> str:
    """What the daemon says that it is."""
    found: str = host.api("/version")["Version"]
    return found


def raft(host: Host) -> dict[str, Any]:
    """The consensus as the daemon tells it."""
    found: dict[str, Any] = host.api("/status/raft")
    return found


def leader_of(managers: list[Host]) -> Host:
    """Who leads."""

    def known() -> Host | None:
        leading = [m for m in managers if m.is_up and (raft(m)["role"], raft(m)["note"]) == ("leader", "")]
        return leading[0] if len(leading) == 1 else None

    found: Host = until(known, "a leader")
    return found


def tasks(host: Host) -> dict[str, int]:
    """The tasks that run, with their processes."""
    found = host.api("/tasks", service="pets_web", **{"desired-state": "running"})
    return {t["ID"]: t["Status"]["ContainerStatus"]["PID"] for t in found if t["Status"]["State"] == "running"}


def keep_few_entries(host: Host) -> None:
    """Snapshots often, and hardly any entries behind them: who was away for a moment needs a snapshot.

    A leader is given time, too: on a busy machine none must lose its office before it is meant to.
    """
    host.does("swarm", "update", "--heartbeat-interval", "150ms", "--election-timeout", "1500ms")

    async def update() -> None:
        async with ApiClient(host.data_dir / "swarmpy.sock") as client:
            swarm = await client.get("/swarm")
            swarm["Spec"]["Raft"] |= {"SnapshotInterval": 20, "LogEntriesForSlowFollowers": 1}
            query = {"version": str(swarm["Version"]["Index"])}
            await client.post("/swarm/update", swarm["Spec"], query=query)

    asyncio.run(update())


def fed(leader: Host, host: Host) -> str:
    """How the leader feeds a manager: ``probe``, ``replicate`` or ``snapshot``."""
    found: list[str] = [member["state"] for member in raft(leader)["members"] if member["hostname"] == host.name]
    return found[0]


def first_index(host: Host) -> int:
    """The first entry that a manager's log still has.

    Versions that do not tell have forgotten what is before the snapshot, but for the one entry that they keep, unless
    they are sending one.
    """
    report = raft(host)
    found: int = report.get("first_index", report["snapshot"]["index"])
    return found


def restart(hosts: Hosts, host: Host, code: Path, others: list[Host]) -> Host:
    """Stop a manager, and start it with ``code`` when the others no longer have the entries that it misses."""
    if host.is_up:
        host.kill(signal.SIGTERM)
    # What the leader sent before it noticed may wait for the connection, and still arrive. Nothing is added to that.
    until(lambda: fed(leader_of(others), host) == "probe", f"{host.name} is missed")
    missed = raft(leader_of(others))["last_index"]
    # The others' logs, too: any of them may lead by the time it is back.
    until(lambda: min(map(first_index, others)) > missed + 1, "nobody has the entries any more")
    back = hosts.running(host, code)
    back.resume()
    until(lambda: leader_of(others).nodes()[host.name] == ("ready", "reachable"), f"{host.name} is back")
    until(lambda: "event=raft_snapshot_installed" in back.log, f"{host.name} got a snapshot")
    assert version(back).endswith(MARK) == (code != TESTED)
    return back


class Job:
    """A job whose tasks, one after the other, leave a line each."""

    completions = 25

    def __init__(self, host: Host, file: Path, schema: int) -> None:
        self._file = file
        self.is_known = schema >= codec.SECRETS_VERSION
        """Older versions have no jobs."""
        if self.is_known:
            asyncio.run(self._create(host))

    async def _create(self, host: Host) -> None:
        args = ["sh", "-c", f"sleep 0.4; echo done >> {self._file}"]
        body = {
            "Name": "job",
            "TaskTemplate": {"ContainerSpec": {"Image": "none", "Args": args}},
            "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": self.completions}},
        }
        async with ApiClient(host.data_dir / "swarmpy.sock") as client:
            await client.post("/services/create", body)

    def check(self, host: Host) -> None:
        """It completes, and has run exactly as often as it was asked to."""
        if not self.is_known:
            return

        def completed() -> bool:
            found = host.api("/tasks", service="job")
            return sum(task["Status"]["State"] == "complete" for task in found) == self.completions

        until(completed, "the job has completed")
        assert self._file.read_text() == "done\n" * self.completions
        assert len(host.api("/tasks", service="job")) == self.completions


def test_upgrade(hosts: Hosts, tmp_path: Path, previous: Previous) -> None:
    """Followers first, the leader last. Nothing that was written is lost, no task notices, and every log is sound.

    A job that goes on meanwhile runs no task twice.
    """
    *managers, worker = hosts.cluster(3, 1, previous.code)
    assert {version(host)[-len(MARK) :] for host in (*managers, worker)} == {MARK}
    for host in managers:
        managers[0].does("node", "update", "--availability", "drain", host.name)
    keep_few_entries(managers[0])
    file = tmp_path / "pets.yml"
    file.write_text(SLEEP.format(replicas=2, version="1"))
    managers[0].does("stack", "deploy", "-c", file, "pets")
    before = until(lambda: found if len(found := tasks(managers[0])) == 2 else None, "two tasks")
    job = Job(managers[0], tmp_path / "job.txt", previous.schema)

    with Client([host.data_dir / "swarmpy.sock" for host in managers]) as client:
        leader = leader_of(managers)
        followers = [host for host in managers if host is not leader]
        for number, host in enumerate(followers):
            others = [leader, *(other for other in followers if other is not host)]
            followers[number] = restart(hosts, host, TESTED, others)
        # Until all are upgraded, one may go back.
        for code in (previous.code, TESTED):
            followers[0] = restart(hosts, followers[0], code, [leader, followers[1]])
        assert leader.is_up
        assert leader_of([leader, *followers]) is leader, "an older manager leads two newer ones"

        leader.kill(signal.SIGTERM)
        leader = restart(hosts, leader, previous.code, followers)
        first = leader_of([leader, *followers])
        assert first in followers, "a newer manager leads an older one"
        if previous.schema < codec.SCHEMA_VERSION:
            until(lambda: "event=schema_held_back" in first.log, "the leader knows that one is older")
            assert leader.is_up
        assert raft(first)["schema"]["written"] <= previous.schema
        assert tasks(first) == before

        leader = restart(hosts, leader, TESTED, followers)
        managers = [leader, *followers]
        until(lambda: {raft(m)["schema"]["written"] for m in managers} == {codec.SCHEMA_VERSION}, "all is new")
        count = len(client.written)
        until(lambda: len(client.written) > count + 20, "writes go on")
    assert client.wrong == []
    assert len(client.written) > 100
    for host in managers:
        assert set(client.written) <= {service["Spec"]["Name"] for service in host.api("/services")}
        assert tasks(host) == before

    job.check(managers[0])
    worker.kill(signal.SIGTERM)
    worker = hosts.running(worker, TESTED)
    worker.resume()
    until(lambda: len(tasks(managers[0])) == 2, "the worker of this version runs the tasks")
    assert not version(worker).endswith(MARK)
    for host in managers:
        host.kill(signal.SIGTERM)
        assert host.ring is not None, "what is on its disk is sealed now"
        files = [path for path in host.data_dir.rglob("*") if path.is_file()]
        assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()], "nor is anything left of before"
        verified = in_process("raft", "verify", host.data_dir)
        assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, "verdict: sound")

    if previous.schema < codec.SCHEMA_VERSION:
        old = hosts.running(managers[0], previous.code)
        old._start("node", "run", *old.own)
        until(lambda: not old.is_up, "the older version does not go on from a newer log")
        assert old._started[-1].wait(timeout=1) == 78
        words = (f"schema version {codec.SCHEMA_VERSION}", "was written by a newer swarmpy")
        assert any(word in old.log.splitlines()[-1] for word in words)


def test_an_older_manager_cannot_join_a_newer_cluster(hosts: Hosts, previous: Previous) -> None:
    """It is told to be upgraded; as a worker it is welcome, and a promotion waits for its upgrade."""
    first = hosts.new()
    first.init()
    if previous.schema >= codec.SCHEMA_VERSION:
        # Nothing but the version is different: it may.
        other = hosts.new(previous.code)
        other.join(first, "manager")
        return
    other = hosts.new(previous.code)
    join = ["node", "join", "--listen-addr", other.cluster_address, *other.own, first.cluster_address, "--token"]
    other._start(*join, first.token("manager"))
    until(lambda: not other.is_up, "it is not let in")
    assert "too old to be a manager" in other.log.splitlines()[-1]
    other.join(first)
    first.does("node", "promote", other.name)
    until(lambda: "too old to be a manager" in other.log, "it hears why it is none")
    assert [m["hostname"] for m in raft(first)["members"]] == [first.name]
    other.kill(signal.SIGTERM)
    other = hosts.running(other, TESTED)
    other.resume()
    until(lambda: first.nodes()[other.name] == ("ready", "reachable"), "it is a manager now")

"""The data directory of a manager that was stopped, with every kind of secret in its log, and ways to damage it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import attrs

from swarmpy.model import codec
from swarmpy.model.changes import Change, ChangeList, create, update
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId, ServiceId, TaskId
from swarmpy.model.objects import Cluster, JoinTokens, Node, NodeDescription, RootCA, Service, Task
from swarmpy.model.specs import ContainerSpec, ServiceSpec, TaskSpec
from swarmpy.node.clock import SystemClock
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.raft.encoding import encode_conf_change
from swarmpy.raft.messages import ConfChange, ConfChangeKind, ConfState, Entry, EntryKind, HardState, Member, Snapshot
from swarmpy.raft.storage import bootstrap
from swarmpy.store.memory import Store
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_rows import entry_checksum

SECRETS = ("SWMTKN-1-sesame", "PRIVATE KEY", "hunter2", "label-secret", "argument-secret")
ME = Member(raft_id=1, node_id="node1", address="10.0.0.1:2377")
OTHER = Member(raft_id=2, node_id="node2", address="10.0.0.2:2377")
CLUSTER = Cluster(
    id=ClusterId("thecluster"),
    root_ca=RootCA(cert_pem=b"cert", key_pem=b"-----BEGIN PRIVATE KEY-----", cert_digest="digest"),
    join_tokens=JoinTokens(worker="SWMTKN-1-sesame-w", manager="SWMTKN-1-sesame-m"),
)
TASK_SPEC = TaskSpec(
    container=ContainerSpec(
        image="web", env=("PASSWORD=hunter2",), labels={"key": "label-secret"}, args=("--token", "argument-secret")
    )
)
SERVICE = Service(id=ServiceId("service1"), spec=ServiceSpec(name="web", task=TASK_SPEC))
SCALED = attrs.evolve(SERVICE, spec=attrs.evolve(SERVICE.spec, replicas=3))
REFILLED = attrs.evolve(
    SCALED,
    spec=attrs.evolve(
        SCALED.spec,
        task=attrs.evolve(TASK_SPEC, container=attrs.evolve(TASK_SPEC.container, env=("PASSWORD=hunter2, still",))),
    ),
)
TASK = Task(id=TaskId("task1"), spec=TASK_SPEC, service_id=SERVICE.id, service_name="web", slot=1)


def data_of(*changes: Change) -> bytes:
    """The data of an entry."""
    return codec.encode(ChangeList(changes=changes))


def entries() -> list[Entry]:
    """A log after the first snapshot, 2..9."""
    joins = ConfChange(kind=ConfChangeKind.ADD_LEARNER, member=OTHER)
    votes = ConfChange(kind=ConfChangeKind.PROMOTE, member=OTHER)
    node = Node(id=NodeId("node1"), description=NodeDescription(hostname="alpha"))
    content = (
        (1, EntryKind.NORMAL, b""),
        (1, EntryKind.NORMAL, data_of(create(CLUSTER), create(node))),
        (1, EntryKind.CONF_CHANGE, encode_conf_change(joins)),
        (1, EntryKind.CONF_CHANGE, encode_conf_change(votes)),
        (2, EntryKind.NORMAL, data_of(create(SERVICE))),
        (2, EntryKind.NORMAL, data_of(create(TASK), update(SCALED))),
        (2, EntryKind.NORMAL, data_of(update(REFILLED))),
        (3, EntryKind.NORMAL, b""),
    )
    return [Entry(index=i, term=term, kind=kind, data=data) for i, (term, kind, data) in enumerate(content, start=2)]


@attrs.frozen
class StoppedManager:
    """One data directory."""

    path: Path

    @property
    def raft(self) -> Path:
        """The log's directory."""
        return self.path / "raft"

    async def fill(self, *, snapshot_at: int = 0, state_at: int = 0, keep_from: int = 0, killed: bool = False) -> None:
        """Write it as a daemon does; with a snapshot at that index, and entries kept from another one on.

        ``state_at``: put the state after this entry into the snapshot, instead of what belongs there.
        ``killed``: as it is when the daemon never came to close its log, so that all is in the write-ahead log.
        """
        data = DataDir(self.path)
        data.open()
        state = NodeState(
            cluster_id=CLUSTER.id,
            node_id=NodeId("node1"),
            raft_id=1,
            listen_address="0.0.0.0:2377",
            advertise_address=ME.address,
            runtime="process",
            raft=RaftConfig(),
        )
        data.claim_raft(state)
        data.save(state)
        log = SqliteLog(data.raft)
        await bootstrap(log, ME)
        await log.append(HardState(term=3, vote=2, commit=8), entries())
        if snapshot_at:
            snapshot = attrs.evolve(
                await snapshot_of(snapshot_at), data=(await snapshot_of(state_at or snapshot_at)).data
            )
            await log.save_snapshot(snapshot, keep_from)
        if killed:
            shutil.copytree(data.raft, self.path / "killed")
        await log.close()
        if killed:
            shutil.rmtree(data.raft)
            (self.path / "killed").rename(data.raft)
        data.close()

    def sql(self, statement: str, *values: object) -> None:
        """Damage the database."""
        with closing(sqlite3.connect(self.raft / "raft.db", isolation_level=None)) as db:
            assert db.execute(statement, values).rowcount == 1

    def rewrite(self, index: int, *, term: int, data: bytes, kind: int = 0) -> None:
        """Replace an entry by another one that is whole."""
        checksum = entry_checksum(index, term, kind, data)
        self.sql(
            "UPDATE entries SET term = ?, kind = ?, data = ?, crc = ? WHERE idx = ?", term, kind, data, checksum, index
        )

    @property
    def snapshot_file(self) -> Path:
        """The newest snapshot."""
        (found,) = self.raft.glob("*.snap")
        return found

    def prints(self) -> dict[str, tuple[object, ...]]:
        """Everything that a change of the directory would show in."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted([self.path, *self.path.rglob("*")]):
            stat = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            found[str(path)] = (digest, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode, stat.st_nlink, stat.st_ino)
        return found


async def snapshot_of(index: int) -> Snapshot:
    """The state after the entry ``index``."""
    store = Store(SystemClock())
    for entry in entries():
        # As a member does it: the store never hears of the entries of Raft itself.
        if entry.index <= index and entry.kind is EntryKind.NORMAL and entry.data:
            store.apply(entry.index, entry.data)
    term = next(entry.term for entry in entries() if entry.index == index)
    return Snapshot(index=index, term=term, conf=ConfState(voters=(ME, OTHER)), data=await store.snapshot())


def json_lines(text: str) -> list[dict[str, object]]:
    """One object a line."""
    return [json.loads(line) for line in text.splitlines()]

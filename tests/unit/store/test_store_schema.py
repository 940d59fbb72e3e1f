"""What is written in which schema version, and what of another version does to a manager."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from store_world import cluster, config, node, secret, service, task, with_references

from swarmpy.errors import DataDirMismatch, FailedPrecondition, ProtocolViolation
from swarmpy.model import changes, codec, objects
from swarmpy.model.changes import ChangeList
from swarmpy.model.cluster_spec import ClusterSpec, RaftConfig
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import (
    Certificate,
    ClientCertificate,
    FormerRoot,
    JobStatus,
    NodeDescription,
    Plugin,
    RootRotation,
)
from swarmpy.model.patches import TaskPatch
from swarmpy.model.privileges import Privileges
from swarmpy.model.requests import Answered, RequestId
from swarmpy.model.specs import (
    ContainerSpec,
    GenericResource,
    Healthcheck,
    MaxUnavailable,
    Mount,
    Placement,
    Platform,
    ResourceRequirements,
    Resources,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import ApiRole, Cause, Role
from swarmpy.node.clock import SystemClock
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import ConfState, HardState, Member, Message, MessageType, Snapshot
from swarmpy.raft.storage import BOOTSTRAP_INDEX, MemoryStorage
from swarmpy.store.memory import Store
from swarmpy.store.schema import check_reader, check_writable, version_of
from swarmpy.store.snapshot import decode_snapshot

FIELDS = Path(__file__).with_name("stored_fields.json")
GATE = codec.GATE_VERSION


ROTATION = RootRotation(root=cluster(4).root_ca, cross_signed_pem=b"", started_at_ns=1)
FORMER = FormerRoot(cert_pem=b"", cross_signed_pem=b"", until_ns=1)
CERTIFICATE = Certificate(serial="1f", role=Role.WORKER, issuer="", not_after_ns=1)
CLIENT = ClientCertificate(name="a", role=ApiRole.VIEWER, issued_at_ns=1, not_after_ns=2)
REFERRING = ServiceSpec(name="web", task=with_references(service("web").spec.task, secrets=("x",)))
BOUNDED = ServiceSpec(name="web", max_unavailable=MaxUnavailable(amount=1))
WITH_DEADLINE = ServiceSpec(name="web", rollback=UpdateConfig(progress_deadline_ns=1))
GENERIC = Resources(generic=(GenericResource(kind="gpu", count=1),))
PLACED = ServiceSpec(name="web", task=TaskSpec(placement=Placement(platforms=(Platform(),))))
RESERVING = TaskSpec(resources=ResourceRequirements(reservations=GENERIC))
PRIVILEGED = TaskSpec(container=ContainerSpec(privileges=Privileges(no_new_privileges=True)))
STARTING = TaskSpec(container=ContainerSpec(healthcheck=Healthcheck(start_interval_ns=1)))
MOUNTING = TaskSpec(container=ContainerSpec(mounts=(Mount(), Mount(volume_subpath="a"))))
ANSWERED = Answered(request=RequestId(session="s", sequence=1), answer=b"\xc0", time_ns=1)


SINCE_ONE = {
    "type", "source", "target", "read_only", "bind_propagation", "volume_no_copy", "volume_labels", "volume_driver",
    "volume_driver_opts", "tmpfs_size_bytes", "tmpfs_mode",
}  # fmt: skip


def _described(**description: Any) -> objects.Node:
    return attrs.evolve(node("n"), description=NodeDescription(**description))


AWAY = attrs.evolve(node("n"), status=objects.NodeStatus(engine_away=True))
LEAVING = attrs.evolve(node("n"), status=objects.NodeStatus(leaving=True))


def _of(spec: TaskSpec) -> ServiceSpec:
    return ServiceSpec(name="web", task=spec)


@pytest.mark.parametrize("name", [f.name for f in attrs.fields(Mount) if f.name not in SINCE_ONE])
def test_each_new_option_of_a_mount_needs_version_eight(name: str) -> None:
    """Also those that say the same as nothing to the engine."""
    mount = attrs.evolve(Mount(), **{name: "cached" if name in ("consistency", "volume_subpath") else True})
    spec = TaskSpec(container=ContainerSpec(mounts=(mount,)))
    assert version_of(ChangeList(changes=(changes.create(attrs.evolve(task("t", "id-web"), spec=spec)),))) == 8


@pytest.mark.parametrize(
    ("entry", "version"),
    [
        (ChangeList(changes=(changes.create(node("n")),)), 1),
        (ChangeList(changes=(changes.create(cluster(2)),)), 1),
        (ChangeList(changes=(changes.create(node("n")),), answered=ANSWERED), 2),
        (ChangeList(changes=(changes.create(cluster(3)),)), 3),
        (ChangeList(changes=(changes.update(attrs.evolve(cluster(3), revoked={"1f": 5})),)), 4),
        (ChangeList(changes=(changes.update(attrs.evolve(cluster(3), former_roots=(FORMER,))),)), 4),
        (ChangeList(changes=(changes.update(attrs.evolve(cluster(5), rotation=ROTATION)),)), 5),
        (ChangeList(changes=(changes.create(attrs.evolve(node("n"), certificate=CERTIFICATE)),)), 4),
        (ChangeList(changes=(changes.update(attrs.evolve(cluster(3), clients={"1f": CLIENT})),)), 6),
        (ChangeList(changes=(changes.update(attrs.evolve(cluster(3), spec=ClusterSpec(autolock_managers=True))),)), 7),
        (ChangeList(changes=(changes.update(attrs.evolve(cluster(3), unlock_key_number=1)),)), 7),
        (ChangeList(changes=(changes.update(cluster(5)), changes.create(node("n"))), answered=ANSWERED), 5),
        (ChangeList(changes=(changes.create(secret("x", "a")),)), 7),
        (ChangeList(changes=(changes.create(config("c", "a")),)), 7),
        (ChangeList(changes=(changes.create(service("web")), changes.create(task("t", "id-web")))), 1),
        (ChangeList(changes=(changes.create(attrs.evolve(service("web"), spec=REFERRING)),)), 7),
        (ChangeList(changes=(changes.update(attrs.evolve(service("web"), previous_spec=REFERRING)),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(task("t", "id-web"), spec=REFERRING.task)),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(service("web"), job=JobStatus())),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(service("web"), spec=WITH_DEADLINE)),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(service("web"), spec=BOUNDED)),)), 8),
        (ChangeList(changes=(changes.update(attrs.evolve(service("web"), previous_spec=BOUNDED)),)), 8),
        (ChangeList(changes=(changes.create(attrs.evolve(task("t", "id-web"), iteration=0)),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(service("web"), spec=PLACED)),)), 7),
        (ChangeList(changes=(changes.update(attrs.evolve(service("web"), previous_spec=PLACED)),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(task("t", "id-web"), spec=RESERVING)),)), 7),
        (ChangeList(changes=(changes.update(attrs.evolve(task("t", "id-web"), generic=GENERIC.generic)),)), 7),
        (ChangeList(changes=(changes.create(attrs.evolve(service("web"), spec=_of(PRIVILEGED))),)), 8),
        (ChangeList(changes=(changes.update(attrs.evolve(service("web"), previous_spec=_of(STARTING))),)), 8),
        (ChangeList(changes=(changes.create(attrs.evolve(task("t", "id-web"), spec=MOUNTING)),)), 8),
        (ChangeList(changes=(changes.update(attrs.evolve(task("t", "id-web"), cause=Cause.DRAIN)),)), 8),
        (ChangeList(changes=(changes.update(attrs.evolve(task("t", "id-web"), story=b"\x00\x00")),)), 8),
        (ChangeList(changes=(changes.update(_described(resources=GENERIC)),)), 7),
        (ChangeList(changes=(), patches=(TaskPatch(ids=(TaskId("t"),)),)), 8),
        (ChangeList(changes=(changes.update(_described(plugins=(Plugin(type="log", name="gelf"),))),)), 7),
        (ChangeList(changes=(changes.update(AWAY),)), 8),
        (ChangeList(changes=(changes.update(LEAVING),)), 8),
    ],
)
def test_an_entry_is_of_the_least_version_that_its_reader_needs(entry: ChangeList, version: int) -> None:
    """So that managers of older versions go on as long as they can."""
    assert version_of(entry) == version


def test_nothing_is_written_that_not_all_managers_read() -> None:
    """But for what they always read, and the entry that raises the version itself."""
    entry = ChangeList(changes=(changes.create(node("n")),))
    raising = ChangeList(changes=(changes.update(cluster(4)),))
    check_writable(2, entry, ())
    check_writable(4, entry, (cluster(4),))
    check_writable(4, raising, (cluster(2),))
    for version, written in ((3, ()), (4, (cluster(3),))):
        with pytest.raises(FailedPrecondition, match=f"needs schema version {version}, and not all managers read more"):
            check_writable(version, entry, written)


def test_who_reads_less_cannot_be_a_manager() -> None:
    """Of a cluster that writes more."""
    check_reader(3, cluster(3))
    with pytest.raises(FailedPrecondition, match=r"reads schema versions up to 2, and .* write version 3"):
        check_reader(2, cluster(3))


async def test_a_snapshot_is_of_the_version_that_the_cluster_writes() -> None:
    """A manager of an older version must not take it and lose what it does not know."""
    for schema, version in ((codec.BASE_VERSION, codec.FIRST_VERSION), (GATE, GATE)):
        store = Store(SystemClock())
        entry = ChangeList(changes=(changes.create(cluster(schema)),))
        store.apply(1, codec.encode(entry, version_of(entry)))
        data = await store.snapshot()
        assert data[0] == version
        layer, _, _ = await decode_snapshot(data)
        assert [c.schema for c in layer.clusters.objects.values() if c is not None] == [schema]


def test_an_entry_of_another_version_is_not_applied() -> None:
    """It is named with its index; neither it nor what follows is applied."""
    store = Store(SystemClock())
    data = codec.encode(ChangeList(changes=(changes.create(node("n")),)))
    with pytest.raises(DataDirMismatch, match=r"entry 5 of the raft log has schema version 9, .* upgrade it"):
        store.apply(5, b"\x09" + data[1:])
    with pytest.raises(ProtocolViolation, match="entry 5 of the raft log has no schema version"):
        store.apply(5, b"\x00" + data[1:])
    assert (store.version, store.view().nodes()) == (0, ())


class _Silent:
    """Implements ``RaftTransport``."""

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        """Nobody is there."""


async def test_a_snapshot_of_a_newer_leader_stops_a_manager() -> None:
    """It ends with what to do. What it had stays as it was for a version that reads the snapshot."""
    members = tuple(Member(raft_id=i, node_id=f"n{i}", address=f"10.0.0.{i}:2377") for i in (1, 2, 3))
    conf = ConfState(voters=members)
    storage, store = MemoryStorage(), Store(SystemClock())
    await storage.save_snapshot(Snapshot(index=BOOTSTRAP_INDEX, term=1, conf=conf), 2)
    await storage.append(HardState(term=1, commit=BOOTSTRAP_INDEX), ())
    driver = RaftDriver(
        raft_id=1,
        storage=storage,
        transport=_Silent(),
        state_machine=store,
        random=random.Random(1),
        config=RaftConfig(),
    )
    running = asyncio.create_task(driver.run())
    while not driver.is_loaded:
        await asyncio.sleep(0)
    data = bytes([codec.SCHEMA_VERSION + 1]) + (await Store(SystemClock()).snapshot())[1:]
    driver.receive(
        Message(
            type=MessageType.SNAPSHOT,
            to=1,
            source=2,
            term=5,
            index=50,
            snapshot=Snapshot(index=50, term=5, conf=conf, data=data),
            total=len(data),
            digest=hashlib.sha256(data).digest(),
        )
    )
    newer = rf"the snapshot has schema version {codec.SCHEMA_VERSION + 1}, .* upgrade it"
    async with asyncio.timeout(20):
        with pytest.raises(DataDirMismatch, match=newer):
            await running
    assert store.version == 0


def _stored_fields() -> dict[str, list[str]]:
    """The fields of everything that is replicated, and the values of its enumerations, by class."""
    found: dict[str, list[str]] = {}
    waiting: list[type] = [ChangeList, *objects.KIND_CLASSES.values()]
    while waiting:
        cls = waiting.pop()
        if cls.__name__ in found:
            continue
        if issubclass(cls, enum.Enum):
            found[cls.__name__] = [str(value.value) for value in cls]
            continue
        attrs.resolve_types(cls)
        found[cls.__name__] = [field.name for field in attrs.fields(cls)]
        for field in attrs.fields(cls):
            waiting += _classes_in(field.type)
    return dict(sorted(found.items()))


def _classes_in(annotation: object) -> list[type]:
    if isinstance(annotation, type) and (attrs.has(annotation) or issubclass(annotation, enum.Enum)):
        return [annotation]
    return [cls for inner in getattr(annotation, "__args__", ()) for cls in _classes_in(inner)]


def test_new_fields_come_with_a_new_version() -> None:
    """Managers of the version before stop at a field that they do not know: it must not be written while there are any.

    After a change that is meant: raise codec.SCHEMA_VERSION, have ``version_needed`` ask for it where the field is
    used, and write ``stored_fields.json`` anew with what this test shows.
    """
    recorded = json.loads(FIELDS.read_text())
    now = {"schema_version": codec.SCHEMA_VERSION, "fields": _stored_fields()}
    assert recorded == now, json.dumps(now, indent=2)

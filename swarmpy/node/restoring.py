"""A cluster brought back from a backup: the file checked whole, then this machine as its only manager."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs

from swarmpy.api.backend import RestoreRequest
from swarmpy.errors import FailedPrecondition, InvalidArgument, InvariantViolation, LogCorrupted, NotFound, SwarmpyError
from swarmpy.manager.certificates import described
from swarmpy.model.grammar import shown
from swarmpy.model.ids import NodeId, encode_id
from swarmpy.model.objects import Cluster, Node, NodeDescription
from swarmpy.model.states import Role
from swarmpy.node import addresses
from swarmpy.node.config import NodeConfig
from swarmpy.node.datadir import DataDir, NodeState
from swarmpy.node.entering import Entry, runtime_for
from swarmpy.node.manager_half import new_raft_id
from swarmpy.node.renewal import taken_over
from swarmpy.ports import Clock, Dialer, Random
from swarmpy.raft.messages import ConfState, Member, Snapshot
from swarmpy.security import ca, roots
from swarmpy.security.files import open_regular
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.sealed_stream import about_backup, opened_stream
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.tls import client_context
from swarmpy.store.backup import Header, Reader
from swarmpy.store.memory import Store
from swarmpy.wire.rpc import RpcDialer

T = TypeVar("T")
READ_BYTES = 1 << 20
PROBE_TIMEOUT_S = 2.0
PROBES = 16
"""Managers asked at a time."""


@attrs.frozen
class Backup:
    """A backup that was read, checked and decoded. Never printed: it holds the secrets of its cluster."""

    header: Header
    store: Store

    @property
    def cluster(self) -> Cluster:
        """The cluster it is of."""
        return self.store.view().cluster()


async def by_restoring(
    request: RestoreRequest, config: NodeConfig, data: DataDir, clock: Clock, random: Random
) -> Entry:
    """As the only manager of the cluster in a backup; nothing is written down here.

    Raises as :func:`read_backup`, :func:`check_nobody_answers` and :func:`runtime_for`; InvalidArgument for addresses.
    """
    backup = await asyncio.to_thread(read_backup, Path(request.file), clock, request.unlock_key)
    listen, advertise = await asyncio.to_thread(addresses.choose, request.listen_addr, request.advertise_addr, "")
    node_id = NodeId(encode_id(random.randbytes(16)))
    identity = identity_for(backup, node_id, clock)
    if not request.force:
        await check_nobody_answers(backup, identity)
    runtime = await runtime_for(config, data, node_id, advertise)
    state = NodeState(
        cluster_id=backup.cluster.id,
        node_id=node_id,
        raft_id=new_raft_id(random),
        listen_address=listen,
        advertise_address=advertise,
        runtime=runtime.name,
        raft=backup.cluster.spec.raft,
    )
    snapshot = await first_snapshot(backup, state, identity, hostname=config.hostname, clock=clock)
    return Entry(state=state, identity=identity, runtime=runtime, first_snapshot=snapshot, begins=backup.cluster)


def read_backup(path: Path, clock: Clock, unlock_key: UnlockKey | None = None) -> Backup:
    """The backup in a file, all of it checked, opened with ``unlock_key`` if it is sealed. Blocks.

    Raises InvalidArgument when it cannot be read, LogCorrupted when it is damaged, cut short or something else,
    DataDirMismatch when a newer swarmpy made it, FailedPrecondition when it needs a key, WrongUnlockKey when it needs
    another one. Each names the file.
    """
    return _reading(path, lambda: _read(path, clock, unlock_key))


def read_header(path: Path) -> Header:
    """What a backup says of itself, after its checksum was checked. Blocks. Raises as :func:`read_backup`."""
    return _reading(path, lambda: _stored(path)[0])


def _reading(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        # Python's word for a path that no file can have.
        raise InvalidArgument(f"cannot read {shown(str(path))}: {error}") from error
    except SwarmpyError as error:
        # What a decoder says may quote what it decodes, and there are secrets in it.
        raise type(error)(f"{path}: {error}") from None


def _stored(path: Path) -> tuple[Header, bytes]:
    reader = Reader()
    payload = bytearray()
    with open(path, "rb", opener=open_regular) as file:
        while data := file.read(READ_BYTES):
            for piece in reader.feed(data):
                payload += piece
    return reader.finish(), bytes(payload)


def _read(path: Path, clock: Clock, unlock_key: UnlockKey | None) -> Backup:
    header, payload = _stored(path)
    if header.sealed and unlock_key is None:
        raise FailedPrecondition("it is sealed: the unlock key that its cluster had when it was taken is needed")
    if header.sealed and unlock_key is not None:
        payload = opened_stream(unlock_key, about_backup(header), payload)
    store = Store(clock)
    try:
        store.restore_at_once(payload)
        store.view().cluster()
    except (LogCorrupted, NotFound, InvariantViolation):
        raise LogCorrupted("the state in the backup cannot be read, though its checksum is right") from None
    return Backup(header, store)


def identity_for(backup: Backup, node_id: NodeId, clock: Clock) -> NodeIdentity:
    """A manager's certificate for a new node, made with the key of the CA in the backup. Raises BadCertificate."""
    key_pem, csr_pem = new_key_and_csr()
    cluster = backup.cluster
    cert_pem = ca.issue(
        roots.signing_root(cluster),
        csr_pem,
        node_id=node_id,
        role=Role.MANAGER,
        cluster_id=cluster.id,
        number=1,
        expiry_ns=cluster.spec.node_cert_expiry_ns,
        now_ns=clock.time_ns(),
    )
    return NodeIdentity.from_pem(
        cert_pem=cert_pem,
        key_pem=key_pem,
        ca_pem=roots.joined(roots.trusted_pem(cluster)),
        chain_pem=roots.joined(roots.chain(cluster)),
    )


def addresses_of(backup: Backup) -> tuple[str, ...]:
    """Where the managers of the backup's cluster listened."""
    known = [node.manager.address for node in backup.store.view().nodes() if node.manager is not None]
    return tuple(dict.fromkeys([*known, *(manager.address for manager in backup.header.managers)]))


async def check_nobody_answers(backup: Backup, identity: NodeIdentity) -> None:
    """Raises FailedPrecondition when a manager of the backup's cluster is there: it would be superseded."""
    dialer = RpcDialer(client_context(identity), identity.cluster_id)
    turns = asyncio.Semaphore(PROBES)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_answers(dialer, address, turns)) for address in addresses_of(backup)]
    answering = [address for task in asked if (address := task.result())]
    if answering:
        raise FailedPrecondition(
            f"the cluster of this backup is there: its manager at {answering[0]} answers. To add this machine to it, "
            'join it; where only the quorum is lost, "swarm init --force-new-cluster" on that manager keeps more than '
            "this backup has. If the backup is to count nevertheless, stop those managers first, or give --force"
        )


async def _answers(dialer: Dialer, address: str, turns: asyncio.Semaphore) -> str:
    async with turns:
        try:
            channel = await dialer.dial(address, timeout=PROBE_TIMEOUT_S)
        except SwarmpyError:
            return ""
        await channel.close()
        return address


async def first_snapshot(
    backup: Backup, state: NodeState, identity: NodeIdentity, *, hostname: str, clock: Clock
) -> Snapshot:
    """What the log of the restored cluster's only manager, ``state``, begins with."""
    me = Member(raft_id=state.raft_id, node_id=state.node_id, address=state.advertise_address)
    last = max(backup.header.index, backup.store.version), backup.header.term
    conf = ConfState(voters=(me,))
    node = Node(
        id=state.node_id,
        description=NodeDescription(hostname=hostname),
        certificate=described(identity.cert_pem, roots.signing_root(backup.cluster)),
    )
    return await taken_over(backup.store, conf, me, last=last, new=node, clock=clock)

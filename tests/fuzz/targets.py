"""What is fuzzed: each target takes any bytes, and raises for what must never happen.

Refusals by type are what should happen. Everything else that comes out (another error, a defect in the log, a changed
state, a connection that is left over) is a finding.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import structlog

from swarmpy.errors import ConnectionFailed, ProtocolViolation, SwarmpyError
from swarmpy.manager.manager import Manager
from swarmpy.model import codec
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster, Node, NodeStatus
from swarmpy.model.states import NodeState, Role
from swarmpy.node.clock import SystemClock
from swarmpy.ports import Channel, Peer
from swarmpy.raft.core import RaftCore
from swarmpy.raft.encoding import decode_messages, encode_messages
from swarmpy.raft.messages import ConfState, Entry, HardState, Member, Message, MessageType, Snapshot
from swarmpy.raft.state import Timing
from swarmpy.raft.storage import MemoryStorage, bootstrap
from swarmpy.security import ca, tokens
from swarmpy.wire.bounded_log import BoundedLog
from swarmpy.wire.frames import OLDEST_VERSION, PROTOCOL_VERSION, Decoder, Kind, encode
from swarmpy.wire.router import MethodKind, Router
from swarmpy.wire.serving import ServerConfig, ServerConnection

Target = Callable[[bytes], None]

HELLO = encode(Kind.HELLO, PROTOCOL_VERSION, OLDEST_VERSION)
DEFECTS = ("handler_failed", "connection_failed_unexpectedly", "leadership_failed")
ROLES = (None, Role.WORKER, Role.MANAGER)
NOT_ASKED = ("raft.leave", "raft.messages")
"""The first acts whatever its payload is; what well formed messages of managers do is for the target ``raft``."""
MAX_STEPS = 200
"""Turns of the loop after which a request must be over."""


class Finding(AssertionError):
    """Something that must never happen."""


def _noted(_logger: Any, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if event["event"] in DEFECTS:
        raise Finding(f"{event}") from event.get("exc_info")
    raise structlog.DropEvent


def quiet() -> None:
    """Log nothing; a line that tells of a defect is a finding."""
    structlog.configure(processors=[_noted])


# -- frames -----------------------------------------------------------------------------------------------------------


def frames(data: bytes) -> None:
    """Any bytes in any pieces: frames of a known kind, or ProtocolViolation."""
    decoder = Decoder(max_frame_bytes=1 << 16)
    step = 1 + (data[0] if data else 0)
    try:
        for start in range(0, len(data), step):
            decoder.add(data[start : start + step])
            while (frame := decoder.next()) is not None:
                Kind(frame[0])
    except ProtocolViolation as error:
        if len(error.message) > 400:
            raise Finding(f"a message of {len(error.message)} characters") from error


# -- a connection -----------------------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport to nobody: it takes everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4000)})
        self.is_over = False
        self.is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Everything fits."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        """Gone."""

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True

    def is_closing(self) -> bool:
        return self.is_over


class Connections:
    """Server connections of every role, with handlers that are quick, slow and endless."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._router = Router()
        self._router.call("echo", self._echo, None)
        self._router.call("hang", self._hang, None)
        self._router.stream("count", self._count, None)
        self._router.notify("note", lambda _peer, _payload: None, None)

    def close(self) -> None:
        """Nothing is left."""
        self._loop.close()

    async def _echo(self, _: Peer, payload: Any) -> Any:
        return payload

    async def _hang(self, _: Peer, _payload: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async def _count(self, _: Peer, payload: Any) -> Any:
        number = 0
        while True:
            yield number
            number += 1
            if number % 7 == 0:
                await asyncio.sleep(0)

    def __call__(self, data: bytes) -> None:
        """Any bytes, after a HELLO or instead of one, of a peer of any role."""
        self._loop.run_until_complete(self._converse(data))

    async def _converse(self, data: bytes) -> None:
        role = ROLES[(data[0] if data else 0) % len(ROLES)]
        peer = Peer(node_id=None if role is None else NodeId("n"), role=role, address="192.0.2.1:4000")
        log = BoundedLog(asyncio.get_running_loop().time)
        connection = ServerConnection(self._router, ServerConfig(), lambda *_: peer, log)
        wire = Wire()
        connection.connection_made(wire)
        serving = asyncio.create_task(connection.serve())
        await asyncio.sleep(0)
        connection.data_received(data[1:] if data[:1] < b"\x40" else HELLO + data[1:])
        for _ in range(5):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        for _ in range(MAX_STEPS):
            if serving.done():
                break
            await asyncio.sleep(0)
        else:
            raise Finding("the connection does not end")
        serving.result()
        if len(asyncio.all_tasks()) > 1:
            raise Finding(f"left over: {asyncio.all_tasks()}")


# -- handlers ---------------------------------------------------------------------------------------------------------


class NoNetwork:
    """Implements ``Dialer`` for a manager that is alone."""

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        raise ConnectionFailed(f"{address} is not there")


class Handlers:
    """A manager that leads, and all that it serves, to every role."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._router = Router()
        self._loop.run_until_complete(self._start())
        self._routes = [r for r in self._router.table() if r.method not in NOT_ASKED]
        self._before = self._state()

    def _state(self) -> tuple[object, ...]:
        """What nobody here may change. Who is up, and what it says of itself, is not part of it."""
        view = self._manager.store.view()
        nodes = [(node.id, node.spec, node.role, node.manager) for node in view.nodes()]
        return view.cluster(), nodes, view.services(), view.tasks(), self._manager.raft.conf

    def close(self) -> None:
        """End the manager."""
        self._running.cancel()
        self._loop.run_until_complete(asyncio.wait([self._running]))
        self._loop.close()

    async def _start(self) -> None:
        me = Member(raft_id=1, node_id="m" * 25, address="192.0.2.9:2377")
        storage = MemoryStorage()
        await bootstrap(storage, me)
        root = ca.create_root_ca(SystemClock().time_ns())
        self._manager = Manager(
            node_id=NodeId(me.node_id),
            cluster_id=ClusterId("c" * 25),
            raft_id=1,
            address=me.address,
            storage=storage,
            dialer=NoNetwork(),
            router=self._router,
            clock=SystemClock(),
            random=random.Random(1),
            config=RaftConfig(),
        )
        self._running = asyncio.create_task(self._manager.run())
        await self._manager.wait_leader(10)
        join_tokens = tokens.make_tokens(root.cert_digest, random.Random(2))
        cluster = Cluster(id=ClusterId("c" * 25), root_ca=root, join_tokens=join_tokens, schema=codec.SCHEMA_VERSION)

        def write(tx: Any) -> None:
            tx.create(cluster)
            tx.create(Node(id=NodeId("w" * 25), status=NodeStatus(state=NodeState.READY)))

        await self._manager.store.update(write)
        await asyncio.sleep(0.1)

    def __call__(self, data: bytes) -> None:
        """The first byte says who asks for what; the rest is the payload, as msgpack."""
        self._loop.run_until_complete(self._ask(data))

    async def _ask(self, data: bytes) -> None:
        choice = data[0] if data else 0
        route, role = self._routes[choice % len(self._routes)], ROLES[choice // len(self._routes) % len(ROLES)]
        try:
            payload = codec.unpack(data[1:])
        except ProtocolViolation:
            return
        node_id = {None: None, Role.WORKER: NodeId("w" * 25), Role.MANAGER: NodeId("o" * 25)}[role]
        peer = Peer(node_id=node_id, role=role, cluster_id="c" * 25, address="192.0.2.1:4000")
        try:
            async with asyncio.timeout(5):
                if route.kind is MethodKind.CALL:
                    await self._router.dispatch_call(peer, route.method, payload)
                elif route.kind is MethodKind.NOTIFY:
                    self._router.dispatch_notify(peer, route.method, payload)
                else:
                    stream = cast("Any", self._router.dispatch_stream(peer, route.method, payload))
                    await anext(stream)
                    await stream.aclose()
        except SwarmpyError as error:
            if len(error.message) > 1000:
                raise Finding(f"{route.method}: a message of {len(error.message)} characters") from error
        except TimeoutError as error:
            raise Finding(f"{route.method}: no answer") from error
        await asyncio.sleep(0)
        if self._running.done() or not self._manager.is_leader:
            raise Finding(f"{route.method}: the manager is down")
        if self._state() != self._before:
            raise Finding(f"{route.method}: the state has changed")


# -- raft -------------------------------------------------------------------------------------------------------------


def raft(data: bytes) -> None:
    """Messages to a member of three, in any role: none of them ends it."""
    try:
        messages = decode_messages(codec.unpack(data[1:]))
    except ProtocolViolation as error:
        if len(error.message) > 400:
            raise Finding(f"a message of {len(error.message)} characters") from error
        return
    core = _member_of_three(leads=bool(data[0] & 1))
    for message in messages:
        core.step(message)
        while (ready := core.ready()) is not None:
            encode_messages([m for m in (*ready.messages, *ready.messages_after_persist) if m.snapshot is None])
            core.advance(ready)
        core.tick()


def _member_of_three(*, leads: bool) -> RaftCore:
    members = tuple(Member(raft_id=i, node_id=f"n{i}", address=f"192.0.2.{i}:2377") for i in (1, 2, 3))
    core = RaftCore(
        1,
        random=random.Random(1),
        timing=Timing(heartbeat=1, election=10),
        hard_state=HardState(term=3, commit=3),
        snapshot=Snapshot(index=1, term=1, conf=ConfState(voters=members)),
        entries=tuple(Entry(term=t, index=i, data=b"x") for i, t in enumerate((1, 2, 2), 2)),
    )
    if leads:
        core.campaign()
        for kind in (MessageType.PRE_VOTE_RESPONSE, MessageType.VOTE_RESPONSE):
            core.step(Message(type=kind, to=1, source=2, term=4))
            while (ready := core.ready()) is not None:
                core.advance(ready)
    return core


TARGETS: dict[str, Callable[[], Target]] = {
    "frames": lambda: frames,
    "connection": Connections,
    "handlers": Handlers,
    "raft": lambda: raft,
}


def seeds() -> list[bytes]:
    """Inputs that are nearly right, to begin with."""
    payloads: list[Any] = [
        None,
        {},
        [],
        "x",
        {"token": "SWMTKN-1-x-y", "csr_pem": b"-----BEGIN", "hostname": "h", "availability": "active", "schema": 4},
        {"csr_pem": b"x", "incarnation": 0},
        {"session_id": "s", "endpoints_version": 1, "problems": ["p"]},
        {"session_id": "s", "updates": [{"task_id": "t", "status": {"state": 512, "err": "e", "ports": []}}]},
        {"description": {"hostname": "h", "platform": {}, "resources": {}}, "address": "192.0.2.1", "incarnation": 0},
        {"raft_id": 7, "address": "192.0.2.1:2377", "schema": 4, "incarnation": 0},
        {"incarnation": 0, "address": "192.0.2.1:2377"},
        {"method": "GET", "path": "/info", "query": {}, "headers": {}, "body": b""},
    ]
    member = Member(raft_id=2, node_id="n2", address="192.0.2.2:2377")
    conf = ConfState(voters=(member,))
    for kind in MessageType:
        message = Message(
            type=kind,
            to=1,
            source=2,
            term=4,
            index=4,
            log_term=2,
            entries=(Entry(term=4, index=5, data=b"x"),),
            sender=member,
            snapshot=Snapshot(index=9, term=4, conf=conf, data=b"x"),
            total=1,
        )
        payloads.append(encode_messages([message]))
    found = [bytes([number]) + codec.pack(payload) for number in range(0, 64, 3) for payload in payloads]
    calls = [encode(Kind.CALL, 1, m, p) + encode(Kind.CANCEL, 1) for m in ("echo", "hang", "count") for p in payloads]
    calls += [encode(Kind.STREAM, 2, "count", None) + encode(Kind.NOTIFY, "note", p) for p in payloads]
    return [*found, *(b"\x80" + call for call in calls), HELLO, HELLO + encode(Kind.GOODBYE, "x", "y")]

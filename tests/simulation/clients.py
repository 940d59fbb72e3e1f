"""Clients that write and read through random managers, and remember what they were told.

A write comes to any manager and is carried out by the leader; on the way there and back everything may be lost. A
client that got no answer asks again, at any manager, with the same request id. A read is answered by the manager that
was asked. What the clients saw is one history, which must be linearizable.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any, Protocol, TypeVar

import attrs
from film import Film
from linearizability import ANY, HistoryChecker, Kind, Operation, Outcome, Unexplored
from loop import Life, SimLoop
from net import Host

from swarmpy.errors import FailedPrecondition, NotLeader, OutcomeUnknown, SwarmpyError, Unavailable, UserError
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node
from swarmpy.model.requests import RequestId
from swarmpy.model.specs import NodeSpec
from swarmpy.ports import Peer
from swarmpy.raft.driver import RaftDriver
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View
from swarmpy.wire.channels import ChannelPool
from swarmpy.wire.router import MANAGERS, Router

METHOD = "client.write"
REGISTERS = ("r1", "r2", "r3")
COUNTERS = ("n1", "n2")
COUNT = 5
"""Clients at once."""
PAUSE_MEAN_S = 0.25
PATIENCE_S = (0.2, 1.0, 4.0)
"""How long a client waits for an answer; one of these."""
RETRY_S = 0.15
ATTEMPTS = 8

T = TypeVar("T")


class Served(Protocol):
    """One manager in one of its lives."""

    @property
    def host(self) -> Host:
        """Where it runs."""

    @property
    def store(self) -> Store:
        """Its state."""

    @property
    def driver(self) -> RaftDriver:
        """Its part in the consensus."""

    async def read_index(self, timeout: float) -> int:
        """That of its driver."""


class Group(Protocol):
    """Whom clients may ask."""

    def up(self) -> Sequence[Served]:
        """The managers that run."""


class Lines:
    """Calls into hosts: they run in the life of the host, and break when it ends."""

    def __init__(self) -> None:
        self._open: dict[Host, dict[asyncio.Future[Any], None]] = {}

    async def call(self, host: Host, work: Callable[[], Coroutine[Any, Any, T]], patience_s: float) -> T:
        """What ``work`` answers. Raises what it raises, OutcomeUnknown when no answer comes in time."""
        if host not in self._open:
            self._open[host] = {}
            host.on_crash.append(partial(self._break, host))
        if not host.is_up:
            raise Unavailable(f"{host.node_id} is down")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._open[host][answer] = None
        host.spawn(_answer(answer, work), name=f"call into {host.node_id}")
        try:
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError:
            raise OutcomeUnknown(f"{host.node_id} does not answer") from None
        finally:
            self._open[host].pop(answer, None)

    def _break(self, host: Host) -> None:
        for answer in self._open[host]:
            if not answer.done():
                answer.set_exception(OutcomeUnknown(f"{host.node_id} crashed"))
        self._open[host].clear()


async def _answer(answer: asyncio.Future[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
    try:
        result = await work()
    except SwarmpyError as error:
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)


# -- what a manager does for them -------------------------------------------------------------------------------------


def serve(router: Router, store: Store) -> None:
    """Carry out the writes that other managers forward to this one."""

    async def on_write(_peer: Peer, payload: Any) -> Any:
        return await _carry_out(store, payload)

    router.call(METHOD, on_write, MANAGERS)


async def _carry_out(store: Store, payload: dict[str, Any]) -> Any:
    request = RequestId(
        session=payload["session"], sequence=payload["sequence"], answered_below=payload["answered_below"]
    )
    return await store.update(partial(_change, payload), timeout=payload["timeout"], request=request)


def _change(payload: dict[str, Any], tx: Tx) -> Any:
    """Do the operation, and leave a mark that counts how often it was done."""
    key, argument = payload["key"], payload["argument"]
    _put(tx, payload["mark"], str(int(value_of(tx, payload["mark"]) or "0") + 1))
    value = value_of(tx, key)
    match Kind(payload["kind"]):
        case Kind.CAS:
            expected, new = argument
            if value != expected:
                raise FailedPrecondition(f"{key} is {value}, not {expected}")
            _put(tx, key, new)
            return True
        case Kind.INCREMENT:
            total = int(value or "0") + int(argument)
            _put(tx, key, str(total))
            return total
        case _:
            _put(tx, key, argument)
            return None


def value_of(view: View, key: str) -> str | None:
    """The value of a key; None when it was never written."""
    node = view.node(NodeId(key))
    return None if node is None else node.spec.name


def _put(tx: Tx, key: str, value: str) -> None:
    node = tx.node(NodeId(key))
    if node is None:
        tx.create(Node(id=NodeId(key), spec=NodeSpec(name=value)))
    else:
        tx.update(attrs.evolve(node, spec=attrs.evolve(node.spec, name=value)))


# -- the clients ------------------------------------------------------------------------------------------------------


class Clients:
    """All of them, and their history."""

    def __init__(self, group: Group, loop: SimLoop, film: Film) -> None:
        self.lines = Lines()
        self.outcomes: Counter[tuple[Kind, Outcome]] = Counter()
        self._group = group
        self._loop = loop
        self._film = film
        self._random: Random = loop.random
        self._checker = HistoryChecker()
        self._is_unexplored = False
        self._open: dict[Operation, None] = {}
        self._last_moment = 0.0
        self._last_mark = 0
        self._marks: dict[str, Operation] = {}
        self._pools: dict[Life, ChannelPool] = {}

    async def run(self, count: int = COUNT) -> None:
        """Many clients at once, each doing one thing after the other, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(1, count + 1):
                group.create_task(Client(self, f"c{number}").run())

    # -- the history --------------------------------------------------------------------------------------------------

    @contextmanager
    def recorded(self, operation: Operation) -> Iterator[Operation]:
        """``operation`` is under way; it is of unknown outcome until told otherwise."""
        operation.invoked = self._moment()
        self._open[operation] = None
        try:
            yield operation
        finally:
            operation.returned = self._moment()
            del self._open[operation]
            self._checker.add(operation)
            self.outcomes[operation.kind, operation.outcome] += 1
            self._film.did(f"{operation.kind} {operation.outcome.value}")
            self._film.tell(operation.client, str(operation))

    def _moment(self) -> float:
        """Now, but later than any moment before."""
        self._last_moment = max(self._loop.now, self._last_moment + 1e-9)
        return self._last_moment

    def check(self) -> None:
        """All that is settled so far is linearizable."""
        until = min((operation.invoked for operation in self._open), default=self._moment())
        if self._is_unexplored:
            return
        try:
            wrong = self._checker.advance(until)
        except Unexplored as error:
            # Neither right nor wrong: the rest of this universe is judged by its other laws.
            self._is_unexplored = True
            self._film.did("history not explored")
            self._film.tell("clients", str(error))
            return
        assert wrong is None, wrong
        self._film.checked("histories are linearizable")

    def check_marks(self, view: View) -> None:
        """Everything acknowledged is there, nothing refused is, and everything that is there was done once."""
        for mark, operation in self._marks.items():
            times = int(value_of(view, mark) or "0")
            assert times < 2, f"done {times} times: {operation}"
            assert times or operation.outcome is not Outcome.DONE, f"lost: {operation}"
            assert not times or operation.outcome is not Outcome.REFUSED, f"done though refused: {operation}"
        for key in COUNTERS:
            done = [m for m, op in self._marks.items() if op.key == key and value_of(view, m) is not None]
            assert int(value_of(view, key) or "0") == len(done), f"{key} does not count the {len(done)} increments"
        self._film.checked("what was acknowledged is done once, what was refused is not", len(self._marks))

    # -- asking -------------------------------------------------------------------------------------------------------

    def any_manager(self) -> Served | None:
        """One that runs."""
        up = self._group.up()
        return up[self._random.randrange(len(up))] if up else None

    def next_number(self) -> int:
        """A number that no client and no request has had."""
        self._last_mark += 1
        return self._last_mark

    def new_mark(self, operation: Operation) -> str:
        """The name under which the state remembers that ``operation`` was done."""
        mark = f"w{self.next_number()}"
        self._marks[mark] = operation
        return mark

    async def forward(self, manager: Served, payload: dict[str, Any]) -> Any:
        """What a manager does with a client's write: it brings it to the leader. Runs in the manager's life."""
        status = manager.driver.status()
        if status.is_leader:
            return await _carry_out(manager.store, payload)
        if status.leader is None:
            raise NotLeader
        life = manager.host.life
        assert life is not None
        pool = self._pools.get(life)
        if pool is None:
            pool = self._pools[life] = ChannelPool(manager.host.dialer, self._random)
        channel = await pool.get(status.leader.address)
        return await channel.call(METHOD, payload, timeout=payload["timeout"])

    async def read(self, client: str, key: str, manager: Served, patience_s: float = 4.0) -> Operation:
        """Read ``key`` on ``manager``."""

        async def look() -> str | None:
            await manager.read_index(patience_s)
            return value_of(manager.store.view(), key)

        with self.recorded(Operation(client=client, key=key, kind=Kind.READ, invoked=0)) as operation:
            try:
                value = await self.lines.call(manager.host, look, patience_s)
            except SwarmpyError:
                operation.outcome = Outcome.REFUSED
            else:
                operation.outcome = Outcome.DONE
                operation.result = int(value) if value is not None and key in COUNTERS else value
        return operation


class Client:
    """One session: a sequence of requests."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.name = name
        self._clients = clients
        self._random: Random = clients._random
        self._sequence = 0
        self._seen: dict[str, str | None] = {}

    async def run(self) -> None:
        """One operation after the other, until cancelled."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_MEAN_S))
            if self._random.random() < 0.4:
                manager = self._clients.any_manager()
                key = self._random.choice(REGISTERS + COUNTERS)
                if manager is not None:
                    operation = await self._clients.read(self.name, key, manager, self._random.choice(PATIENCE_S))
                    if operation.outcome is Outcome.DONE and key in REGISTERS:
                        self._seen[key] = operation.result
            else:
                await self.write(*self._draw())

    def _draw(self) -> tuple[Kind, str, Any]:
        value = f"{self.name}.{self._sequence + 1}"
        kind = self._random.choice((Kind.WRITE, Kind.CAS, Kind.INCREMENT, Kind.INCREMENT))
        if kind is Kind.INCREMENT:
            return kind, self._random.choice(COUNTERS), 1
        key = self._random.choice(REGISTERS)
        return (kind, key, (self._seen.get(key), value)) if kind is Kind.CAS else (kind, key, value)

    async def write(self, kind: Kind, key: str, argument: Any, *, attempts: int = ATTEMPTS) -> Operation:
        """Ask for it until there is an answer, or the client has had enough."""
        clients, random = self._clients, self._random
        self._sequence += 1
        with clients.recorded(
            Operation(client=self.name, key=key, kind=kind, argument=argument, invoked=0)
        ) as operation:
            payload = {
                "session": self.name,
                "sequence": self._sequence,
                "answered_below": self._sequence,
                "mark": clients.new_mark(operation),
                "kind": kind.value,
                "key": key,
                "argument": list(argument) if isinstance(argument, tuple) else argument,
            }
            lost = False
            for attempt in range(attempts):
                if attempt:
                    await asyncio.sleep(random.uniform(0, 2 * RETRY_S * attempt))
                manager = clients.any_manager()
                if manager is not None:
                    patience_s = random.choice(PATIENCE_S)
                    lost = await self._ask(manager, operation, payload | {"timeout": patience_s}) or lost
                if operation.outcome is Outcome.DONE:
                    break
                if operation.outcome is Outcome.REFUSED and lost:
                    # A copy that is still on its way may find another state, and do it.
                    operation.outcome = Outcome.UNKNOWN
                    break
                if operation.outcome is Outcome.REFUSED:
                    break
            else:
                operation.outcome = Outcome.UNKNOWN if lost else Outcome.REFUSED
        if operation.outcome is Outcome.DONE and key in REGISTERS:
            self._seen[key] = payload["argument"][1] if kind is Kind.CAS else argument
        return operation

    async def _ask(self, manager: Served, operation: Operation, payload: dict[str, Any]) -> bool:
        """One attempt. True when nobody knows what came of it."""
        clients = self._clients
        work = partial(clients.forward, manager, payload)
        try:
            operation.result = await clients.lines.call(manager.host, work, payload["timeout"])
        except OutcomeUnknown:
            clients._film.did("answer lost")
            return True
        except UserError:
            operation.outcome = Outcome.REFUSED
        except SwarmpyError:
            clients._film.did("attempt refused")
        else:
            operation.outcome = Outcome.DONE
            if operation.kind is Kind.WRITE:
                operation.result = ANY
        return False

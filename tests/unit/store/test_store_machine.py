"""The store against a dictionary: random transactions, repeated requests, commits, lost leaderships and restores."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_world import FixedClock, LateProposer, cluster, config, content, secret, service, task, with_references

from swarmpy.errors import AlreadyExists, FailedPrecondition, NotFound, OutcomeUnknown
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Config, Secret, Service, StoreObject, Task, TaskStatus
from swarmpy.model.references import references
from swarmpy.model.requests import RequestId
from swarmpy.model.specs import PortConfig, ServiceSpec
from swarmpy.model.states import TaskState
from swarmpy.store.memory import Store
from swarmpy.store.sessions import SESSION_EXPIRY_NS
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

SERVICES = st.sampled_from(["s1", "s2"])
NAMES = st.sampled_from(["web", "db"])
TASKS = st.sampled_from([f"t{i}" for i in range(6)])
NODES = st.sampled_from([None, NodeId("n1"), NodeId("n2")])
STATES = st.sampled_from(
    [TaskState.NEW, TaskState.PENDING, TaskState.ASSIGNED, TaskState.RUNNING, TaskState.COMPLETE, TaskState.FAILED]
)
PORTS = (("tcp", 0), ("tcp", 80), ("tcp", 81), ("udp", 80))
SECRETS = st.sampled_from(["x1", "x2", "x3"])
CONFIGS = st.sampled_from(["c1", "c2", "c3"])
REFERENCES = st.lists(SECRETS, max_size=2, unique=True), st.lists(CONFIGS, max_size=2, unique=True)
MINUTES = st.sampled_from([0, 0, 1, 4, 11, -3])
SESSIONS = st.sampled_from(["x", "y", "z"])

Model = dict[str, StoreObject]


@attrs.define
class Answers:
    """What the table of answers should hold."""

    known: dict[tuple[str, int], str] = attrs.Factory(dict)
    below: dict[str, int] = attrs.Factory(dict)
    used: dict[str, int] = attrs.Factory(dict)
    now_ns: int = 0

    def after(self, asked: RequestId, answer: str, time_ns: int) -> Answers:
        """The table once ``asked`` is applied."""
        now = max(self.now_ns, time_ns)
        used = {s: at for s, at in {**self.used, asked.session: now}.items() if at + SESSION_EXPIRY_NS > now}
        below = {s: n for s, n in {**self.below, asked.session: self.least(asked)}.items() if s in used}
        known = {k: a for k, a in {**self.known, asked.key: answer}.items() if k[0] in used and k[1] >= below[k[0]]}
        return Answers(known, below, used, now)

    def least(self, asked: RequestId) -> int:
        """What the session remembers from once ``asked`` is applied."""
        return max(self.below.get(asked.session, 1), asked.answered_below)

    def forgot(self, asked: RequestId) -> bool:
        """True when its client said that it had the answer."""
        return asked.key not in self.known and asked.sequence < self.below.get(asked.session, 1)


def plain(model: Model) -> dict[str, Any]:
    """Objects without what the store sets."""
    return {key: _plain(obj) for key, obj in model.items()}


def _plain(obj: StoreObject) -> StoreObject:
    match obj:
        case Service():
            return attrs.evolve(obj, meta=type(obj.meta)(), spec_version=0)
        case Secret() | Config():
            return attrs.evolve(obj, meta=type(obj.meta)(), made_at=0)
        case Task():
            return attrs.evolve(obj, meta=type(obj.meta)(), story=b"")
        case _:
            return attrs.evolve(obj, meta=type(obj.meta)())


class StoreMachine(RuleBasedStateMachine):
    """One leader, one follower, and what they should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.running: list[asyncio.Task[Any]] = []
        self.waiting: list[tuple[asyncio.Task[Any], str]] = []
        self.attempts = 0

    @initialize(schema=st.sampled_from([codec.SERVICES_VERSION - 1, codec.SERVICES_VERSION]))
    def begin(self, schema: int) -> None:
        """Both stores are empty. With the later schema updates of tasks are told in short."""
        self.clock = FixedClock()
        self.leader, self.follower = Store(self.clock), Store(FixedClock())
        self.answers, self.answers_pending = Answers(), list[Answers]()
        self.committed: Model = {}
        self.pending: list[Model] = []
        self.elect()

        async def found() -> None:
            founding = asyncio.create_task(self.leader.update(lambda tx: tx.create(cluster(schema))))
            await asyncio.sleep(0)
            self.proposer.commit()
            await founding

        self.loop.run_until_complete(found())

    def elect(self) -> None:
        """Begin a new term of office with nothing in flight."""
        self.proposer = LateProposer(self.leader, self.follower)
        self.take_office()

    def take_office(self) -> None:
        """The leader counts on from the time of the answers that it knows."""
        self.term_began = (self.answers.now_ns or self.clock.now_ns, self.clock.now_ns)
        self.leader.set_proposer(self.proposer)

    def current(self) -> Model:
        """What a transaction should see."""
        return dict(self.pending[-1] if self.pending else self.committed)

    def step(self, *writes: tuple[str, StoreObject], asked: RequestId | None = None) -> None:
        """Run one transaction on the store and on the model, and compare what comes of it."""
        model = self.current()
        self.attempts += 1
        answer = f"answer {self.attempts}"
        error: type[Exception] | None = None
        for action, obj in writes:
            error = error or self.imitate(model, action, obj)

        def fn(tx: Tx) -> str:
            for action, obj in writes:
                getattr(tx, action)(obj)
            seen = (*tx.services(), *tx.tasks(), *tx.secrets(), *tx.configs())
            assert plain({o.id: o for o in seen}) == plain(model)
            check_indexes(tx)
            return answer

        async def go() -> None:
            running = asyncio.create_task(self.leader.update(fn, request=asked))
            await asyncio.sleep(0)
            if error is None:
                assert not running.done()
                self.running.append(running)
                self.pending.append(model)
                table = self.newest_answers()
                now_ns = self.term_began[0] + self.clock.now_ns - self.term_began[1]
                self.answers_pending.append(table.after(asked, answer, now_ns) if asked else table)
                return
            with pytest.raises(error):
                await running

        self.loop.run_until_complete(go())

    def newest_answers(self) -> Answers:
        """The table once everything in flight is applied."""
        return self.answers_pending[-1] if self.answers_pending else self.answers

    @rule(session=SESSIONS, sequence=st.integers(1, 4), acknowledged=st.integers(0, 4), key=TASKS, minutes=MINUTES)
    def ask(self, session: str, sequence: int, acknowledged: int, key: str, minutes: int) -> None:
        """A request, be it new, in flight, answered or forgotten: it is done only when it is new.

        The leader's clock has gone on meanwhile, or it is another leader's, which is behind.
        """
        # 61 seconds each: ten of them are never the very time at which a session expires.
        self.clock.now_ns = max(0, self.clock.now_ns + minutes * 61_000_000_000)
        asked = RequestId(session=session, sequence=sequence, answered_below=max(1, min(acknowledged, sequence)))
        in_flight = [table.known[asked.key] for table in self.answers_pending if asked.key in table.known]
        expired = {s for table in self.answers_pending for s in self.answers.used if s not in table.used}
        if asked.key in self.answers.known:
            self.repeat(asked, self.answers.known[asked.key])
        elif in_flight:
            self.repeat(asked, in_flight[0], wait=True)
        elif self.answers.forgot(asked) or any(table.forgot(asked) for table in self.answers_pending):
            self.refuse(asked)
        elif session not in expired:
            self.step(("update" if key in self.current() else "create", task(key, "s1")), asked=asked)

    def repeat(self, asked: RequestId, answer: str, *, wait: bool = False) -> None:
        """The request gets the answer of the first one; nothing is run."""

        async def go() -> None:
            running = asyncio.create_task(self.leader.update(not_again, request=asked))
            await asyncio.sleep(0)
            if wait:
                assert not running.done()
                self.waiting.append((running, answer))
            else:
                assert await running == answer

        self.loop.run_until_complete(go())

    def refuse(self, asked: RequestId) -> None:
        """The client had the answer of this request, and said so."""

        async def go() -> None:
            with pytest.raises(FailedPrecondition, match="forgotten"):
                await self.leader.update(not_again, request=asked)

        self.loop.run_until_complete(go())

    @precondition(lambda self: self.pending)
    @rule()
    def leave_office_for_a_moment(self) -> None:
        """The leader's work begins anew in the same term of Raft, whatever is in flight."""
        self.leader.set_proposer(None)
        self.take_office()

    @staticmethod
    def imitate(model: Model, action: str, obj: StoreObject) -> type[Exception] | None:
        """Do to the model what the store should do."""
        if (action == "create") == (obj.id in model):
            return AlreadyExists if action == "create" else NotFound
        if isinstance(obj, Service) and action != "delete":
            for other in model.values():
                if _clash(other, obj):
                    return AlreadyExists
        if isinstance(obj, Secret | Config) and action != "delete":
            before = model.get(obj.id)
            is_new = not isinstance(before, Secret | Config) or before.spec.name != obj.spec.name
            for other in model.values():
                if _same_version(other, obj, is_new=is_new):
                    return AlreadyExists
        if action == "delete":
            del model[obj.id]
        else:
            model[obj.id] = obj
        return None

    @rule(
        action=st.sampled_from(["create", "update", "delete"]),
        key=SERVICES,
        name=NAMES,
        image=NAMES,
        ports=st.lists(st.sampled_from(PORTS), max_size=3),
        leaving=st.booleans(),
        refers=st.tuples(*REFERENCES),
        referred=st.none() | st.tuples(*REFERENCES),
    )
    def write_service(
        self,
        action: str,
        key: str,
        name: str,
        image: str,
        ports: list[tuple[str, int]],
        leaving: bool,
        refers: tuple[list[str], list[str]],
        referred: tuple[list[str], list[str]] | None,
    ) -> None:
        """One write of a service, which may refer to secrets and configs, or have done so before."""
        held = tuple(PortConfig(protocol=protocol, target_port=80, published_port=port) for protocol, port in ports)
        obj = attrs.evolve(service(name, image, object_id=key), ports=held, pending_delete=leaving)
        spec, before = _referring(obj, refers), None if referred is None else _referring(obj, referred)
        self.step((action, attrs.evolve(obj, spec=spec, previous_spec=before)))

    @rule(
        action=st.sampled_from(["create", "update", "delete"]),
        key=SECRETS,
        name=st.sampled_from(["", "web", "db"]),
        number=st.integers(1, 3),
    )
    def write_secret(self, action: str, key: str, name: str, number: int) -> None:
        """One write of a version of a secret, or of credentials, which have no name."""
        self.step((action, secret(key, name, number)))

    @rule(action=st.sampled_from(["create", "update", "delete"]), key=CONFIGS, name=NAMES, number=st.integers(1, 3))
    def write_config(self, action: str, key: str, name: str, number: int) -> None:
        """One write of a version of a config."""
        self.step((action, config(key, name, number)))

    @rule(
        writes=st.lists(
            st.tuples(st.sampled_from(["create", "update", "delete"]), TASKS, SERVICES, STATES, NODES, *REFERENCES),
            max_size=4,
        )
    )
    def write_tasks(self, writes: list[tuple[str, str, str, TaskState, NodeId | None, list[str], list[str]]]) -> None:
        """Several writes of tasks in one transaction."""
        model = self.current()
        objects = []
        for action, key, owner, state, node_id, secrets, configs in writes:
            obj = task(key, owner, status=TaskStatus(state=state), node_id=node_id)
            obj = attrs.evolve(obj, spec=with_references(obj.spec, secrets=tuple(secrets), configs=tuple(configs)))
            if self.imitate(model, action, obj) is None:
                objects.append((action, obj))
        if any(model.get(obj.id) is not self.current().get(obj.id) for _, obj in objects):
            self.step(*objects)

    @precondition(lambda self: self.pending)
    @rule(count=st.integers(1, 3))
    def commit(self, count: int) -> None:
        """The oldest proposals are committed."""
        count = min(count, len(self.pending))

        async def go() -> None:
            self.proposer.commit(count)
            await asyncio.gather(*self.running[:count])
            for _ in range(3):
                await asyncio.sleep(0)  # a second waiter of a proposal wakes a moment later

        self.loop.run_until_complete(go())
        self.committed, self.answers = self.pending[count - 1], self.answers_pending[count - 1]
        del self.pending[:count], self.running[:count], self.answers_pending[:count]
        for waiting, answer in [(w, a) for w, a in self.waiting if w.done()]:
            assert waiting.result() == answer
            self.waiting.remove((waiting, answer))
        assert all(any(answer in table.known.values() for table in self.answers_pending) for _, answer in self.waiting)

    @rule(kept=st.integers(0, 2))
    def lose_leadership(self, kept: int) -> None:
        """A few of the proposals survive the change of the leader, the waiters hear that nobody knows."""
        kept = min(kept, len(self.pending))

        async def go() -> None:
            self.proposer.lose(kept)
            waiting = [waiting for waiting, _ in self.waiting]
            for outcome in await asyncio.gather(*self.running, *waiting, return_exceptions=True):
                assert isinstance(outcome, OutcomeUnknown)

        self.loop.run_until_complete(go())
        if kept:
            self.committed, self.answers = self.pending[kept - 1], self.answers_pending[kept - 1]
        self.pending, self.running, self.answers_pending, self.waiting = [], [], [], []
        self.elect()

    @precondition(lambda self: not self.pending)
    @rule()
    def restore(self) -> None:
        """The follower is replaced by one that starts from the leader's snapshot."""
        data = self.loop.run_until_complete(self.leader.snapshot())
        self.follower = Store(FixedClock())
        self.loop.run_until_complete(self.follower.restore(data))
        self.elect()

    @precondition(lambda self: not self.pending)
    @rule()
    def change_places(self) -> None:
        """The follower leads, with what it has applied, and the leader follows."""
        self.leader.set_proposer(None)
        self.leader, self.follower = self.follower, self.leader
        self.leader._clock, self.follower._clock = self.clock, FixedClock()
        self.elect()

    @invariant()
    def both_hold_the_model(self) -> None:
        """Leader and follower are equal, and equal to the model."""
        if not hasattr(self, "leader"):
            return
        assert plain(content(self.leader)) == plain(self.committed)  # type: ignore[arg-type]
        assert content(self.follower) == content(self.leader)
        assert self.loop.run_until_complete(self.follower.snapshot()) == self.loop.run_until_complete(
            self.leader.snapshot()
        )
        table = self.leader._sessions.copy()
        assert {(row[0], row[1]): codec.unpack(row[3]) for row in table.answers} == self.answers.known
        assert {session: (at, below) for session, at, below in table.uses} == {
            session: (at, self.answers.below[session]) for session, at in self.answers.used.items()
        }
        assert [at for _, at, _ in table.uses] == sorted(at for _, at, _ in table.uses)
        check_indexes(self.leader.view())
        check_indexes(self.follower.view())

    def teardown(self) -> None:
        """End what still waits."""

        async def go() -> None:
            open_tasks = [*self.running, *(waiting for waiting, _ in self.waiting)]
            for running in open_tasks:
                running.cancel()
            await asyncio.gather(*open_tasks, return_exceptions=True)

        self.loop.run_until_complete(go())
        self.loop.close()


def not_again(_tx: Tx) -> Any:
    """A request that was done, or must not be."""
    pytest.fail("run again")


def _clash(other: StoreObject, service: Service) -> bool:
    """Two services that stay have the same name."""
    if not isinstance(other, Service) or other.id == service.id or other.pending_delete or service.pending_delete:
        return False
    return other.spec.name == service.spec.name


def _same_version(other: StoreObject, obj: Secret | Config, *, is_new: bool) -> bool:
    """Two versions of one name that cannot be beside each other; one that is new to it has the highest number."""
    if type(other) is not type(obj) or other.id == obj.id or not obj.spec.name:
        return False
    assert isinstance(other, Secret | Config)
    return other.spec.name == obj.spec.name and (other.number == obj.number or (is_new and other.number > obj.number))


def _referring(obj: Service, refers: tuple[list[str], list[str]]) -> ServiceSpec:
    secrets, configs = refers
    task_spec = with_references(obj.spec.task, secrets=tuple(secrets), configs=tuple(configs))
    return attrs.evolve(obj.spec, task=task_spec)


def check_indexes(view: View) -> None:
    """Every index gives what a search through all objects gives."""
    check_references(view)
    tasks: tuple[Task, ...] = view.tasks()
    for owner in ("s1", "s2"):
        assert set(by_id(view.tasks_of_service(owner))) == set(by_id([t for t in tasks if t.service_id == owner]))
    for node_id in ("n1", "n2"):
        assert by_id(view.tasks_on_node(node_id)) == sorted(t.id for t in tasks if t.node_id == node_id)
    for name in ("web", "db"):
        wanted_service = next((s for s in view.services() if s.spec.name == name and not s.pending_delete), None)
        assert view.service_by_name(name) is wanted_service
    waiting = [t.id for t in tasks if t.status.state < TaskState.ASSIGNED]
    assert sorted(by_id(view.tasks_waiting())) == sorted(waiting)
    assert set(view.service_ids()) >= {t.service_id for t in tasks} | {s.id for s in view.services()}
    assert set(view.nodes_with_tasks()) >= {t.node_id for t in tasks if t.node_id}
    for port in PORTS[1:]:
        holders = [
            s.id
            for s in view.services()
            if not s.pending_delete and any((p.protocol, p.published_port) == port for p in s.ports)
        ]
        assert by_id(view.services_on_port(*port)) == sorted(holders)


def check_references(view: View) -> None:
    """Names lead to versions, and versions to who refers to them."""
    for name in ("web", "db"):
        secrets = sorted((s for s in view.secrets() if s.spec.name == name), key=lambda s: s.number)
        configs = sorted((c for c in view.configs() if c.spec.name == name), key=lambda c: c.number)
        assert list(view.secret_versions(name)) == secrets
        assert list(view.config_versions(name)) == configs
        assert view.secret_by_name(name) is (secrets[-1] if secrets else None)
        assert view.config_by_name(name) is (configs[-1] if configs else None)
    for object_id in ("x1", "x2", "x3", "c1", "c2", "c3"):
        services = [
            s.id
            for s in view.services()
            if any(spec and object_id in references(spec.task) for spec in (s.spec, s.previous_spec))
        ]
        assert by_id(view.services_referring(object_id)) == sorted(services)
        users = [t.id for t in view.tasks() if not t.status.state.is_terminal and object_id in references(t.spec)]
        assert by_id(view.tasks_referring(object_id)) == sorted(users)
        assert view.is_referred_to(object_id) is bool(services or users)


def by_id(tasks: Any) -> list[str]:
    """The ids of tasks."""
    return [t.id for t in tasks]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)

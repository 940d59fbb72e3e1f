"""The store against a dictionary: random transactions, commits, lost leaderships and restores."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_world import FixedClock, LateProposer, content, service, task

from swarmpy.errors import AlreadyExists, NotFound, OutcomeUnknown
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Service, StoreObject, Task
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View

SERVICES = st.sampled_from(["s1", "s2"])
NAMES = st.sampled_from(["web", "db"])
TASKS = st.sampled_from([f"t{i}" for i in range(6)])
NODES = st.sampled_from([None, NodeId("n1"), NodeId("n2")])
SLOTS = st.integers(0, 2)

Model = dict[str, StoreObject]


def plain(model: Model) -> dict[str, Any]:
    """Objects without what the store sets."""
    return {
        key: attrs.evolve(obj, meta=type(obj.meta)(), **({"spec_version": 0} if isinstance(obj, Service) else {}))
        for key, obj in model.items()
    }


class StoreMachine(RuleBasedStateMachine):
    """One leader, one follower, and what they should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.running: list[asyncio.Task[None]] = []

    @initialize()
    def begin(self) -> None:
        """Both stores are empty."""
        self.leader, self.follower = Store(FixedClock()), Store(FixedClock())
        self.committed: Model = {}
        self.pending: list[Model] = []
        self.elect()

    def elect(self) -> None:
        """Begin a new term of office with nothing in flight."""
        self.proposer = LateProposer(self.leader, self.follower)
        self.leader.set_proposer(self.proposer)

    def current(self) -> Model:
        """What a transaction should see."""
        return dict(self.pending[-1] if self.pending else self.committed)

    def step(self, *writes: tuple[str, StoreObject]) -> None:
        """Run one transaction on the store and on the model, and compare what comes of it."""
        model = self.current()
        error: type[Exception] | None = None
        for action, obj in writes:
            error = error or self.imitate(model, action, obj)

        def fn(tx: Tx) -> None:
            for action, obj in writes:
                getattr(tx, action)(obj)
            assert plain({o.id: o for o in (*tx.services(), *tx.tasks())}) == plain(model)
            check_indexes(tx)

        async def go() -> None:
            running = asyncio.create_task(self.leader.update(fn))
            await asyncio.sleep(0)
            if error is None:
                assert not running.done()
                self.running.append(running)
                self.pending.append(model)
                return
            with pytest.raises(error):
                await running

        self.loop.run_until_complete(go())

    @staticmethod
    def imitate(model: Model, action: str, obj: StoreObject) -> type[Exception] | None:
        """Do to the model what the store should do."""
        if (action == "create") == (obj.id in model):
            return AlreadyExists if action == "create" else NotFound
        if isinstance(obj, Service) and action != "delete":
            for other in model.values():
                if isinstance(other, Service) and other.spec.name == obj.spec.name and other.id != obj.id:
                    return AlreadyExists
        if action == "delete":
            del model[obj.id]
        else:
            model[obj.id] = obj
        return None

    @rule(action=st.sampled_from(["create", "update", "delete"]), key=SERVICES, name=NAMES, image=NAMES)
    def write_service(self, action: str, key: str, name: str, image: str) -> None:
        """One write of a service."""
        self.step((action, service(name, image, object_id=key)))

    @rule(
        writes=st.lists(
            st.tuples(st.sampled_from(["create", "update", "delete"]), TASKS, SERVICES, SLOTS, NODES), max_size=4
        )
    )
    def write_tasks(self, writes: list[tuple[str, str, str, int, NodeId | None]]) -> None:
        """Several writes of tasks in one transaction."""
        model = self.current()
        objects = []
        for action, key, owner, slot, node_id in writes:
            obj = task(key, owner, slot=slot, node_id=node_id)
            if self.imitate(model, action, obj) is None:
                objects.append((action, obj))
        if any(model.get(obj.id) is not self.current().get(obj.id) for _, obj in objects):
            self.step(*objects)

    @rule(count=st.integers(1, 3))
    def commit(self, count: int) -> None:
        """The oldest proposals are committed."""
        count = min(count, len(self.pending))
        if not count:
            return

        async def go() -> None:
            self.proposer.commit(count)
            await asyncio.gather(*self.running[:count])

        self.loop.run_until_complete(go())
        self.committed = self.pending[count - 1]
        del self.pending[:count], self.running[:count]

    @rule(kept=st.integers(0, 2))
    def lose_leadership(self, kept: int) -> None:
        """A few of the proposals survive the change of the leader, the waiters hear that nobody knows."""
        kept = min(kept, len(self.pending))

        async def go() -> None:
            self.proposer.lose(kept)
            for outcome in await asyncio.gather(*self.running, return_exceptions=True):
                assert isinstance(outcome, OutcomeUnknown)

        self.loop.run_until_complete(go())
        if kept:
            self.committed = self.pending[kept - 1]
        self.pending, self.running = [], []
        self.elect()

    @rule()
    def restore(self) -> None:
        """The follower is replaced by one that starts from the leader's snapshot."""
        if self.pending:
            return
        data = self.loop.run_until_complete(self.leader.snapshot())
        self.follower = Store(FixedClock())
        self.follower.restore(data)
        self.elect()

    @invariant()
    def both_hold_the_model(self) -> None:
        """Leader and follower are equal, and equal to the model."""
        if not hasattr(self, "leader"):
            return
        assert plain(content(self.leader)) == plain(self.committed)  # type: ignore[arg-type]
        assert content(self.follower) == content(self.leader)
        check_indexes(self.leader.view())
        check_indexes(self.follower.view())

    def teardown(self) -> None:
        """End what still waits."""

        async def go() -> None:
            for running in self.running:
                running.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)

        self.loop.run_until_complete(go())
        self.loop.close()


def check_indexes(view: View) -> None:
    """Every index gives what a search through all objects gives."""
    tasks: tuple[Task, ...] = view.tasks()
    for owner in ("s1", "s2"):
        assert set(by_id(view.tasks_of_service(owner))) == set(by_id([t for t in tasks if t.service_id == owner]))
        for slot in (1, 2):
            wanted = [t for t in tasks if t.service_id == owner and t.slot == slot]
            assert sorted(by_id(view.tasks_of_slot(owner, slot))) == sorted(by_id(wanted))
    for node_id in ("n1", "n2"):
        assert by_id(view.tasks_on_node(node_id)) == sorted(t.id for t in tasks if t.node_id == node_id)
    for name in ("web", "db"):
        wanted_service = next((s for s in view.services() if s.spec.name == name), None)
        assert view.service_by_name(name) is wanted_service


def by_id(tasks: Any) -> list[str]:
    """The ids of tasks."""
    return [t.id for t in tasks]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

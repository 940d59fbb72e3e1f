"""Updates of tasks that are told in short: what of them is in the log, and that every manager makes the same of it."""

from __future__ import annotations

import asyncio

import attrs
import pytest
from store_world import FixedClock, InstantProposer, LateProposer, cluster, content, node, service, task

from swarmpy.errors import InvariantViolation, NotFound, NotLeader, VersionConflict
from swarmpy.model import changes, codec
from swarmpy.model.changes import ChangeList
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import ContainerStatus, Task, TaskStatus
from swarmpy.model.patches import PATCHED, TaskPatch
from swarmpy.model.specs import GenericResource
from swarmpy.model.states import TaskState
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.watch import Event

ASSIGNED = TaskStatus(state=TaskState.ASSIGNED, timestamp_ns=5, message="scheduler assigned task to node")


class Recording(InstantProposer):
    """Keeps the entries."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.entries: list[bytes] = []

    def propose(self, data: bytes):  # type: ignore[no-untyped-def]
        """Apply, and keep."""
        self.entries.append(data)
        return super().propose(data)


async def leading(schema: int = codec.SCHEMA_VERSION) -> tuple[Store, Recording]:
    """A leader with a service of a hundred tasks that wait."""
    store = Store(FixedClock())
    proposer = Recording(store)
    store.set_proposer(proposer)

    def fill(tx: Tx) -> None:
        tx.create(cluster(schema))
        tx.create(node("n"))
        tx.create(service("web"))
        for number in range(100):
            status = TaskStatus(state=TaskState.PENDING)
            tx.create(task(f"{number:025d}", "id-web", service_name="web", slot=number + 1, status=status))

    await store.update(fill)
    return store, proposer


def follower(entries: list[bytes]) -> Store:
    """One that applies the same log."""
    store = Store(FixedClock())
    for index, data in enumerate(entries, start=1):
        store.apply(index, data)
    return store


def assign(tx: Tx) -> None:
    """All tasks to the node."""
    for each in tx.tasks():
        tx.update(attrs.evolve(each, node_id=NodeId("n"), status=ASSIGNED, applied_at_ns=5))


async def test_an_update_of_many_tasks_is_a_fraction_of_them() -> None:
    """The fields that are alike once, and the ids; every manager has the same tasks after it, with shared parts."""
    store, proposer = await leading()
    older, whole = await leading(codec.SERVICES_VERSION - 1)
    await store.update(assign)
    await older.update(assign)
    data = proposer.entries[-1]
    assert (data[0], whole.entries[-1][0]) == (codec.SERVICES_VERSION, codec.FIRST_VERSION)
    (patch,) = codec.decode(ChangeList, data).patches
    assert (patch.node_id, patch.status, len(patch.ids)) == (("n",), (ASSIGNED,), 100)
    assert len(data) < 40 * 100 < len(whole.entries[-1]) / 4
    other = follower(proposer.entries)
    assert content(other) == content(store)
    assert await other.snapshot() == await store.snapshot()
    members, own = other.view().nodes(), other.view().tasks()
    assert all(each.node_id is members[0].id and each.spec is own[0].spec for each in own)
    # Stories are for those who know of them.
    assert len({each.story for each in own}) == 1
    assert [attrs.evolve(each, story=b"") for each in own] == list(older.view().tasks())


async def test_events_are_those_of_whole_updates() -> None:
    """One for each task, with what it was and what it is, in the order of the transaction."""
    store, _ = await leading()
    before = store.view().tasks()
    with store.watch() as watch:
        await store.update(assign)
        events = watch.poll()
    found = [(e.id, e.old, e.object) for e in events if isinstance(e, Event)]
    assert found == [(was.id, was, now) for was, now in zip(before, store.view().tasks(), strict=True)]
    assert {(e.action, e.kind, e.version) for e in events if isinstance(e, Event)} == {
        ("update", "task", store.version)
    }


async def test_each_task_has_its_own_where_they_differ() -> None:
    """Also of those that change in other fields than the rest; one that is made something else is told whole."""
    store, proposer = await leading()

    def report(tx: Tx) -> None:
        for number, each in enumerate(tx.tasks()):
            if number % 3 == 0:
                tx.update(attrs.evolve(each, desired_state=TaskState.SHUTDOWN))
            elif number % 3 == 1:
                container = ContainerStatus(container_id=f"c{number}")
                tx.update(attrs.evolve(each, status=attrs.evolve(ASSIGNED, container=container), started_at_ns=number))
            elif number == 2:
                tx.update(attrs.evolve(each, slot=7))

    await store.update(report)
    entry = codec.decode(ChangeList, proposer.entries[-1])
    assert [change.id for change in entry.changes] == [f"{2:025d}"]
    assert [(patch.fields, len(patch.ids)) for patch in entry.patches] == [
        (("desired_state",), 34),
        (("status", "started_at_ns"), 33),
    ]
    assert content(follower(proposer.entries)) == content(store)


async def test_several_writes_of_a_task_are_one_against_what_it_was() -> None:
    """And one that is made anew, under the id of one that is removed, has nothing of it."""
    store, proposer = await leading()
    first, second = store.view().tasks()[:2]

    def write(tx: Tx) -> None:
        tx.update(attrs.evolve(first, node_id=NodeId("n")))
        tx.update(attrs.evolve(first, node_id=NodeId("n"), started_at_ns=4))
        tx.update(attrs.evolve(second, started_at_ns=4))
        tx.delete(second)
        tx.create(attrs.evolve(second, slot=9))

    await store.update(write)
    (patch,) = codec.decode(ChangeList, proposer.entries[-1]).patches
    assert (patch.ids, patch.fields) == ((first.id,), ("node_id", "started_at_ns"))
    assert content(follower(proposer.entries)) == content(store)


@pytest.mark.parametrize(
    "patch",
    [
        TaskPatch(ids=(TaskId("nobody"),)),
        TaskPatch(ids=(TaskId(f"{1:025d}"), TaskId(f"{1:025d}"))),
        TaskPatch(ids=tuple(TaskId(f"{n:025d}") for n in range(3)), started_at_ns=(1, 2)),
    ],
    ids=["unknown", "twice", "too few values"],
)
async def test_one_that_contradicts_the_state_is_not_applied(patch: TaskPatch) -> None:
    """It comes from a manager that saw another state, or from none."""
    store, _ = await leading()
    before = content(store)
    with pytest.raises(InvariantViolation):
        store.apply(store.version + 1, codec.encode(ChangeList(changes=(), patches=(patch,)), 8))
    assert content(store) == before


def test_what_changes_in_the_life_of_a_task_can_be_told_in_short() -> None:
    """The other fields are what it was made as: a new field has to be in the one group or the other."""
    made = {"id", "meta", "spec", "spec_version", "slot", "iteration", "ports"}
    made |= {"service_id", "service_name", "service_labels"}
    # What became of it the store writes by itself.
    assert {field.name for field in attrs.fields(Task)} - set(PATCHED) == made | {"story"}
    assert [field.name for field in attrs.fields(changes.TaskPatch)] == ["ids", "updated_at_ns", *PATCHED]


def assignment(tasks: tuple[Task, ...]) -> TaskPatch:
    """All of them to the node."""
    ids = tuple(each.id for each in tasks)
    return TaskPatch(ids=ids, node_id=(NodeId("n"),), status=(ASSIGNED,), applied_at_ns=(5,))


@pytest.mark.parametrize("schema", [codec.SERVICES_VERSION - 1, codec.SERVICES_VERSION])
async def test_a_decision_is_written_where_patches_are_read_and_where_not(schema: int) -> None:
    """The same tasks, in one entry or in as many as whole tasks take."""
    store, proposer = await leading(schema)
    transaction, other = await leading(schema)
    tasks = store.view().tasks()
    await store.patch(tasks, assignment(tasks))
    await transaction.update(assign)
    assert content(store) == content(transaction) == content(follower(proposer.entries))
    assert max(data[0] for data in proposer.entries[1:]) == max(data[0] for data in other.entries[1:])


@pytest.mark.parametrize("schema", [codec.SERVICES_VERSION - 1, codec.SERVICES_VERSION])
async def test_a_decision_on_what_is_no_longer_so_is_refused_whole(schema: int) -> None:
    """Also when the other write is in flight still; a task that is gone is said to be."""
    store, _ = await leading(schema)
    tasks = store.view().tasks()
    late = LateProposer(store)
    store.set_proposer(late)
    running = asyncio.create_task(store.update(lambda tx: tx.update(attrs.evolve(tasks[7], started_at_ns=1))))
    await asyncio.sleep(0)
    with pytest.raises(VersionConflict):
        await store.patch(tasks, assignment(tasks))
    late.commit()
    await running
    deleting = asyncio.create_task(store.update(lambda tx: tx.delete(tasks[3])))
    await asyncio.sleep(0)
    with pytest.raises(NotFound, match=tasks[3].id):
        await store.patch(tasks[:5], assignment(tasks[:5]))
    late.commit()
    await deleting
    assert not [each for each in store.view().tasks() if each.node_id]
    store.set_proposer(None)
    with pytest.raises(NotLeader):
        await store.patch(tasks[:3], assignment(tasks[:3]))


async def test_patches_in_flight_are_seen_and_follow_each_other() -> None:
    """A second one is on top of the first, and nothing is left of either once they are applied."""
    store, first = await leading()
    tasks = store.view().tasks()
    late = LateProposer(store)
    store.set_proposer(late)
    writing = [asyncio.create_task(store.patch(tasks, assignment(tasks)))]
    await asyncio.sleep(0)

    def start(tx: Tx) -> None:
        assert len(tx.tasks_on_node("n")) == 100
        assert not tx.tasks_waiting()
        tx.update(attrs.evolve(tx.tasks()[0], started_at_ns=9))

    writing.append(asyncio.create_task(store.update(start)))
    await asyncio.sleep(0)
    assert not store.view().tasks_on_node("n")
    late.commit(1)
    assert [each.started_at_ns for each in store.view().tasks_on_node("n")] == [0] * 100
    assert await store.update(lambda tx: tx.tasks()[0].started_at_ns) == 9
    late.commit()
    await asyncio.gather(*writing)
    assert [each.started_at_ns for each in store.view().tasks_on_node("n")] == [9] + [0] * 99
    assert content(follower([*first.entries, *(data for _, data in late.log)])) == content(store)


async def test_one_that_is_too_large_for_an_entry_is_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole tasks, each small enough."""
    store, proposer = await leading()
    monkeypatch.setattr("swarmpy.store.memory.MAX_ENTRY_BYTES", 4_000)
    tasks = store.view().tasks()
    names = tuple((GenericResource(kind="gpu", names=(f"{n}" * 50,)),) for n in range(100))
    await store.patch(tasks, attrs.evolve(assignment(tasks), generic=names))
    assert [each.generic for each in store.view().tasks()] == list(names)
    assert len(proposer.entries) > 3
    assert max(map(len, proposer.entries[1:])) <= 4_000

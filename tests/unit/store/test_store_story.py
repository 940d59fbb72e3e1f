"""What became of a task is kept by the store, with no byte in the log, once all managers know of it."""

from __future__ import annotations

from typing import Any

import attrs
from store_world import FixedClock, InstantProposer, Pending, cluster, service, task

from swarmpy.model import codec, story
from swarmpy.model.objects import Task, TaskStatus
from swarmpy.model.states import Cause, TaskState
from swarmpy.store.memory import Store

MS = 1_000_000
STEPS: tuple[dict[str, Any], ...] = (
    {"status": TaskStatus(state=TaskState.PENDING)},
    {"status": TaskStatus(state=TaskState.PENDING, err="no suitable node")},
    {"status": TaskStatus(state=TaskState.RUNNING)},
    {"desired_state": TaskState.SHUTDOWN, "cause": Cause.UPDATE, "status": TaskStatus(state=TaskState.FAILED)},
)


class Recording(InstantProposer):
    """Also keeps the log."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.log: list[bytes] = []

    def propose(self, data: bytes) -> Pending:
        """Write it down."""
        self.log.append(data)
        return super().propose(data)


async def written(schema: int) -> tuple[Store, list[bytes]]:
    """A leader's store in which a task went through the steps, a millisecond each, and the log."""
    clock = FixedClock()
    store = Store(clock)
    proposer = Recording(store)
    store.set_proposer(proposer)
    await store.update(lambda tx: tx.create(cluster(schema)))
    await store.update(lambda tx: tx.create(service("web")))
    await store.update(lambda tx: tx.create(task("t", "id-web")))
    for step in STEPS:
        clock.now_ns += MS
        await store.update(
            lambda tx, step=step: tx.update(attrs.evolve(tx.task("t"), **step))  # type: ignore[misc]
        )
    return store, proposer.log


def task_of(store: Store) -> Task:
    """The one task."""
    (found,) = store.view().tasks()
    return found


async def test_the_story_goes_on_with_each_change_of_a_state() -> None:
    """With the times of the changes, and the cause of a desired state; another reason to wait is no new state."""
    store, log = await written(codec.SERVICES_VERSION)
    found = task_of(store)
    created = found.meta.created_at_ns
    assert [(m.at_ns - created, m.state, m.cause) for m in story.read(found.story, created)] == [
        (1 * MS, TaskState.PENDING, Cause.NONE),
        (3 * MS, TaskState.RUNNING, Cause.NONE),
        (4 * MS, TaskState.SHUTDOWN, Cause.UPDATE),
        (4 * MS, TaskState.FAILED, Cause.NONE),
    ]
    assert not any(b"story" in data for data in log)


async def test_every_manager_tells_the_same_story() -> None:
    """By the log, and by a snapshot and the rest of the log."""
    store, log = await written(codec.SERVICES_VERSION)
    follower, late = Store(FixedClock()), Store(FixedClock())
    for index, data in enumerate(log[:-1], 1):
        follower.apply(index, data)
    await late.restore(await follower.snapshot())
    for other in (follower, late):
        other.apply(len(log), log[-1])
        assert task_of(other) == task_of(store)


async def test_nothing_is_told_while_there_are_managers_that_do_not_know_of_it() -> None:
    """Neither a story nor a cause is written, and nothing is refused for it."""
    store, log = await written(codec.SERVICES_VERSION - 1)
    found = task_of(store)
    assert (found.status.state, found.story, found.cause) == (TaskState.FAILED, b"", Cause.NONE)
    assert max(data[0] for data in log) < codec.SERVICES_VERSION
    assert not any(b"cause" in data for data in log)

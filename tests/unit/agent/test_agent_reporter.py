"""Statuses on their way to a manager."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import attrs
import pytest
from agent_world import eventually

from swarmpy.agent.reporter import MAX_BATCH, Reporter, Send
from swarmpy.errors import FailedPrecondition, NoQuorum, OutcomeUnknown
from swarmpy.model import codec
from swarmpy.model.assignments import StatusReport, TaskStatusUpdate
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import ContainerStatus, PortStatus, TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.wire.serving import ServerConfig

A = TaskId("a")
RUNNING = TaskStatus(state=TaskState.RUNNING)
FAILED = TaskStatus(state=TaskState.FAILED)


@contextlib.asynccontextmanager
async def sending(reporter: Reporter, send: Send) -> AsyncIterator[None]:
    """The reporter at work."""
    task = asyncio.create_task(reporter.run(send))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_batches_are_bounded() -> None:
    """A report carries at most MAX_BATCH statuses; the rest follows."""
    reporter, sizes = Reporter(random.Random(1)), []

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        sizes.append(len(updates))

    for i in range(MAX_BATCH + 5):
        reporter.put(TaskId(str(i)), RUNNING)
    async with sending(reporter, send):
        await eventually(lambda: not reporter.pending)
    assert sizes == [MAX_BATCH, 5]


async def test_latest_wins_and_nothing_falls() -> None:
    """Of several statuses of a task the latest is sent, and never a lower one after a higher."""
    reporter, sent = Reporter(random.Random(1)), []

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        sent.extend(update.status for update in updates)

    reporter.put(A, RUNNING)
    reporter.put(A, FAILED)
    reporter.put(A, RUNNING)
    async with sending(reporter, send):
        await eventually(lambda: not reporter.pending)
        reporter.put(A, RUNNING)
    assert sent == [FAILED]
    assert reporter.pending == 0


async def test_what_changes_while_it_is_sent_is_sent_again() -> None:
    """A status that came while the older one was on its way is not taken as confirmed."""
    reporter, sent = Reporter(random.Random(1)), []

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        sent.extend(update.status for update in updates)
        if len(sent) == 1:
            reporter.put(A, FAILED)

    reporter.put(A, RUNNING)
    async with sending(reporter, send):
        await eventually(lambda: not reporter.pending)
    assert sent == [RUNNING, FAILED]


@pytest.mark.parametrize("error", [NoQuorum("no"), OutcomeUnknown("lost")])
async def test_unconfirmed_is_sent_again(error: Exception) -> None:
    """What a manager could not confirm is sent again until it does."""
    reporter, tries = Reporter(random.Random(1)), []

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        tries.append(updates)
        if len(tries) == 1:
            raise error

    reporter.put(A, RUNNING)
    async with sending(reporter, send):
        await eventually(lambda: not reporter.pending)
    assert len(tries) == 2


async def test_a_refusal_ends_the_session_but_loses_nothing() -> None:
    """An error that is no matter of time is raised, and what was to be sent stays pending."""
    reporter = Reporter(random.Random(1))

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        raise FailedPrecondition("this session has ended")

    reporter.put(A, RUNNING)
    with pytest.raises(FailedPrecondition):
        await reporter.run(send)
    assert reporter.pending == 1
    reporter.forget(A)
    assert reporter.pending == 0


async def test_the_longest_report_is_one_that_managers_take() -> None:
    """However long the reasons are that a runtime gives, and whatever is in them: a report fits a worker's frame."""
    reporter = Reporter(random.Random(1))
    sent: list[bytes] = []

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        report = StatusReport(session_id="s" * 25, updates=updates)
        sent.append(codec.pack(codec.to_plain(report)))

    ports = tuple(
        PortStatus(target_port=65535, published_port=65535, publish_mode="host", host_address="n" * 64, host_port=65535)
        for _ in range(40)
    )
    for number in range(MAX_BATCH):
        text = "\N{WHALE}" * 100_000
        status = TaskStatus(state=TaskState.FAILED, timestamp_ns=2**62, message=text, err=text, ports=ports)
        reporter.put(TaskId(f"{number:025}"), attrs.evolve(status, container=ContainerStatus(container_id="c" * 64)))
    async with sending(reporter, send):
        await eventually(lambda: not reporter.pending)
    assert 1 < len(sent) < MAX_BATCH
    assert max(map(len, sent)) < ServerConfig().worker_frame_bytes - 1000
    assert len(sent[0]) > ServerConfig().worker_frame_bytes / 2


async def test_short_reports_go_together() -> None:
    """As many as there may be, where they are what they mostly are."""
    reporter = Reporter(random.Random(1))
    sent: list[int] = []

    async def send(updates: tuple[TaskStatusUpdate, ...]) -> None:
        sent.append(len(updates))

    ports = (PortStatus(target_port=80, published_port=80, host_address="192.0.2.1", host_port=40000),)
    for number in range(MAX_BATCH + 1):
        reporter.put(TaskId(f"{number:025}"), TaskStatus(state=TaskState.RUNNING, message="started", ports=ports))
    async with sending(reporter, send):
        await eventually(lambda: not reporter.pending)
    assert sent == [MAX_BATCH, 1]

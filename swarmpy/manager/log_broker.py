"""The leader brings together what tasks on all nodes have written, for one reader at a time or a few.

A reader opens a subscription and asks for more, again and again. The nodes that run its tasks are told in their
sessions, and send batches, which wait here until the reader takes them: a subscription holds a bounded number of bytes,
and what does not fit is turned away and sent again later, so a slow reader slows its sources and fills nothing. A node
that is gone, or does not answer, costs a line that says so, and never holds up the others.

As in swarmkit's log broker the request goes to the nodes and the data comes back by calls of theirs; nobody listens on
a worker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

import attrs

from swarmpy.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from swarmpy.model.grammar import shown
from swarmpy.model.ids import NodeId, TaskId, encode_id
from swarmpy.model.logs import (
    ALL_LINES,
    MAX_BATCH_BYTES,
    LogBatch,
    LogBatchReply,
    LogOptions,
    LogOrder,
    LogPart,
    LogParts,
    LogQuestion,
    unpack_lines,
)
from swarmpy.model.objects import Task
from swarmpy.model.rates import Buckets, Rate
from swarmpy.model.states import NodeState, TaskState
from swarmpy.ports import Clock, Random
from swarmpy.store.memory import Store
from swarmpy.store.view import View
from swarmpy.wire.router import MAX_NODES

LOG_LEVEL = 2
"""The AGENT_LEVEL since which agents send logs."""
MAX_SUBSCRIPTIONS = 16
BUFFER_BYTES = 256 * 1024
"""Of one subscription. The last batch may go beyond it."""
WAIT_S = 2.0
"""How long a question for more waits for something, and how often it looks for new tasks while it does."""
LOOK_S = 0.25
FORGET_S = 60.0
"""A subscription whose reader does not ask for so long is dropped."""
ABSENT_S = 3.0
"""How long a node without a session is waited for."""
SILENT_S = 10.0
"""How long a node may say nothing of what it was asked for, where nobody follows."""
PUBLISHED = Rate(burst=2 * 1024 * 1024, per_s=512 * 1024)
"""Bytes that one worker sends: half of what is read of it at all, so that its heartbeats come through."""
HOLD_S = 1.0
"""How far beyond that a batch is held back; one that comes later than that is turned away."""
_NO_LOG = frozenset({TaskState.REJECTED, TaskState.ORPHANED, TaskState.REMOVE})


@attrs.define(eq=False)
class _Source:
    """One task of a subscription."""

    node_id: NodeId
    service_id: str
    since: float
    """When the node was last there, or asked."""
    after_ns: int = 0
    is_late: bool = False
    """It came while others were read already."""
    last: tuple[str, int] = ("", 0)
    """The session and number of the last batch that was taken."""
    ended: bool = False
    told_absent: bool = False


@attrs.define(eq=False)
class _Subscription:
    id: str
    question: LogQuestion
    asked_at: float
    sources: dict[TaskId, _Source] = attrs.Factory(dict)
    parts: deque[LogPart] = attrs.Factory(deque)
    size: int = 0
    news: asyncio.Event = attrs.Factory(asyncio.Event)

    def put(self, part: LogPart) -> None:
        """Keep it for the reader."""
        self.parts.append(part)
        self.size += len(part.lines) + len(part.notice)
        self.news.set()

    def take(self) -> tuple[LogPart, ...]:
        """All there is."""
        parts = tuple(self.parts)
        self.parts.clear()
        self.size = 0
        self.news.clear()
        return parts


class LogBroker:
    """One term of office. ``level`` gives the AGENT_LEVEL of a node that has a session, None of one that has none;
    ``wake`` is told of nodes for which there is something new to tell."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random: Random,
        *,
        level: Callable[[NodeId], int | None],
        wake: Callable[[Iterable[NodeId]], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._level = level
        self._wake = wake
        self._subscriptions: dict[str, _Subscription] = {}
        self._rates: Buckets[NodeId] = Buckets(PUBLISHED, most=MAX_NODES)

    # -- readers --------------------------------------------------------------------------------------------------

    def open(self, question: LogQuestion) -> str:
        """Begin a subscription; its id. Raises NotFound, and Unavailable when there are too many."""
        self._forget_idle()
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Unavailable(f"{MAX_SUBSCRIPTIONS} logs are being read already: end one of them, or try again shortly")
        view = self._store.view()
        if question.service_id and view.service(question.service_id) is None:
            raise NotFound(f"service {question.service_id} not found")
        if question.task_id and view.task(TaskId(question.task_id)) is None:
            raise NotFound(f"task {question.task_id} not found")
        subscription = _Subscription(encode_id(self._random.randbytes(16)), question, self._clock.monotonic())
        self._subscriptions[subscription.id] = subscription
        self._look(subscription)
        return subscription.id

    async def more(self, subscription_id: str) -> LogParts:
        """What has come since the last time; waits up to WAIT_S for something. Raises NotFound."""
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            raise NotFound("this log is not read any more: begin anew")
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_S
        while True:
            subscription.asked_at = self._clock.monotonic()
            # The end of one of several logs is news, and nothing to take.
            subscription.news.clear()
            self._look(subscription)
            over = self._is_over(subscription)
            if subscription.parts or over or loop.time() >= until:
                parts = subscription.take()
                if over:
                    self.close(subscription_id)
                return LogParts(parts=parts, ended=over)
            try:
                async with asyncio.timeout(LOOK_S):
                    await subscription.news.wait()
            except TimeoutError:
                continue

    def close(self, subscription_id: str) -> None:
        """Nobody reads it any more."""
        subscription = self._subscriptions.pop(subscription_id, None)
        if subscription is not None:
            self._wake({source.node_id for source in subscription.sources.values()})

    # -- nodes ----------------------------------------------------------------------------------------------------

    def orders(self, node_id: NodeId) -> tuple[LogOrder, ...]:
        """Which logs a node is to send."""
        return tuple(
            LogOrder(
                id=subscription.id,
                task_id=task_id,
                options=_options(subscription.question.options, source),
            )
            for subscription in self._subscriptions.values()
            for task_id, source in subscription.sources.items()
            if source.node_id == node_id and not source.ended
        )

    async def publish(self, node_id: NodeId, batch: LogBatch, *, limited: bool) -> LogBatchReply:
        """Take a batch of a node in; ``limited``: it is a worker, which has a rate.

        Raises PermissionDenied for a task that the node was not asked for, InvalidArgument for what is no batch,
        Unavailable for a node that sends too much at once.
        """
        if self._wanted(node_id, batch) is None:
            return LogBatchReply(wanted=False)
        if len(batch.lines) > MAX_BATCH_BYTES:
            raise InvalidArgument(f"a batch of a log has {MAX_BATCH_BYTES} bytes at most")
        if limited:
            await self._hold_back(node_id, len(batch.lines))
        last_ns = max((line.timestamp_ns for line in unpack_lines(batch.lines)), default=0)
        found = self._wanted(node_id, batch)
        if found is None:
            return LogBatchReply(wanted=False)
        subscription, source = found
        for each in subscription.sources.values():
            if each.node_id == node_id:
                each.since = self._clock.monotonic()
        if subscription.size >= BUFFER_BYTES:
            return LogBatchReply(accepted=False)
        if source.last == (batch.session_id, batch.number):
            return LogBatchReply()
        source.last = (batch.session_id, batch.number)
        source.after_ns = max(source.after_ns, last_ns)
        if batch.lines:
            subscription.put(self._part(batch.task_id, source, lines=batch.lines))
        if batch.ended:
            source.ended = True
            if batch.error:
                self._tell(subscription, batch.task_id, source, batch.error[:256])
            subscription.news.set()
        return LogBatchReply()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _wanted(self, node_id: NodeId, batch: LogBatch) -> tuple[_Subscription, _Source] | None:
        subscription = self._subscriptions.get(batch.id)
        if subscription is None:
            return None
        source = subscription.sources.get(batch.task_id)
        if source is None or source.node_id != node_id:
            raise PermissionDenied(f"node {node_id} was not asked for the log of task {shown(batch.task_id)}")
        return None if source.ended else (subscription, source)

    async def _hold_back(self, node_id: NodeId, size: int) -> None:
        now = self._clock.monotonic()
        bucket = self._rates.of(node_id, now)
        if (wait_s := bucket.wait_s(now)) > HOLD_S:
            # Each batch that is held back is in memory.
            raise Unavailable(f"node {node_id} sends too much at once: again in {wait_s:.1f} s")
        if (wait_s := bucket.owe(now, size)) > 0:
            await asyncio.sleep(wait_s)

    def _forget_idle(self) -> None:
        now = self._clock.monotonic()
        for subscription in list(self._subscriptions.values()):
            if now - subscription.asked_at > FORGET_S:
                self.close(subscription.id)

    def _look(self, subscription: _Subscription) -> None:
        """Take in tasks that have come, and give up those whose node is away."""
        view, now = self._store.view(), self._clock.monotonic()
        is_late = bool(subscription.sources)
        added: set[NodeId] = set()
        for task in _tasks(view, subscription.question):
            if task.node_id is None or task.id in subscription.sources:
                continue
            if task.status.state < TaskState.STARTING or task.status.state in _NO_LOG:
                continue
            after_ns = max(0, subscription.question.after.get(task.id, 0))
            subscription.sources[task.id] = _Source(task.node_id, task.service_id, now, after_ns, is_late)
            added.add(task.node_id)
        for task_id, source in list(subscription.sources.items()):
            if source.ended and view.task(task_id) is None:
                del subscription.sources[task_id]
            elif not source.ended:
                self._check_source(view, subscription, task_id, source, now)
        if added:
            self._wake(added)

    def _check_source(
        self, view: View, subscription: _Subscription, task_id: TaskId, source: _Source, now: float
    ) -> None:
        level, follow = self._level(source.node_id), subscription.question.options.follow
        if level is not None and level < LOG_LEVEL:
            source.ended = True
            self._tell(
                subscription, task_id, source, "its node runs a version of swarmpy that sends no logs: upgrade it"
            )
        elif level is None and now - source.since > ABSENT_S:
            if not source.told_absent:
                self._tell(subscription, task_id, source, _why_absent(view, source.node_id))
            source.told_absent = True
            task = view.task(task_id)
            # Who follows waits for the node to come back, unless nothing more will be written there.
            source.ended = not follow or task is None or task.status.state.is_terminal
        elif level is not None and source.told_absent:
            source.told_absent, source.since = False, now
        elif level is not None and not follow and now - source.since > SILENT_S:
            source.ended = True
            self._tell(subscription, task_id, source, f"its node did not answer within {SILENT_S:g} s")

    def _is_over(self, subscription: _Subscription) -> bool:
        if not all(source.ended for source in subscription.sources.values()):
            return False
        question, view = subscription.question, self._store.view()
        if not question.options.follow:
            return True
        if question.service_id:
            return view.service(question.service_id) is None and not list(_tasks(view, question))
        task = view.task(TaskId(question.task_id))
        return task is None or task.status.state.is_terminal

    def _tell(self, subscription: _Subscription, task_id: TaskId, source: _Source, why: str) -> None:
        subscription.put(self._part(task_id, source, notice=f"the log of task {task_id} cannot be had: {why}"))

    def _part(self, task_id: TaskId, source: _Source, *, lines: bytes = b"", notice: str = "") -> LogPart:
        return LogPart(
            task_id=task_id, node_id=source.node_id, service_id=source.service_id, lines=lines, notice=notice
        )


def _options(asked: LogOptions, source: _Source) -> LogOptions:
    """Of a task that comes later all is news: ``tail`` is for what there was."""
    return attrs.evolve(asked, after_ns=source.after_ns, tail=ALL_LINES if source.is_late else asked.tail)


def _tasks(view: View, question: LogQuestion) -> Iterable[Task]:
    if question.service_id:
        return view.tasks_of_service(question.service_id)
    task = view.task(TaskId(question.task_id))
    return () if task is None else (task,)


def _why_absent(view: View, node_id: NodeId) -> str:
    node = view.node(node_id)
    if node is None:
        return f"its node {node_id} was removed from the cluster"
    name = node.description.hostname or node_id
    state = "is down" if node.status.state is NodeState.DOWN else "has no session with the leader"
    return f"its node {name} {state}"

"""One session with one manager: from introduction to whatever ends it. It never looks for another manager."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NoReturn, cast

import attrs
import structlog

from swarmpy.agent.dependencies import DependencyKeeper
from swarmpy.agent.leaving import Leaving
from swarmpy.agent.log_sender import LogSender, Read
from swarmpy.agent.reporter import Reporter
from swarmpy.agent.routing import Routing
from swarmpy.agent.worker import Worker
from swarmpy.errors import ConnectionFailed, DeadlineExceeded, ProtocolViolation, SwarmpyError, Unavailable
from swarmpy.model import codec
from swarmpy.model.assignments import (
    BEAT_S,
    MAX_PROBLEMS,
    AssignmentUpdate,
    Heartbeat,
    HeartbeatReply,
    SessionMessage,
    SessionRequest,
    StatusReport,
    TaskStatusUpdate,
)
from swarmpy.model.dependencies import DependenciesReply, DependenciesRequest
from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.logs import LogBatch, LogBatchReply
from swarmpy.ports import Channel

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 5.0
"""Most seconds until the first message: the leader writes the node's registration before it answers."""
REPORT_TIMEOUT_S = 5.0
"""Most seconds until a report is confirmed: it is committed first."""
DEPENDENCIES_TIMEOUT_S = 10.0
"""Most seconds until secrets and configs are there: they may be a megabyte, over a slow line."""
LOG_TIMEOUT_S = 15.0
"""Most seconds until a batch of a log is taken or turned away: a worker that sends much is held back."""
HEARTBEAT_TIMEOUT_MIN_S = 1.0
DEFAULT_PERIOD_S = 1.0
"""Between heartbeats, where the manager does not say."""


class Session:
    """One session over ``channel``.

    ``problems``, ``engine_away`` and ``leaving`` are told in heartbeats, which wait for nothing; ``admit`` gets the
    incarnation of the manager's cluster before anything else is taken of it, and raises to end the session;
    ``on_message`` gets each message after its assignments and endpoints are taken; ``read_log`` reads what a task has
    written; ``stale`` is set when ``request`` no longer describes the node, which ends the session.
    """

    def __init__(
        self,
        channel: Channel,
        request: SessionRequest,
        *,
        worker: Worker,
        routing: Routing,
        reporter: Reporter,
        dependencies: DependencyKeeper,
        problems: Callable[[], tuple[str, ...]],
        engine_away: Callable[[], bool],
        leaving: Callable[[], Leaving | None],
        admit: Callable[[int], Awaitable[None]],
        on_message: Callable[[SessionMessage], None],
        stale: asyncio.Event,
        read_log: Read,
    ) -> None:
        self._channel = channel
        self._request = request
        self._worker = worker
        self._routing = routing
        self._reporter = reporter
        self._dependencies = dependencies
        self._problems = problems
        self._engine_away = engine_away
        self._leaving = leaving
        self._admit = admit
        self._on_message = on_message
        self._stale = stale
        self._logs = LogSender(read_log, self._send_log)
        self._id = ""
        self._period_s = DEFAULT_PERIOD_S
        self._sequence = 0

    async def run(self, opened: Callable[[], None]) -> NoReturn:
        """Live until the session is over; ``opened`` is called after the first message.

        Raises what ended it: NotLeader, ConnectionFailed, FailedPrecondition (the manager has another session of this
        node), ProtocolViolation (an update that does not build on the last one), or another SwarmpyError.
        """
        stream = self._channel.stream("dispatcher.session", codec.to_plain(self._request))
        # Every stream can be closed, though the type of an iterator does not say so.
        async with contextlib.aclosing(cast("AsyncGenerator[Any, None]", stream)) as messages:
            first = await self._open(messages)
            over: BaseException | None = None
            try:
                async with asyncio.TaskGroup() as group:
                    # The manager counts from now on, and to be admitted it may have to wait for this node's disk.
                    group.create_task(self._heartbeats(), name="session-heartbeats")
                    group.create_task(self._watch_connection(), name="session-connection")
                    await self._admit(first.incarnation)
                    self._logs.begin(group)
                    self._take(first)
                    self._dependencies.begin_session(self._ask_dependencies)
                    opened()
                    group.create_task(self._receive(messages), name="session-receive")
                    group.create_task(self._reporter.run(self._send), name="session-reports")
                    group.create_task(self._watch_description(), name="session-description")
            except* SwarmpyError as errors:
                over = errors.exceptions[0]
            finally:
                self._dependencies.end_session()
            assert over is not None, "a session ends with a reason"
            raise over

    async def _open(self, messages: AsyncGenerator[Any, None]) -> SessionMessage:
        self._routing.begin_session()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                first = codec.from_plain(SessionMessage, await anext(messages))
        except TimeoutError:
            raise DeadlineExceeded(f"the manager opened no session within {OPEN_TIMEOUT_S:g} s") from None
        except StopAsyncIteration:
            raise Unavailable("the manager ended the session before it began") from None
        if not first.session_id:
            raise ProtocolViolation("the manager's first message has no session id")
        self._id = first.session_id
        self._set_period(first.heartbeat_period_ns)
        return first

    async def _receive(self, messages: AsyncGenerator[Any, None]) -> None:
        async for item in messages:
            message = codec.from_plain(SessionMessage, item)
            self._set_period(message.heartbeat_period_ns)
            self._take(message)
        raise Unavailable("the manager ended the session")

    def _take(self, message: SessionMessage) -> None:
        # Endpoints first: what a manager knows to be gone is no longer routed to when it is told to stop.
        if message.endpoints is not None:
            self._routing.receive(message.endpoints)
        if message.assignments is not None:
            self._assign(message.assignments)
        if message.logs is not None:
            self._logs.take(message.logs)
        self._on_message(message)

    def _assign(self, update: AssignmentUpdate) -> None:
        if update.base_sequence not in (0, self._sequence):
            raise ProtocolViolation(
                f"assignments {update.sequence} build on {update.base_sequence}, this node has {self._sequence}"
            )
        self._sequence = update.sequence
        self._worker.assign(update)

    def _set_period(self, period_ns: int) -> None:
        if period_ns > 0:
            self._period_s = period_ns / 1e9

    async def _heartbeats(self) -> None:
        while True:
            period_s = self._period_s if self._leaving() is None else min(self._period_s, BEAT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._routing.news.wait()
            self._routing.news.clear()
            leaving = self._leaving()
            beat = Heartbeat(
                session_id=self._id,
                endpoints_version=self._routing.applied_version,
                problems=self._problems()[:MAX_PROBLEMS],
                engine_away=self._engine_away(),
                leaving=leaving is not None,
            )
            timeout = max(HEARTBEAT_TIMEOUT_MIN_S, self._period_s)
            plain = await self._channel.call("dispatcher.heartbeat", codec.to_plain(beat), timeout=timeout)
            reply = codec.from_plain(HeartbeatReply, plain)
            self._set_period(reply.period_ns)
            if leaving is not None:
                leaving.heard(reply.departure)

    async def _send(self, updates: tuple[TaskStatusUpdate, ...]) -> None:
        report = StatusReport(session_id=self._id, updates=updates)
        await self._channel.call("dispatcher.report", codec.to_plain(report), timeout=REPORT_TIMEOUT_S)

    async def _ask_dependencies(
        self, task_id: TaskId, secrets: tuple[SecretId, ...], configs: tuple[ConfigId, ...]
    ) -> DependenciesReply:
        request = DependenciesRequest(session_id=self._id, task_id=task_id, secrets=secrets, configs=configs)
        plain = codec.to_plain(request)
        reply = await self._channel.call("dispatcher.dependencies", plain, timeout=DEPENDENCIES_TIMEOUT_S)
        return codec.from_plain(DependenciesReply, reply)

    async def _send_log(self, batch: LogBatch) -> LogBatchReply:
        plain = codec.to_plain(attrs.evolve(batch, session_id=self._id))
        reply = await self._channel.call("dispatcher.log", plain, timeout=LOG_TIMEOUT_S)
        return codec.from_plain(LogBatchReply, reply)

    async def _watch_connection(self) -> None:
        await self._channel.wait_closed()
        raise ConnectionFailed("the connection to the manager is gone")

    async def _watch_description(self) -> None:
        await self._stale.wait()
        raise Unavailable("this node's description has changed: it introduces itself again")

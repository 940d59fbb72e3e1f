"""What a node is to be told next: its tasks and the endpoint table, whatever is different from what it was told."""

from __future__ import annotations

import math
from collections.abc import Callable

from swarmpy.manager.agent_session import Session
from swarmpy.manager.assignments import StopGate, TaskSizes, node_tasks
from swarmpy.manager.certificates import role_wanted
from swarmpy.manager.log_broker import LOG_LEVEL, LogBroker
from swarmpy.manager.trust import Orders
from swarmpy.model.assignments import AGENT_LEVEL, ManagerAddress, SessionMessage, TaskStatusUpdate
from swarmpy.model.dependencies import is_needed
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.since import agent_level, what_needs
from swarmpy.model.states import TaskState
from swarmpy.network.endpoints import EndpointTable
from swarmpy.store.view import View

PART_BYTES = 1024 * 1024
"""Of the tasks in one message, unless a single one is larger: all of a node's may be more than a frame takes."""


class Messages:
    """Of one term of office, from what its dispatcher keeps."""

    def __init__(
        self,
        *,
        gate: StopGate,
        table: EndpointTable,
        logs: LogBroker,
        managers: Callable[[], tuple[ManagerAddress, ...]],
        orders: Callable[[NodeId], Orders | None],
        period_ns: Callable[[], int],
    ) -> None:
        """``orders``: what a node is to be told about root CAs; ``period_ns``: between two heartbeats."""
        self._gate = gate
        self._table = table
        self._logs = logs
        self._managers = managers
        self._orders = orders
        self._period_ns = period_ns
        self._sizes = TaskSizes()

    def next(self, view: View, session: Session) -> SessionMessage | None:
        """The next message of ``session``, which counts as told; None when there is nothing new.

        Closes the session of a node that is gone.
        """
        node = view.node(session.node_id)
        if node is None:
            session.closed = True
            return None
        first = session.told.sequence == 0
        wanted = node_tasks(view, session.node_id, self._gate.is_held)
        if session.level < AGENT_LEVEL:
            wanted = {task_id: task for task_id, task in wanted.items() if agent_level(task) <= session.level}
        # One of a version before parts would stop what is not in the first.
        most = PART_BYTES if session.level else math.inf
        assignments = session.told.next_update(wanted, self._sizes.of, most)
        endpoints = self._table.update_since(session.endpoints_sent)
        if endpoints is not None:
            session.endpoints_sent = endpoints.version
        managers = self._managers()
        # A manager that is being demoted stays one until it has left the Raft group.
        role, cluster = role_wanted(node), view.cluster()
        orders = self._orders(session.node_id)
        news = orders if orders != session.orders else None
        logs = self._logs.orders(session.node_id) if session.level >= LOG_LEVEL else ()
        wanted_logs = frozenset((order.id, order.task_id) for order in logs)
        message = SessionMessage(
            session_id=session.id if first else "",
            incarnation=cluster.incarnation if first else 0,
            heartbeat_period_ns=self._period_ns() if first else 0,
            managers=managers if managers != session.managers else None,
            role=role if role != session.role else None,
            assignments=assignments,
            endpoints=endpoints,
            revoked=cluster.revoked if cluster.revoked != session.revoked else None,
            roots=news.roots if news is not None else None,
            issuer=news.issuer if news is not None else "",
            logs=logs if wanted_logs != session.logs else None,
        )
        session.logs = wanted_logs
        session.managers, session.role, session.revoked = managers, role, cluster.revoked
        session.orders = orders
        return None if message == SessionMessage() else message


def rejections(view: View, session: Session, now_ns: int) -> list[TaskStatusUpdate]:
    """What becomes of tasks that are kept from a node of an older version: it would run them without what they need."""
    updates = []
    for task in view.tasks_on_node(session.node_id):
        if agent_level(task) > session.level and is_needed(task):
            what = what_needs(task)
            err = f"node {session.node_id} runs a version of swarmpy that gives tasks no {what}: upgrade it"
            status = TaskStatus(state=TaskState.REJECTED, err=err, timestamp_ns=now_ns)
            updates.append(TaskStatusUpdate(task_id=task.id, status=status))
    return updates

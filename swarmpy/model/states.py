"""States, and who may move a task from which to which.

A task's observed state only ever rises: of two observations the larger one is right. Each step has one owner, given
in :data:`TRANSITIONS`; a state below RUNNING that was skipped over is fine as long as the owner may do both steps.
Numbers are Docker Swarm's (spaced by 64 in swarmkit's ``api/types.proto``), so that stored states can be compared.
"""

from __future__ import annotations

import enum
from types import MappingProxyType


class TaskState(enum.IntEnum):
    """How far a task has come. REMOVE is only ever a desired state."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    def __init__(self, value: int) -> None:
        # Attributes and no properties: they are asked for of every task, over and over.
        self.is_wanted = value <= 576
        """Of a desired state: True when the task is to run, for good (RUNNING) or until it completes (COMPLETE)."""
        self.is_terminal = value > 512
        """True when the task has ended for good (and REMOVE, which is beyond all running states)."""


class Cause(enum.IntEnum):
    """Why the desired state of a task is what it is. Numbers are stored: they are never given to another cause."""

    NONE = 0
    UPDATE = 1
    """What its service asks for has changed."""
    SCALE = 2
    """There are to be fewer."""
    RESTART = 3
    """It has ended, and another one takes its place, as the restart policy allows."""
    NODE_LOST = 4
    """Its node is down, or no member any more."""
    DRAIN = 5
    """Its node is drained."""
    MISPLACED = 6
    """Its node has changed under it: constraints, or resources."""
    REMOVED = 7
    """Its service was removed."""
    SURPLUS = 8
    """Another task does what it was made for."""
    EXECUTED_ANEW = 9
    """Its job is executed again."""
    DELAY_OVER = 10
    """What it had to wait for is over: it may start."""
    ROLLBACK = 11
    """Its service is rolled back."""

    @property
    def words(self) -> str:
        """To follow "because"; "" where there is nothing to say."""
        return _CAUSES[self]


_CAUSES = {
    Cause.NONE: "",
    Cause.UPDATE: "the service was updated",
    Cause.SCALE: "the service was scaled down",
    Cause.RESTART: "it had ended, and another task took its place",
    Cause.NODE_LOST: "its node was lost",
    Cause.DRAIN: "its node was drained",
    Cause.MISPLACED: "its node was no place for it any more",
    Cause.REMOVED: "the service was removed",
    Cause.SURPLUS: "another task does what it was made for",
    Cause.EXECUTED_ANEW: "the job is executed again",
    Cause.DELAY_OVER: "what it waited for was over",
    Cause.ROLLBACK: "the service was rolled back",
}


class Actor(enum.Enum):
    """Who moves a task."""

    ORCHESTRATOR = "orchestrator"
    ALLOCATOR = "allocator"
    SCHEDULER = "scheduler"
    AGENT = "agent"
    DISPATCHER = "dispatcher"
    ENFORCER = "enforcer"


_S = TaskState
_AGENT_PATH = (_S.ASSIGNED, _S.ACCEPTED, _S.PREPARING, _S.READY, _S.STARTING, _S.RUNNING)


def _agent_targets(state: TaskState) -> frozenset[TaskState]:
    later = {s for s in _AGENT_PATH if s > state}
    ended = {_S.COMPLETE, _S.SHUTDOWN, _S.FAILED} | ({_S.REJECTED} if state < _S.RUNNING else set())
    return frozenset(later | ended)


TRANSITIONS: MappingProxyType[Actor, MappingProxyType[TaskState, frozenset[TaskState]]] = MappingProxyType(
    {
        Actor.ALLOCATOR: MappingProxyType({_S.NEW: frozenset({_S.PENDING})}),
        Actor.SCHEDULER: MappingProxyType({_S.PENDING: frozenset({_S.ASSIGNED})}),
        Actor.AGENT: MappingProxyType({s: _agent_targets(s) for s in _AGENT_PATH}),
        # On behalf of a node that does not answer any more.
        Actor.DISPATCHER: MappingProxyType({s: frozenset({_S.ORPHANED}) for s in _AGENT_PATH}),
        # A task that was never given to a node is shut down by its orchestrator; there is nobody else to do it.
        Actor.ORCHESTRATOR: MappingProxyType({_S.NEW: frozenset({_S.SHUTDOWN}), _S.PENDING: frozenset({_S.SHUTDOWN})}),
        Actor.ENFORCER: MappingProxyType({s: frozenset({_S.REJECTED}) for s in (_S.ASSIGNED, *_AGENT_PATH)}),
    }
)


def may_advance(actor: Actor, old: TaskState, new: TaskState) -> bool:
    """True when ``actor`` may move a task's observed state from ``old`` to ``new``."""
    return new in TRANSITIONS[actor].get(old, frozenset())


class Role(enum.StrEnum):
    """What a node is in the cluster."""

    WORKER = "worker"
    MANAGER = "manager"


class ApiRole(enum.StrEnum):
    """What the holder of a client certificate may do at the API."""

    VIEWER = "viewer"
    ADMIN = "admin"


class Availability(enum.StrEnum):
    """What the operator lets a node do: take tasks, keep what it has, or get rid of all."""

    ACTIVE = "active"
    PAUSE = "pause"
    DRAIN = "drain"


class NodeState(enum.StrEnum):
    """What the managers know of a node. UNKNOWN: a new leader has not heard of it yet."""

    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class ServiceMode(enum.StrEnum):
    """How many tasks a service has: a number of replicas, or one on every eligible node.

    The tasks of a job are to complete: a number of them, or one on every eligible node.
    """

    REPLICATED = "replicated"
    GLOBAL = "global"
    REPLICATED_JOB = "replicated-job"
    GLOBAL_JOB = "global-job"

    @property
    def is_job(self) -> bool:
        """True when its tasks are to complete, and then do not run again."""
        return self in (ServiceMode.REPLICATED_JOB, ServiceMode.GLOBAL_JOB)

    @property
    def is_global(self) -> bool:
        """True when each node is a slot."""
        return self in (ServiceMode.GLOBAL, ServiceMode.GLOBAL_JOB)


class UpdateState(enum.StrEnum):
    """How far the update of a service has come (Docker's words, API spelling)."""

    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"

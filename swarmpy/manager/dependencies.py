"""The leader gives nodes the data of secrets and configs: to whom, what, and how much of it.

A node gets what a task that was assigned to it refers to, while that task is not over and is to run; and nothing else,
whatever it says. What it was given it has: there is no taking back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from swarmpy.errors import InvalidArgument, PermissionDenied, Unavailable
from swarmpy.model.dependencies import (
    MAX_IDS,
    Content,
    DependenciesReply,
    DependenciesRequest,
    configs_of,
    is_needed,
    secrets_of,
)
from swarmpy.model.grammar import shown
from swarmpy.model.ids import ConfigId, NodeId, SecretId
from swarmpy.model.objects import Task
from swarmpy.model.rates import Buckets, Rate
from swarmpy.ports import Clock
from swarmpy.store.memory import Store
from swarmpy.wire.bounded_log import BoundedLog
from swarmpy.wire.router import MAX_NODES

log = structlog.get_logger(__name__)

REPLY_BYTES = 1024 * 1024
"""Of the data of one answer, unless a single object is larger: packing and encrypting it holds the loop."""
DELIVERED = Rate(burst=64 * 1024 * 1024, per_s=8 * 1024 * 1024)
"""Bytes that one node gets. A node asks for each object once, however many of its tasks refer to it."""


class Deliveries:
    """One term of office."""

    def __init__(self, store: Store, clock: Clock, bounded: BoundedLog) -> None:
        self._store = store
        self._clock = clock
        self._bounded = bounded
        self._delivered: Buckets[NodeId] = Buckets(DELIVERED, most=MAX_NODES)

    def answer(self, node_id: NodeId, request: DependenciesRequest) -> DependenciesReply:
        """As much as one answer holds of what ``node_id``, which is who it says, asks for.

        Raises PermissionDenied when any of it is not for that node; Unavailable for a node that was given too much
        already; InvalidArgument for too many ids.
        """
        if len(request.secrets) + len(request.configs) > MAX_IDS:
            raise InvalidArgument(f"a node asks for {MAX_IDS} secrets and configs at a time at most")
        view, now = self._store.view(), self._clock.monotonic()
        task = view.task(request.task_id)
        self._authorise(node_id, task, request)
        bucket = self._delivered.of(node_id, now)
        if wait_s := bucket.wait_s(now):
            raise Unavailable(f"node {node_id} was given too much at once: again in {wait_s:.1f} s")
        secrets: dict[SecretId, Content] = {}
        configs: dict[ConfigId, Content] = {}
        missing: list[str] = []
        size = 0

        def fits(data: bytes) -> bool:
            nonlocal size
            if size and size + len(data) > REPLY_BYTES:
                return False
            size += max(1, len(data))
            return True

        for secret_id in request.secrets:
            secret = view.secret(secret_id)
            if secret is None:
                missing.append(secret_id)
            elif fits(secret.spec.data):
                secrets[secret_id] = Content(data=secret.spec.data, templating=secret.spec.templating)
        for config_id in request.configs:
            config = view.config(config_id)
            if config is None:
                missing.append(config_id)
            elif fits(config.spec.data):
                configs[config_id] = Content(data=config.spec.data, templating=config.spec.templating)
        bucket.owe(now, size)
        return DependenciesReply(secrets=secrets, configs=configs, missing=tuple(missing))

    def _authorise(self, node_id: NodeId, task: Task | None, request: DependenciesRequest) -> None:
        ids = {"secret": request.secrets, "config": request.configs}
        if task is None or task.node_id != node_id:
            refused, tell = f"task {shown(request.task_id)} is not one of node {node_id}", log.warning
        elif not is_needed(task):
            # An honest node may ask too late: it hears of the end of a task a moment after it was decided.
            refused, tell = f"task {task.id} is over, or is to end", log.info
        else:
            allowed = {"secret": secrets_of(task), "config": configs_of(task)}
            strange = [(kind, i) for kind in ids for i in _not_in(ids[kind], allowed[kind])]
            if not strange:
                return
            kind, object_id = strange[0]
            if object_id == task.spec.container.pull_secret_id:
                refused, tell = f"task {task.id} runs: its image is not pulled any more", log.info
            else:
                refused, tell = f"task {task.id} does not refer to {kind} {shown(object_id)}", log.warning
        self._refuse(tell, node_id, request, refused)

    def _refuse(self, tell: Callable[..., object], node_id: NodeId, request: DependenciesRequest, reason: str) -> None:
        ids = " ".join((*request.secrets, *request.configs))
        self._bounded.tell(tell, "secret_refused", node_id, node=node_id, task=request.task_id, ids=ids, reason=reason)
        raise PermissionDenied(f"node {node_id} is not given it: {reason}")


def _not_in(ids: Collection[str], allowed: Collection[str]) -> list[str]:
    known = frozenset(allowed)
    return [object_id for object_id in ids if object_id not in known]

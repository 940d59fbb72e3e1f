"""The secrets and configs of this node's tasks: asked of the leader, held in memory, for as long as a task needs them.

Each is asked for once, however many tasks refer to it. Nothing here is ever written to a disk, and nothing of it is
told to anybody but the runtime. Python copies bytes as it likes and overwrites none: what is dropped is free to be
used for something else, and no more is promised.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from swarmpy.errors import PermissionDenied, SwarmpyError, TaskRejected, Unavailable
from swarmpy.model.dependencies import (
    MAX_IDS,
    NO_DEPENDENCIES,
    Content,
    Dependencies,
    DependenciesReply,
    configs_of,
    secrets_of,
)
from swarmpy.model.ids import ConfigId, SecretId, TaskId
from swarmpy.model.objects import Kind, Task

SESSION_WAIT_S = 5.0
"""Seconds that a task waits for a session before it says why it does not get on: an election takes about one."""

Ask = Callable[[TaskId, tuple[SecretId, ...], tuple[ConfigId, ...]], Awaitable[DependenciesReply]]
_Key = tuple[Kind, str]


class DependencyKeeper:
    """All of a node. It outlives sessions, each of which brings a way to ask."""

    def __init__(self) -> None:
        self._ask: Ask | None = None
        self._can_ask = asyncio.Event()
        self._held: dict[_Key, Content] = {}
        self._needs: dict[TaskId, frozenset[_Key]] = {}
        self._one_at_a_time = asyncio.Lock()

    @property
    def held(self) -> frozenset[str]:
        """The ids of what is in memory."""
        return frozenset(object_id for _, object_id in self._held)

    def begin_session(self, ask: Ask) -> None:
        """From now on ``ask`` is the way."""
        self._ask = ask
        self._can_ask.set()

    def end_session(self) -> None:
        """There is nobody to ask."""
        self._ask = None
        self._can_ask.clear()

    async def of(self, task: Task) -> Dependencies:
        """What the task refers to, held until :meth:`release`. Credentials that are refused are left out.

        Raises TaskRejected when there is no such object any more, Unavailable while it cannot be had: ask again later.
        """
        keys = _keys(task)
        if not keys:
            return NO_DEPENDENCIES
        login = _login(task)
        self._needs[task.id] = frozenset(keys)
        await self._wait_session(task, keys)
        # One question at a time: so nothing is asked for twice, and a node with many tasks is no burden to the leader.
        async with self._one_at_a_time:
            while missing := [key for key in keys if key not in self._held and key != login]:
                await self._fetch(task, missing[:MAX_IDS])
            if login is not None and login not in self._held:
                # A node that has forgotten how far the task had come: it ran, so the image is here, most likely.
                with contextlib.suppress(_Refused):
                    await self._fetch(task, [login])
        had = {key: self._held[key] for key in keys if key in self._held}
        return Dependencies(
            secrets={SecretId(i): content for (kind, i), content in had.items() if kind is Kind.SECRET},
            configs={ConfigId(i): content for (kind, i), content in had.items() if kind is Kind.CONFIG},
        )

    def started(self, task_id: TaskId, pull_secret_id: SecretId | None) -> None:
        """The task runs: its image will not be pulled again."""
        if pull_secret_id is not None and task_id in self._needs:
            self._needs[task_id] -= {(Kind.SECRET, pull_secret_id)}
            self._drop_unneeded()

    def release(self, task_id: TaskId) -> None:
        """The task is over. What no other task needs is dropped."""
        if self._needs.pop(task_id, None):
            self._drop_unneeded()

    def _drop_unneeded(self) -> None:
        needed = frozenset().union(*self._needs.values())
        self._held = {key: content for key, content in self._held.items() if key in needed}

    async def _wait_session(self, task: Task, keys: Sequence[_Key]) -> None:
        if all(key in self._held for key in keys):
            return
        try:
            async with asyncio.timeout(SESSION_WAIT_S):
                await self._can_ask.wait()
        except TimeoutError:
            raise Unavailable(f"waiting for {_named(task, keys)}: this node has no session with a manager") from None

    async def _fetch(self, task: Task, keys: Sequence[_Key]) -> None:
        if self._ask is None:
            raise Unavailable(f"waiting for {_named(task, keys)}: the session with the manager has ended")
        secrets = tuple(SecretId(i) for kind, i in keys if kind is Kind.SECRET)
        configs = tuple(ConfigId(i) for kind, i in keys if kind is Kind.CONFIG)
        try:
            reply = await self._ask(task.id, secrets, configs)
        except SwarmpyError as error:
            refused = _Refused if isinstance(error, PermissionDenied) else Unavailable
            raise refused(f"waiting for {_named(task, keys)}: {error}") from error
        gone = [key for key in keys if key[1] in reply.missing]
        if gone:
            raise TaskRejected(f"{_named(task, gone)} does not exist any more")
        before = len(self._held)
        for key in keys:
            kind, object_id = key
            content = (
                reply.secrets.get(SecretId(object_id))
                if kind is Kind.SECRET
                else reply.configs.get(ConfigId(object_id))
            )
            if content is not None:
                self._held[key] = content
        if len(self._held) == before:
            raise Unavailable(f"waiting for {_named(task, keys)}: the manager answers without them")


class _Refused(Unavailable):
    """A manager will not give it, at least not now."""


def _login(task: Task) -> _Key | None:
    """The credentials for the registry of its image, where it has none of the same id among its secrets."""
    container = task.spec.container
    if container.pull_secret_id is None or any(r.secret_id == container.pull_secret_id for r in container.secrets):
        return None
    return Kind.SECRET, container.pull_secret_id


def _keys(task: Task) -> tuple[_Key, ...]:
    secrets = [(Kind.SECRET, str(i)) for i in secrets_of(task)]
    return (*secrets, *((Kind.CONFIG, str(i)) for i in configs_of(task)))


def _named(task: Task, keys: Sequence[_Key]) -> str:
    """The first of them, as its user calls it, and how many others there are."""
    container = task.spec.container
    names: dict[_Key, str] = {(Kind.SECRET, r.secret_id): f"secret {r.secret_name}" for r in container.secrets}
    names |= {(Kind.CONFIG, r.config_id): f"config {r.config_name}" for r in container.configs}
    first = names.get(keys[0], "the login for its image's registry")
    return first if len(keys) == 1 else f"{first} and {len(keys) - 1} more"

"""Getting images from their registries: each once, however many tasks wait for it, and no longer than one does.

A registry that does not answer is asked again a few times, with a back-off. After that the tasks are rejected, as every
image that surely cannot be had is at once: their restart policies make new ones, perhaps on a node that has the image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from swarmpy.errors import TaskRejected
from swarmpy.model.objects import PREPARING_MESSAGE
from swarmpy.ports import Progress, Random, Told
from swarmpy.runtime.docker_engine import Engine, EngineError
from swarmpy.runtime.pull_progress import PullProgress
from swarmpy.runtime.registry_errors import RegistryRefusal, Trouble

log = structlog.get_logger(__name__)

AT_ONCE = 8
"""Images pulled at a time."""
ATTEMPTS = 4
FIRST_RETRY_S = 1.0
"""Seconds before the second attempt, doubled each time, and up to half of it less by chance: some six in all."""

Key = tuple[str, str]
"""An image, and the credentials to show: who has none must not get what another's would."""


class _Pull:
    """One image on its way, and who waits for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiting: list[Told] = []
        self._last: Progress | None = None

    def tell(self, progress: Progress) -> None:
        """To all who wait, and those who come later."""
        self._last = progress
        for told in self.waiting:
            told(progress)

    def add(self, told: Told) -> None:
        """One more waits."""
        self.waiting.append(told)
        if self._last is not None:
            told(self._last)


class ImagePulls:
    """The pulls of one engine."""

    def __init__(self, engine: Engine, random: Random) -> None:
        self._engine = engine
        self._random = random
        self._pulls: dict[Key, _Pull] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Give up all pulls."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def get(self, image: str, auth: str, told: Told) -> None:
        """Return when the image is on this machine: at once where it is. ``auth``: see :mod:`registry_auth`.

        ``told`` hears how far it is. When nobody waits for a pull any more, it is ended. Raises TaskRejected,
        RuntimeUnavailable.
        """
        if await self._engine.has_image(image):
            return
        key = (image, auth)
        pull = self._pulls.get(key)
        if pull is None:
            pull = self._pulls[key] = self._begin(key)
        task = pull.task
        assert task is not None, "a pull has begun"
        pull.add(told)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if pull.waiting == [told]:
                self._forget(key, pull)
                task.cancel()
                await asyncio.wait({task})
            raise
        finally:
            pull.waiting.remove(told)

    def _begin(self, key: Key) -> _Pull:
        pull = _Pull()
        log.info("pulling_image", image=key[0], with_credentials=bool(key[1]))
        task = asyncio.create_task(self._run(key, pull), name=f"pull-{key[0]}")
        pull.task = task
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(key, pull, done))
        return pull

    def _forget(self, key: Key, pull: _Pull) -> None:
        if self._pulls.get(key) is pull:
            del self._pulls[key]

    def _ended(self, key: Key, pull: _Pull, task: asyncio.Task[None]) -> None:
        self._forget(key, pull)
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen by those who wait for it; nobody may be left

    async def _run(self, key: Key, pull: _Pull) -> None:
        image, auth = key
        delay = FIRST_RETRY_S
        for left in reversed(range(ATTEMPTS)):
            try:
                async with self._places:
                    await self._engine.pull(image, auth, self._teller(image, pull))
                return
            except EngineError as error:
                refusal = RegistryRefusal(image, str(error), error.status, had=bool(auth))
            if await self._engine.has_image(image):  # it may have been loaded by hand meanwhile
                return
            if refusal.trouble is not Trouble.AWAY or not left:
                raise TaskRejected(refusal.line)
            pull.tell(Progress(message=PREPARING_MESSAGE, err=f"{refusal.line}, trying again"))
            await asyncio.sleep(delay * self._random.uniform(0.5, 1.0))
            delay *= 2

    @staticmethod
    def _teller(image: str, pull: _Pull) -> Callable[[dict[str, object]], None]:
        progress = PullProgress(image.partition("@")[0])  # a digest tells people nothing

        def step(line: dict[str, object]) -> None:
            progress.step(line)
            pull.tell(Progress(message=str(progress)))

        return step

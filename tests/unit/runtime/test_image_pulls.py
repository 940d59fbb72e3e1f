"""Who waits for an image, and for how long: on a virtual clock, with an engine whose registry the test speaks for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from loop import SimLoop, run

from swarmpy.errors import RuntimeUnavailable, TaskRejected
from swarmpy.ports import Progress, unheard
from swarmpy.runtime.docker_engine import EngineError
from swarmpy.runtime.image_pulls import AT_ONCE, ATTEMPTS, ImagePulls

IMAGE = "reg:5000/shop/web:8"
REFUSED = EngineError('Get "http://reg:5000/v2/": dial tcp 10.0.0.1:5000: connect: connection refused', 500)


class Registry:
    """An engine, as far as pulls need it: it has what was pulled."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.images: set[str] = set()
        self.pulls: list[tuple[str, str]] = []
        self.given_up: list[str] = []
        self.errors: list[Exception] = []
        """Of the next pulls."""
        self.seconds = seconds

    async def has_image(self, image: str) -> bool:
        """True for what was pulled."""
        return image in self.images

    async def pull(self, image: str, auth: str, on_step: Callable[[dict[str, Any]], None]) -> None:
        """Takes its time, or fails at once."""
        self.pulls.append((image, auth))
        if self.errors:
            raise self.errors.pop(0)
        try:
            for second in range(int(self.seconds)):
                detail = {"current": second * 1_000_000, "total": int(self.seconds) * 1_000_000}
                on_step({"status": "Downloading", "id": "a", "progressDetail": detail})
                await asyncio.sleep(1)
        except asyncio.CancelledError:
            self.given_up.append(image)
            raise
        self.images.add(image)


def played(scenario: Callable[[ImagePulls, Registry], Awaitable[None]]) -> float:
    """The seconds that it took, of virtual time."""
    registry = Registry()

    async def main(loop: SimLoop) -> float:
        await scenario(ImagePulls(registry, random.Random(3)), registry)  # type: ignore[arg-type]
        return loop.now

    return run(1, main)


def started(pulls: ImagePulls, auth: str = "", told: Callable[[Progress], None] = unheard) -> asyncio.Task[None]:
    """A task that wants the image."""
    wanted: Coroutine[Any, Any, None] = pulls.get(IMAGE, auth, told)
    return asyncio.create_task(wanted)


def test_it_is_pulled_once_for_all() -> None:
    """Tasks that come while it is pulled wait for the same pull, and hear how far it is; later ones need none."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        early: list[Progress] = []
        late: list[Progress] = []
        first = started(pulls, told=early.append)
        await asyncio.sleep(4.5)
        second = started(pulls, told=late.append)
        await asyncio.gather(first, second)
        await pulls.get(IMAGE, "", unheard)
        assert registry.pulls == [(IMAGE, "")]
        assert early[3].message == f"pulling {IMAGE}: 3 of 10 MB, layer 1 of 1"
        assert late == early[4:]

    assert played(scenario) == pytest.approx(10, abs=0.1)


def test_a_digest_is_no_part_of_what_is_told() -> None:
    """Nobody reads it, and it would leave no room."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        heard: list[Progress] = []
        await pulls.get(f"{IMAGE}@sha256:{'5' * 64}", "", heard.append)
        assert heard[1].message == f"pulling {IMAGE}: 1 of 10 MB, layer 1 of 1"

    played(scenario)


def test_who_has_no_credentials_gets_a_pull_of_his_own() -> None:
    """Else he would get what another's credentials open."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        await asyncio.gather(started(pulls), started(pulls, "secret"))
        assert sorted(registry.pulls) == [(IMAGE, ""), (IMAGE, "secret")]

    played(scenario)


def test_it_goes_on_for_as_long_as_somebody_waits() -> None:
    """Of two tasks one is given up: the pull goes on. With the second one it is ended, and the next begins anew."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        first, second = started(pulls), started(pulls)
        await asyncio.sleep(2)
        first.cancel()
        await asyncio.wait({first})
        assert not registry.given_up
        second.cancel()
        await asyncio.wait({second})
        assert registry.given_up == [IMAGE]
        await pulls.get(IMAGE, "", unheard)
        assert len(registry.pulls) == 2

    played(scenario)


def test_a_registry_that_is_away_is_asked_again() -> None:
    """It says so at once, and comes to the end when the registry is back."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        registry.errors = [REFUSED, REFUSED]
        heard: list[Progress] = []
        await started(pulls, told=heard.append)
        assert len(registry.pulls) == 3
        reason = "reg:5000 does not answer: dial tcp 10.0.0.1:5000: connect: connection refused"
        assert [x.err for x in heard[:2]] == [f"No such image: {IMAGE} ({reason}), trying again"] * 2
        assert all(not progress.err for progress in heard[2:])

    assert 11.5 <= played(scenario) <= 13.1


def test_it_is_not_asked_for_ever() -> None:
    """The restart policy makes the next attempt, perhaps on a node that has the image."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        registry.errors = [REFUSED] * 9
        with pytest.raises(TaskRejected, match=r"connection refused\)$"):
            await started(pulls)
        assert len(registry.pulls) == ATTEMPTS

    assert 3.5 <= played(scenario) <= 7.1


@pytest.mark.parametrize(
    "message", ["manifest unknown", "unauthorized: authentication required", "no matching manifest"]
)
def test_what_cannot_be_had_is_refused_at_once(message: str) -> None:
    """Asking again would not help."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        registry.errors = [EngineError(message, 500)]
        with pytest.raises(TaskRejected, match=f"No such image: {IMAGE}"):
            await started(pulls)

    assert played(scenario) < 0.1


def test_an_image_that_was_loaded_by_hand_meanwhile_will_do() -> None:
    """As somebody may do whose registry is gone."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        registry.errors = [REFUSED] * 9
        task = started(pulls)
        await asyncio.sleep(0.1)
        registry.images.add(IMAGE)
        await task
        assert len(registry.pulls) < ATTEMPTS

    played(scenario)


def test_an_engine_that_is_away_is_nobodys_fault() -> None:
    """All who wait hear of it, and come again themselves."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        registry.errors = [RuntimeUnavailable("the engine is away")]
        found = await asyncio.gather(started(pulls), started(pulls), return_exceptions=True)
        assert [type(error) for error in found] == [RuntimeUnavailable] * 2
        await pulls.get(IMAGE, "", unheard)

    played(scenario)


def test_so_many_at_a_time() -> None:
    """The rest waits, and comes next; a registry that is away does not hold a place while nobody asks it."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        registry.errors = [REFUSED]
        wanted = [asyncio.create_task(pulls.get(f"{IMAGE}.{n}", "", unheard)) for n in range(2 * AT_ONCE)]
        await asyncio.sleep(0.1)
        assert len(registry.pulls) == AT_ONCE + 1
        await asyncio.gather(*wanted)

    assert played(scenario) < 32


def test_closing_ends_them() -> None:
    """Nothing is left behind."""

    async def scenario(pulls: ImagePulls, registry: Registry) -> None:
        task = started(pulls)
        await asyncio.sleep(1)
        await pulls.close()
        await asyncio.wait({task})
        assert task.cancelled()
        assert registry.given_up == [IMAGE]

    played(scenario)

"""The faults do what they say, and are undone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest
from clock import EPOCH_NS
from disk import SimDisk
from faults import Nemesis
from film import Film
from loop import SimLoop, run, seeds
from net import Host, SimNetwork

from swarmpy.wire.router import MANAGERS

NAMES = ("a", "b", "c", "d", "e")


class Stage:
    """Five hosts that answer, each with a disk."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.net = SimNetwork(loop)
        self.hosts = {name: self.net.host(name, f"{name}:1") for name in NAMES}
        self.disks = {name: SimDisk(loop) for name in NAMES}
        self.film = Film()
        for host in self.hosts.values():
            host.boot(self._serve)
        self.nemesis = Nemesis(self.net, self.disks, film=self.film, leader=lambda: "a")

    async def _serve(self, host: Host) -> None:
        async def echo(peer: Any, payload: Any) -> Any:
            return payload

        host.router.call("echo", echo, MANAGERS)
        await asyncio.sleep(1e6)

    async def reaches(self, one: str, other: str) -> bool:
        """True when a call from one host, if it is up, to the other is answered."""
        if not self.hosts[one].is_up:
            return False
        try:
            channel = await self.hosts[one].dialer.dial(f"{other}:1", timeout=1)
            return bool(await channel.call("echo", True, timeout=1))
        except Exception:
            return False

    async def reached(self, names: list[str]) -> set[tuple[str, str]]:
        """Every pair of these hosts of which the first reaches the second."""
        pairs = [(one, other) for one in names for other in names if one != other]
        return {pair for pair in pairs if await self.reaches(*pair)}


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], seed: int) -> None:
    """Run a scene."""

    async def main(loop: SimLoop) -> None:
        await scene(Stage(loop))

    run(seed, main)


def all_pairs(names: list[str]) -> set[tuple[str, str]]:
    """Ordered pairs."""
    return {(one, other) for one in names for other in names if one != other}


def test_every_kind_of_fault_can_happen_and_is_counted() -> None:
    """Over some universes each kind is injected, and the film counts it under its name."""
    told: set[str] = set()
    kinds: set[str] = set()

    async def scene(stage: Stage) -> None:
        kinds.update(stage.nemesis._kinds())
        await stage.nemesis.run(30)
        told.update(stage.film.faults)

    for seed in range(30):
        play(scene, seed)
    assert told == kinds | {"one-way partition"}


@pytest.mark.parametrize("seed", seeds(10))
def test_after_the_trouble_everything_is_as_new(seed: int) -> None:
    """Everybody is up and reaches everybody; disks, network and clocks are as they were."""

    async def scene(stage: Stage) -> None:
        options, disk = attrs.evolve(stage.net.options), attrs.evolve(stage.disks["a"].options)
        await stage.nemesis.run(10)
        assert all(host.is_up and not host.is_paused for host in stage.hosts.values())
        assert await stage.reached(list(NAMES)) == all_pairs(list(NAMES))
        assert stage.net.options == options
        assert all(each.options == disk for each in stage.disks.values())
        assert all(host.clock.time_ns() == EPOCH_NS + int(stage.loop.now * 1e9) for host in stage.hosts.values())

    play(scene, seed)


@pytest.mark.parametrize("seed", seeds(10))
def test_a_quorum_is_healed_and_the_rest_is_left_out(seed: int) -> None:
    """A majority reach each other; whoever is left out reaches nobody, however long one waits, until all is healed."""

    async def scene(stage: Stage) -> None:
        await stage.nemesis.run(5, heal=False)
        healed = stage.nemesis.heal_quorum(NAMES)
        left = sorted(set(NAMES) - set(healed))
        assert 3 <= len(healed) <= 5
        await asyncio.sleep(15)
        assert await stage.reached(list(NAMES)) == all_pairs(healed)
        assert stage.nemesis.left_out == set(left)
        stage.nemesis.stop()
        assert await stage.reached(list(NAMES)) == all_pairs(list(NAMES))

    play(scene, seed)


def test_a_daemon_that_fails_without_a_reason_is_a_violation() -> None:
    """A host may end by itself only after its disk has failed."""

    async def main(loop: SimLoop) -> None:
        stage = Stage(loop)

        async def fail(host: Host) -> None:
            raise ValueError("a defect")

        host = stage.net.host("f", "f:1")
        stage.nemesis.adopt(host)
        host.boot(fail)
        await asyncio.sleep(1)

    with pytest.raises(Exception, match="f ended: ValueError"):
        run(0, main)

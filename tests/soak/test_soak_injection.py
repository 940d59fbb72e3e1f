"""Who is counted on while faults go on: only a majority that can do something is asked to."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from injection import Injector
from network import Blocked
from report import Report
from schedule import Cast, Fault, Kind

MANAGERS = ("a", "b", "c", "d", "e")


class Right:
    """A clock that nobody has put wrong."""

    def set(self, _ahead_s: float) -> None:
        """Nor does anybody here."""


@attrs.define
class Idle:
    """A node with a process that is there or not, and does nothing."""

    name: str
    is_well: bool = True
    is_running: bool = True
    clock: Right = attrs.Factory(Right)

    async def kill(self) -> None:
        """It is away."""
        self.is_well = False

    async def start(self) -> None:
        """It is back."""
        self.is_well = True

    def lose_log(self) -> None:
        """It had none to begin with."""

    resume = empty_disk = lose_log


class Whole:
    """A network in which all are connected."""

    def block(self, _blocked: Blocked) -> None:
        """Nothing is cut here."""


class Trouble:
    """Five managers, and what becomes of them."""

    def __init__(self) -> None:
        self.machines = {name: Idle(name) for name in MANAGERS}
        cast = Cast(managers=MANAGERS, workers=(), small_disks=(), spared=frozenset())
        self.injector = Injector(self.machines, cast, Whole(), Report())  # type: ignore[arg-type]
        self.injector.changed()

    async def lose(self, name: str) -> None:
        """Its log is gone, and it is back."""
        await self.injector._at(0.0, Fault(kind=Kind.DISK_LOST, targets=(name,), at=0.0, duration=0.0))

    async def kill(self, names: Iterable[str]) -> None:
        """They are away."""
        for name in names:
            await self.machines[name].kill()
        self.injector.changed()

    @property
    def is_majority(self) -> bool:
        """A write may be asked for."""
        return self.injector._majority_since is not None


async def test_a_manager_without_its_log_has_no_vote() -> None:
    """It runs, and is of no use to the others before the calm, in which it becomes a member anew."""
    trouble = Trouble()
    await trouble.lose("e")
    await trouble.kill("d")
    assert trouble.is_majority
    await trouble.kill("c")
    assert not trouble.is_majority
    await trouble.injector.calm()
    await trouble.kill("cd")
    assert trouble.is_majority
    await trouble.kill("b")
    assert not trouble.is_majority

"""The course of a soak: storms and calms until the time is over, then the last checks, and a summary."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import attrs
import convergence
from checks import worst_gap
from creations import Creations
from door import Door, Lost, NotSent
from injection import Injector
from ledgers import differing_logs, verified
from registers import Registers
from report import Report
from schedule import draw_storm
from sleepers import create_sleepers, scale
from soil import Needs, Soil, form, prepared
from watching import Logs, Memory

from swarmpy.errors import SwarmpyError

STORM_S = 25.0
LAST_STORM_S = 5.0
"""A shorter one is not begun."""
ROAMING_CLIENTS = 2
"""Beside the one that each manager has for itself."""
MOST_GAP_S = 20.0
"""Seconds without an acknowledged write, though a majority could have made one, on a machine that is busy."""
ENOUGH = 20
"""Violations after which a soak ends early."""
EXIT_INTERRUPTED = 130


@attrs.frozen(kw_only=True)
class Plan:
    """What was asked for."""

    minutes: float
    seed: int
    managers: int
    workers: int
    unprivileged: bool


class Soak:
    """One soak on nodes that are prepared."""

    def __init__(self, plan: Plan, report: Report, soil: Soil, injector: Injector) -> None:
        self._plan = plan
        self._report = report
        self._soil = soil
        self._injector = injector
        managers = [machine for machine in soil.machines.values() if machine.is_manager]
        self._door = Door(managers)
        self._registers = Registers(self._door, report, Random(f"{plan.seed}/registers"))
        self._creations = Creations(self._door, report, Random(f"{plan.seed}/creations"))
        self._memory = Memory(soil.machines, report)
        self._logs = Logs(soil.machines, report)
        self._began = self._ended = 0.0

    async def run(self) -> None:
        """All of it."""
        await form(self._soil)
        self._injector.changed()
        try:
            await create_sleepers(self._door, self._report)
            await self._registers.open()
            await self._calm("formed")
            self._began = time.monotonic()
            async with self._clients():
                await self._storms()
            await self._last_checks()
        finally:
            await self._door.close()
        self._sum_up()

    @contextlib.asynccontextmanager
    async def _clients(self) -> AsyncIterator[None]:
        """Clients at work; at the end each finishes what it has begun."""
        async with asyncio.TaskGroup() as group:
            memory = group.create_task(self._memory.run())
            for machine in self._door.machines:
                group.create_task(self._registers.run(f"at {machine.name}", machine))
            for number in range(ROAMING_CLIENTS):
                group.create_task(self._registers.run(f"roaming {number}", None))
            group.create_task(self._creations.run())
            yield
            self._ended = time.monotonic()
            self._registers.stopping = self._creations.stopping = True
            memory.cancel()

    async def _storms(self) -> None:
        end = self._began + 60 * self._plan.minutes
        number = 0
        while (left := end - time.monotonic()) > LAST_STORM_S and len(self._report.violations) < ENOUGH:
            seconds = min(STORM_S, left)
            faults = draw_storm(self._plan.seed, number, self._soil.cast, self._soil.kinds, seconds)
            self._report.line("storm", number=number, faults=len(faults))
            async with asyncio.TaskGroup() as group:
                group.create_task(scale(self._door, self._report, Random(f"{self._plan.seed}/{number}/scale")))
                await self._injector.storm(faults, seconds)
                await self._injector.calm()
            await self._calm(f"storm {number}")
            number += 1

    async def _calm(self, after: str) -> None:
        """Everything is healed: the cluster must become what it should be."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            supervisor = group.create_task(self._injector.supervise())
            for wrong in await convergence.converged(self._soil.machines):
                self._report.violation(f"after {after}: {wrong}")
            supervisor.cancel()
        self._logs.check()
        self._report.checks["convergences"] += 1
        self._report.line("converged", after=after, seconds=round(time.monotonic() - began, 2), **self._progress())

    def _progress(self) -> dict[str, Any]:
        return {
            "acknowledged": len(self._registers.acknowledged),
            "registers_checked": self._report.checks["linearizable registers"],
            "slowest_answer_s": round(self._door.slowest_s, 2),
            "violations": len(self._report.violations),
        }

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _last_checks(self) -> None:
        # Up to here and no further: nobody writes any more, so that everybody can be asked for the same state.
        self._intervals = self._injector.majority_intervals()
        await self._registers.finish_all()
        try:
            await self._creations.check()
        except (Lost, NotSent) as error:
            self._report.violation(f"a healed cluster does not list its services: {error}")
        for wrong in [
            *await convergence.converged(self._soil.machines),
            *await convergence.same_log(self._soil.machines),
        ]:
            self._report.violation(f"at the end: {wrong}")
        managers = [machine for machine in self._soil.machines.values() if machine.is_manager]
        workers = [machine for machine in self._soil.machines.values() if not machine.is_manager]
        for group in (workers, managers):
            await asyncio.gather(*(machine.stop() for machine in group))
        for wrong in await convergence.no_processes(self._soil.machines):
            self._report.violation(f"after all daemons have ended: {wrong}")
        self._logs.check()
        for machine in managers:
            for wrong in await asyncio.to_thread(verified, machine.name, machine.data_dir):
                self._report.violation(wrong)
        directories = {machine.name: machine.data_dir for machine in managers}
        for wrong in await asyncio.to_thread(differing_logs, directories):
            self._report.violation(wrong)
        self._report.checks["logs verified"] += len(managers)

    def _sum_up(self) -> None:
        report, acknowledged = self._report, self._registers.acknowledged
        end = self._ended
        inside = [(max(b, self._began), min(e, end)) for b, e in self._intervals if self._began < e and b < end]
        gap, overall = worst_gap(sorted(acknowledged), inside), worst_gap(sorted(acknowledged), [(self._began, end)])
        if gap[1] - gap[0] > MOST_GAP_S:
            report.violation(
                f"no write was acknowledged for {gap[1] - gap[0]:.1f} s though a majority was up and connected",
                since=report.since(gap[0]),
            )
        for slow in self._door.slow:
            report.violation(slow)
        report.operations.update(self._registers.outcomes)
        report.summary(
            seed=self._plan.seed,
            requests=dict(sorted(self._door.answers.items())),
            writes_per_s=round(len(acknowledged) / max(1.0, end - self._began), 1),
            slowest_answer_s=round(self._door.slowest_s, 2),
            disk_full_exits=self._injector.disk_exits,
            worst_gap_with_majority_s=round(gap[1] - gap[0], 2),
            worst_gap_with_majority_at=report.since(gap[0]),
            worst_gap_s=round(overall[1] - overall[0], 2),
            seconds_with_majority=round(sum(e - b for b, e in inside), 1),
            memory=self._memory.summary(),
        )


async def run(plan: Plan, report: Report) -> None:
    """Prepare, soak, clear away."""
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-soak-"))
    injectors: list[Injector] = []

    def changed() -> None:
        for injector in injectors:
            injector.changed()

    needs = Needs(managers=plan.managers, workers=plan.workers, unprivileged=plan.unprivileged)
    async with prepared(directory, needs, report, changed) as soil:
        injectors.append(Injector(soil.machines, soil.cast, soil.network, report))
        try:
            await Soak(plan, report, soil, injectors[0]).run()
        except SwarmpyError as error:
            report.violation(f"the soak could not go on: {error}")
        finally:
            soil.keep = bool(report.violations)
            if soil.keep:
                report.line("kept", directory=str(directory), seed=plan.seed)


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and run. Exit code 1: a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Real daemons under random faults.")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long there are storms")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule of faults")
    parser.add_argument("--managers", type=int, default=5)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--unprivileged", action="store_true", help="do without what takes root, as for anybody else")
    options = parser.parse_args(arguments)
    if options.managers < 3 or options.workers < 0:
        parser.error("a soak takes at least 3 managers")
    seed = options.seed if options.seed is not None else int(time.time())
    report = Report()
    report.line("began", seed=seed, minutes=options.minutes, managers=options.managers, workers=options.workers)
    plan = Plan(
        minutes=options.minutes,
        seed=seed,
        managers=options.managers,
        workers=options.workers,
        unprivileged=options.unprivileged,
    )
    try:
        asyncio.run(_until_told(plan, report))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 1 if report.violations else 0


async def _until_told(plan: Plan, report: Report) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await run(plan, report)

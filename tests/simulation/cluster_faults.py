"""What goes wrong in a whole cluster beside what goes wrong among managers: daemons, engines, tasks and routing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs
from cluster import Cluster
from cluster_machine import CALM, Machine, calm
from faults import Nemesis
from knobs import Knobs

from swarmpy.errors import SwarmpyError

CRASH_S = 4.0
"""A task that is to crash by chance does so within this time."""


class ClusterNemesis(Nemesis):
    """Beside what goes wrong among managers: leaders, daemons, engines and tasks."""

    def __init__(self, cluster: Cluster, knobs: Knobs | None = None) -> None:
        self._cluster = cluster
        self._stopping: list[asyncio.Task[None]] = []
        super().__init__(
            cluster.net,
            cluster.disks,
            film=cluster.film,
            knobs=knobs,
            leader=lambda: next((machine.name for machine in cluster.managers if machine.is_leader), None),
        )
        loses_power = (0.0, 0.5, 1.0)[self.random.randrange(3)]
        for machine in cluster.machines.values():
            machine.loses_power = loses_power

    def _kinds(self) -> dict[str, Callable[[], None]]:
        return {
            **super()._kinds(),
            "stop daemon": self._stop_daemon,
            "move leader": self._move_leader,
            "failing tasks": self._fail_tasks,
            "kill task": self._kill_task,
            "engine away": self._engine_away,
            "failing routing": self._fail_routing,
        }

    async def finish(self) -> None:
        """Return when nothing that was begun is still going on."""
        if self._stopping:
            await asyncio.wait(self._stopping)

    def _an_agent(self) -> Machine:
        return self._cluster.agents[self.random.randrange(len(self._cluster.agents))]

    def _leading_machine(self) -> Machine | None:
        return next((machine for machine in self._cluster.managers if machine.is_leader), None)

    def _stop_daemon(self) -> None:
        machine = self._cluster.machines[self.one().node_id]
        if machine.host.is_up and not machine.host.is_paused:
            self.film.fault("stop daemon", machine.name, "its daemon is stopped")
            self._stopping.append(asyncio.create_task(self._stop(machine)))

    async def _stop(self, machine: Machine) -> None:
        await machine.stop()
        self.lasts(lambda: self._restart(machine.host))

    def _move_leader(self) -> None:
        if (machine := self._leading_machine()) is not None:
            self.film.fault("move leader", machine.name, "is asked to hand the leadership over")
            self._stopping.append(asyncio.create_task(self._move(machine)))

    async def _move(self, machine: Machine) -> None:
        try:
            assert machine.manager is not None
            await machine.manager.raft.transfer_leadership(None, timeout=2.0)
        except SwarmpyError as error:
            self.film.tell(machine.name, f"does not hand over: {error}")

    # -- tasks --------------------------------------------------------------------------------------------------------

    def _fail_tasks(self) -> None:
        machine = self._an_agent()
        self.film.fault("failing tasks", machine.name, "some tasks fail")
        machine.runtime.behaviour = attrs.evolve(
            CALM,
            prepare_failure=self.random.uniform(0, 0.5),
            start_failure=self.random.uniform(0, 0.5),
            crash=self.random.uniform(0, 0.8),
            crash_seconds=(0.0, CRASH_S),
        )
        self.lasts(lambda: calm(machine))

    def _kill_task(self) -> None:
        machine = self._an_agent()
        running = machine.runtime.running_tasks()
        if running:
            task_id = running[self.random.randrange(len(running))]
            self.film.fault("kill task", machine.name, f"task {task_id} is killed")
            machine.runtime.crash(task_id)

    def _engine_away(self) -> None:
        machine = self._an_agent()
        self.film.fault("engine away", machine.name, "its engine does not answer")
        machine.runtime.set_away(True)
        self.lasts(lambda: calm(machine))

    def _fail_routing(self) -> None:
        machine = self._an_agent()
        self.film.fault("failing routing", machine.name, "it cannot route")
        machine.routing_failure = 0.7
        self.lasts(lambda: calm(machine))

"""The world of a cluster whose nodes are about to leave it, and change under their tasks, which ask for labels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

import attrs
import cluster_world
from cluster import Cluster
from cluster_machine import Machine
from cluster_operator import Operator
from film import Film
from knobs import Knobs
from loop import SimLoop

from swarmpy.agent.agent import Agent
from swarmpy.agent.leaving import Verdict
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import live_services, update_node, update_service
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node
from swarmpy.model.specs import Placement
from swarmpy.model.states import ServiceMode

ZONE = "node.labels.zone==a"
LONGEST_S = 30.0
"""Most virtual seconds that a node which leaves waits for its tasks."""


async def play(loop: SimLoop, knobs: Knobs, film: Film) -> None:
    """As in the world of a cluster."""
    await cluster_world.play(loop, knobs, film, operator=MovesOperator)


class MovesOperator(Operator):
    """Has nodes leave, which stay in the end, and changes labels that services ask for."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self._leaving: dict[str, tuple[Agent, asyncio.Task[None]]] = {}

    def actions(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """See ``Operator``."""
        own = [self._leave, self._leave, self._stay, self._bind, *[self._label] * 6]
        return [*own, *super().actions()]

    def first(self) -> list[Callable[[Manager], Awaitable[None]]]:
        """See ``Operator``."""
        return [self._label_all, self._create, self._bind, self._create, self._bind]

    # -- nodes that leave ---------------------------------------------------------------------------------------------

    async def _leave(self, _leader: Manager) -> None:
        machine = self._one(self._cluster.agents)
        agent = machine.agent
        if agent is None or agent.leaving is not None:
            return
        self._tell(f"{machine.name} is to leave")
        timeout = self._random.uniform(0, LONGEST_S)
        watching = asyncio.get_running_loop().create_task(self._watch(machine, agent, timeout))
        self._leaving[machine.name] = agent, watching

    async def _watch(self, machine: Machine, agent: Agent, timeout: float) -> None:
        verdict = await agent.move_away(timeout)
        film = self._cluster.film
        film.tell(machine.name, f"may leave: {verdict.value}")
        film.did(f"leave: {verdict.name}")
        if verdict is Verdict.EMPTY and machine.agent is agent and agent.leaving is not None and agent.manager:
            self._check_empty(machine)
            film.checked("a node that leaves is empty")

    def _check_empty(self, machine: Machine) -> None:
        """What still runs there belongs to nobody: an agent that has just begun finds it, and removes it."""
        assert machine.agent is not None
        running = [task_id for task_id, status in machine.agent.statuses.items() if not status.state.is_terminal]
        if running:
            self._cluster.laws.fail(f"{machine.name} may leave, and runs {running}")

    async def _stay(self, _leader: Manager) -> None:
        if self._leaving:
            self._end(self._one(sorted(self._leaving)))

    def _end(self, name: str) -> None:
        agent, watching = self._leaving.pop(name)
        self._tell(f"{name} is to stay")
        if watching.done():
            watching.result()
        watching.cancel()
        agent.stay()

    # -- nodes that change --------------------------------------------------------------------------------------------

    async def _label(self, leader: Manager) -> None:
        node = leader.store.view().node(NodeId(self._one(self._cluster.agents).name))
        assert node is not None
        await self._label_with(leader, node, self._one(("a", "a", "b")))

    async def _label_all(self, leader: Manager) -> None:
        for machine in self._cluster.agents:
            node = leader.store.view().node(NodeId(machine.name))
            assert node is not None
            await self._label_with(leader, node, "a")

    async def _label_with(self, leader: Manager, node: Node, zone: str) -> None:
        self._tell(f"{node.id} is in zone {zone}")
        spec = attrs.evolve(node.spec, labels={"zone": zone})
        await update_node(leader.store, node.id, node.meta.version, spec)

    async def _bind(self, leader: Manager) -> None:
        """Have the tasks of a service in zone a only; to bind and to release it is an update."""
        service = self._service(leader)
        if service is None or service.spec.mode is not ServiceMode.REPLICATED:
            return
        is_bound = bool(service.spec.task.placement and service.spec.task.placement.constraints)
        placement = Placement() if is_bound else Placement(constraints=(ZONE,))
        self._tell(f"{service.spec.name} is {'released' if is_bound else 'bound to zone a'}")
        spec = attrs.evolve(service.spec, task=attrs.evolve(service.spec.task, placement=placement))
        await update_service(leader.store, service.id, service.meta.version, spec)

    async def _repair_all(self, leader: Manager, names: Collection[str]) -> None:
        for name in sorted(self._leaving):
            self._end(name)
        await super()._repair_all(leader, names)
        first = next(machine.name for machine in self._cluster.agents if machine.name in names)
        node = leader.store.view().node(NodeId(first))
        bound = [s for s in live_services(leader.store.view()) if s.spec.task.placement is not None]
        if node is not None and bound and node.spec.labels.get("zone") != "a":
            await self._label_with(leader, node, "a")

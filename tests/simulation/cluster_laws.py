"""What must hold in a whole cluster at every moment; the first contradiction ends the run.

Entries of the log are looked at once, when the first manager applies them: the ledger makes sure that it is the same
entry everywhere. What agents, runtimes and data planes do is looked at when they do it.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from availability_laws import AvailabilityLaws
from loop import SimulationError
from managers import Ledger
from update_laws import UpdateLaws

from swarmpy.control.loads import host_ports
from swarmpy.control.nodes import is_misplaced
from swarmpy.manager.assignments import STOP_WAIT_S
from swarmpy.manager.dispatcher import Dispatcher
from swarmpy.manager.manager import Manager
from swarmpy.model import codec, story
from swarmpy.model.assignments import Endpoint
from swarmpy.model.dependencies import has_files
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import Config, Node, Secret, Service, Task
from swarmpy.model.references import references
from swarmpy.model.specs import ConfigSpec, SecretReference, SecretSpec
from swarmpy.model.states import Actor, Availability, NodeState, TaskState, may_advance
from swarmpy.ports import Peer
from swarmpy.store.view import View
from swarmpy.store.watch import Event, Resync
from swarmpy.wire.router import Router

if TYPE_CHECKING:
    from cluster import Cluster, Machine

HINDSIGHT_S = 2.0
"""A decision is judged by what its maker may have seen: things as they were at most this long ago."""

_COMMENT = re.compile(rb"\{\{/\*.*?\*/\}\}")
REMEMBERED = 40
"""Events that are told of a run that fails."""


@attrs.frozen
class _Told:
    """A session as its agent knows it."""

    session_id: str
    opened_at: float
    life: Any


class ClusterLaws(Ledger):
    """The ledger of Raft, and what is true of services, tasks, nodes and routing."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.net.loop)
        self.unwanted_at: dict[TaskId, float] = {}
        """When it was first applied that a task is to stop."""
        self.entries_seen = 0
        self.last_events: deque[tuple[float, Event]] = deque(maxlen=REMEMBERED)
        """With the time at which they were first applied."""
        self.also: Callable[[View, list[Event]], None] | None = None
        """Laws of another world, of each entry when it is first applied."""
        self._availability = AvailabilityLaws(
            self.fail, cluster.film.checked, lambda: cluster.net.loop.now, HINDSIGHT_S
        )
        self._updates = UpdateLaws(self.fail, cluster.film.checked, lambda: cluster.net.loop.now, self._term)
        self._data: dict[str, SecretSpec | ConfigSpec] = {}
        """Of all versions of secrets and configs that there ever were."""
        self._cluster = cluster
        self._film = cluster.film
        self._drained_at: dict[str, float] = {}
        self._left_drain_at: dict[str, float] = {}
        self._well_placed_at: dict[TaskId, float] = {}
        """When a task was seen that may stay where it is after all."""
        self._came_back_at: dict[str, float] = {}
        self._engine_back_at: dict[str, float] = {}
        """When a node that was down was last seen to be back."""
        self._sessions: dict[tuple[str, str], _Told] = {}
        """By manager and node."""
        self._stopped: dict[TaskId, dict[tuple[str, str], str]] = {}
        """For each task that was told to stop: who had routed away from it by then, in which session."""

    def fail(self, what: str) -> None:
        """End the run: also when the code that led here would only log an error."""
        line = f"{self._loop.now:.3f} s: {what}"
        self._loop.problems.append(line)
        raise SimulationError(line)

    def _term(self) -> int | None:
        leader = self._cluster.leader()
        return None if leader is None else leader.raft_status().term

    def story(self) -> list[str]:
        """The last events of the log, a line each."""
        return [f"{time:8.3f} {event.version}: {_told(event)}" for time, event in self.last_events]

    # -- the log ------------------------------------------------------------------------------------------------------

    def observe(self, manager: Manager, raft_id: int) -> None:
        """Look at every entry that ``manager`` applies. Call it before it runs."""
        store = manager.store
        apply, watch = store.apply, store.watch(None)
        watch.__enter__()

        def observed(index: int, data: bytes) -> None:
            self.applied(raft_id, index, data)
            self._film.checked("all apply the same entries")
            apply(index, data)
            events: list[Event | Resync] = []
            while batch := watch.poll():
                events.extend(batch)
            if index > self.entries_seen:
                self.entries_seen = index
                self._check(store.view(), [event for event in events if isinstance(event, Event)])

        store.apply = observed  # type: ignore[method-assign]

    def _check(self, view: View, events: Collection[Event]) -> None:
        services_changed = False
        self.last_events.extend((self._loop.now, event) for event in events)
        if self._film.is_shown:
            for event in events:
                self._film.tell("log", f"{event.version}: {_told(event)}")
        self._availability.check(view, events)
        self._updates.check(view)
        if self.also is not None:
            self.also(view, list(events))
        for event in events:
            new, old = event.object, event.old
            if isinstance(new, Task):
                self._check_task(view, new, old if isinstance(old, Task) else None)
            elif isinstance(new, Node):
                self._note_node(new, old if isinstance(old, Node) else None)
            elif isinstance(new, Service):
                services_changed = True
            elif isinstance(new, Secret | Config):
                self._data[new.id] = new.spec
        if services_changed:
            self._check_ports(view)

    def _check_task(self, view: View, task: Task, old: Task | None) -> None:
        state = task.status.state
        if TaskState.ASSIGNED <= state <= TaskState.RUNNING and task.node_id is None:
            self.fail(f"task {task.id} is {state.name} on no node")
        if old is None:
            if state is not TaskState.NEW:
                self.fail(f"task {task.id} begins as {state.name}")
        else:
            self._check_step(task, old)
            if is_misplaced(old) and not is_misplaced(task):
                self._well_placed_at[task.id] = self._loop.now
        self._check_story(view, task, old)
        if not task.desired_state.is_wanted:
            self.unwanted_at.setdefault(task.id, self._loop.now)
        if state is TaskState.ASSIGNED and (old is None or old.status.state is not state):
            self._check_assignment(task)
            self._check_host_ports(view, task)
        if task.desired_state == TaskState.RUNNING and (old is None or old.desired_state != TaskState.RUNNING):
            self._check_slot(view, task)

    def _check_step(self, task: Task, old: Task) -> None:
        before, now = old.status.state, task.status.state
        if now < before or task.desired_state < old.desired_state:
            self.fail(
                f"task {task.id} falls from {before.name} to {now.name}, "
                f"desired {old.desired_state.name} to {task.desired_state.name}"
            )
        if now != before and not any(may_advance(actor, before, now) for actor in Actor):
            self.fail(f"task {task.id} goes from {before.name} to {now.name}, which nobody may do")
        fixed = (task.service_id, task.slot, task.spec_version, task.node_id)
        if fixed != (old.service_id, old.slot, old.spec_version, old.node_id or task.node_id):
            self.fail(f"task {task.id} is edited")
        if task.spec is not old.spec and task.spec != old.spec:
            self.fail(f"the spec of task {task.id} is edited")
        self._film.checked("tasks only advance")

    def _check_story(self, view: View, task: Task, old: Task | None) -> None:
        """What became of a task is what it went through, and nobody ends one without saying why."""
        if view.schema < codec.SERVICES_VERSION:
            if task.story or task.cause:
                self.fail(f"task {task.id} has a story that not all managers read")
            return
        moments = story.read(task.story, task.meta.created_at_ns)
        states = [moment.state for moment in moments if not moment.is_desired]
        if states != sorted(set(states)):
            self.fail(f"task {task.id} tells {states}")
        if old is None:
            return
        if task.status.state is not old.status.state and states[-1:] != [task.status.state]:
            self.fail(f"task {task.id} is {task.status.state.name} and tells {states}")
        if old.desired_state.is_wanted and not task.desired_state.is_wanted and not task.cause:
            self.fail(f"task {task.id} is told to stop, and nobody says why")
        self._film.checked("a task tells what became of it")

    def _check_assignment(self, task: Task) -> None:
        drained_at = self._drained_at.get(task.node_id or "")
        decided_at = self._earliest(task.status.timestamp_ns) if drained_at is not None else 0.0
        if drained_at is not None and decided_at > drained_at:
            self.fail(f"task {task.id} is assigned to {task.node_id}, which was drained at {drained_at:.3f}")
        self._film.checked("no assignment to a drained node")

    def _check_host_ports(self, view: View, task: Task) -> None:
        wanted = set(host_ports(task))
        if not wanted:
            return
        for other in view.tasks_on_node(task.node_id or ""):
            holds = TaskState.ASSIGNED <= other.status.state <= TaskState.RUNNING
            if other.id != task.id and holds and wanted & set(host_ports(other)):
                self.fail(f"task {task.id} is given a port of {task.node_id} that {other.id} has")
        self._film.checked("one task a host port")

    def _earliest(self, time_ns: int) -> float:
        """When the wall clock of a manager may first have shown that."""
        clocks = [machine.host.clock for machine in self._cluster.managers]
        return min((moment for clock in clocks for moment in clock.moments(time_ns)), default=math.inf)

    def _check_slot(self, view: View, added: Task) -> None:
        service = view.service(added.service_id)
        key = added.slot or added.node_id
        for task in view.tasks_of_service(added.service_id):
            if task.id == added.id or (task.slot or task.node_id) != key or task.status.state.is_terminal:
                continue
            if task.desired_state == TaskState.RUNNING and not self._is_being_replaced(service, task):
                self.fail(f"slot {added.service_name}.{key} has {task.id} and is given {added.id} as well")
            if task.desired_state > TaskState.RUNNING and self._is_stopping(view, task):
                self.fail(f"slot {added.service_name}.{key} is given {added.id} before {task.id} has stopped")

        self._film.checked("one live task a slot")

    def _is_being_replaced(self, service: Service | None, task: Task) -> bool:
        """True for the older task of an exchange that starts the new one first: an update, a drain or a move."""
        if service is None or task.spec_version != service.spec_version or is_misplaced(task):
            return True
        if self._loop.now - self._well_placed_at.get(task.id, -HINDSIGHT_S) < HINDSIGHT_S:
            return True
        left_at = self._left_drain_at.get(task.node_id or "", -HINDSIGHT_S)
        return task.node_id in self._drained_at or self._loop.now - left_at < HINDSIGHT_S

    def _is_stopping(self, view: View, task: Task) -> bool:
        """True while a node that can be waited for has not said that the task has ended."""
        node = view.node(task.node_id or "")
        if task.status.state < TaskState.ASSIGNED or node is None or node.status.state is NodeState.DOWN:
            return False
        if node.status.engine_away and task.status.state < TaskState.STARTING and task.iteration is None:
            # Nobody can tell whether something is left of it, but it does not run.
            return False
        back_at = (found.get(node.id, -HINDSIGHT_S) for found in (self._came_back_at, self._engine_back_at))
        return self._loop.now - max(back_at) >= HINDSIGHT_S

    def _note_node(self, node: Node, old: Node | None) -> None:
        if old is not None and old.status.engine_away:
            self._engine_back_at[node.id] = self._loop.now
        if old is not None and old.status.state is NodeState.DOWN:
            self._came_back_at[node.id] = self._loop.now
        if node.availability is Availability.DRAIN:
            self._drained_at.setdefault(node.id, self._loop.now)
        elif self._drained_at.pop(node.id, None) is not None:
            self._left_drain_at[node.id] = self._loop.now

    def _check_ports(self, view: View) -> None:
        holders: dict[tuple[str, int], str] = {}
        for service in view.services():
            if service.pending_delete:
                continue
            for port in service.ports:
                if port.publish_mode == "ingress" and port.published_port:
                    key = (port.protocol, port.published_port)
                    if holders.setdefault(key, service.id) != service.id:
                        self.fail(f"port {key} is published by {holders[key]} and by {service.id}")
        self._film.checked("one service a published port")

    # -- telling a task to stop ---------------------------------------------------------------------------------------

    def router(self, machine: Machine) -> Router:
        """A router that shows what sessions say to agents."""
        return _ObservedRouter(partial(self._told, machine), partial(self.given, machine))

    def _told(self, machine: Machine, node_id: str, message: dict[str, Any]) -> None:
        """``machine`` is about to send ``message`` to the agent of ``node_id``."""
        manager = machine.manager
        if manager is None:
            return
        if session_id := message.get("session_id"):
            agent = self._cluster.machines[node_id]
            self._sessions[machine.name, node_id] = _Told(session_id, self._loop.now, agent.host.life)
        assignments = message.get("assignments")
        if not assignments:
            return
        view = manager.store.view()
        for plain in assignments.get("tasks", ()):
            if not TaskState(plain.get("desired_state", TaskState.RUNNING)).is_wanted:
                task = view.task(plain["id"])
                if task is not None and task.status.state is TaskState.RUNNING:
                    self._check_stop(machine, manager, task)

    def _check_stop(self, machine: Machine, manager: Manager, task: Task) -> None:
        dispatcher = manager.office.dispatcher
        if dispatcher is None:
            # Its office has just ended, and its sessions have not yet heard of it.
            return
        if _routes(dispatcher._table.ports.values(), task.id):
            self.fail(f"task {task.id} is told to stop, and {machine.name}'s endpoint table has it")
        unwanted_at, view = self.unwanted_at[task.id], manager.store.view()
        waited_s = self._loop.now - unwanted_at
        is_over = waited_s * machine.host.rate >= STOP_WAIT_S - 1e-6
        away = self._stopped.setdefault(task.id, {})
        for agent in self._cluster.machines.values():
            session_id = self._open_session(machine, agent, since=unwanted_at)
            if agent.plane is None or (session_id is None and not _looks_for(dispatcher, view, agent)):
                continue
            if self._loop.now - self._came_back_at.get(agent.name, -HINDSIGHT_S) < HINDSIGHT_S:
                # It was down as others were waited for.
                continue
            if session_id is not None and not agent.plane.routes_to(task.id):
                session = dispatcher._sessions[NodeId(agent.name)]
                if not is_over or session.endpoints_applied == session.endpoints_sent:
                    # Else a table from before may be on its way to it, and nobody waits for that any more.
                    away[machine.name, agent.name] = session_id
            elif agent.plane.routes_to(task.id) and not is_over:
                late = f"{waited_s:.3f} s after it was decided"
                self.fail(f"task {task.id} is told to stop {late}, and {agent.name} routes to it")
        self._film.checked("routed away before stopped")

    def _open_session(self, machine: Machine, agent: Machine, since: float) -> str | None:
        """The id of the session of ``agent`` with ``machine``, if both ends have had it since then."""
        told = self._sessions.get((machine.name, agent.name))
        dispatcher = machine.manager.office.dispatcher if machine.manager and machine.host.is_up else None
        if told is None or dispatcher is None or told.opened_at > since or told.life is not agent.host.life:
            return None
        session = dispatcher._sessions.get(NodeId(agent.name))
        if not agent.host.is_up or session is None or session.id != told.session_id or session.closed:
            return None
        return told.session_id

    # -- secrets ------------------------------------------------------------------------------------------------------

    def given(self, machine: Machine, node_id: str, answer: dict[str, Any]) -> None:
        """``machine`` is about to tell the agent of ``node_id`` the data of secrets and configs."""
        assert machine.manager is not None, "it answers"
        tasks = machine.manager.store.view().tasks_on_node(node_id)
        alive = [task for task in tasks if task.status.state <= TaskState.RUNNING and task.desired_state.is_wanted]
        needed = {object_id for task in alive for object_id in references(task.spec)}
        for object_id in (*answer.get("secrets", ()), *answer.get("configs", ())):
            if object_id not in needed:
                self.fail(f"{machine.name} gives {node_id} secret {object_id}, which none of its tasks needs")
        self._film.checked("secrets are for those who need them")

    def files(self, machine: Machine, task: Task) -> None:
        """``task`` was prepared on ``machine``, and others may have files there."""
        known = machine.runtime.known_tasks()
        for task_id, files in machine.runtime.files().items():
            if task_id not in known:
                self.fail(f"{machine.name} has secrets of task {task_id}, which is not there")
            for file in files:
                reference = file.place.reference
                is_secret = isinstance(reference, SecretReference)
                spec = self._data[reference.secret_id if is_secret else reference.config_id]
                if file.data != _expanded(spec, task_id):
                    self.fail(f"task {task_id} has something else as {file.place.what} on {machine.name}")
        if has_files(task) and task.id not in machine.runtime.files():
            self.fail(f"task {task.id} is prepared on {machine.name} without its secrets")
        self._film.checked("tasks have their own secrets")

    # -- telling a task to stop: what agents do -----------------------------------------------------------------------

    def routed(self, agent: Machine, ports: Iterable[tuple[Endpoint, ...]]) -> None:
        """The data plane of ``agent`` has a new table in force."""
        for endpoints in ports:
            for endpoint in endpoints:
                for (manager, name), session_id in self._stopped.get(endpoint.task_id, {}).items():
                    machine = self._cluster.machines[manager]
                    if name == agent.name and self._open_session(machine, agent, self._loop.now) == session_id:
                        self.fail(f"{name} routes to task {endpoint.task_id} again, which was told to stop")
        self._film.checked("no request to a task that stops")

    def stopped(self, machine: Machine, task_id: TaskId) -> None:
        """The runtime of ``machine`` is asked to stop or remove a task that runs."""
        if task_id not in self.unwanted_at:
            self.fail(f"{machine.name} stops task {task_id}, which nobody asked to stop")
        self._film.checked("no task is stopped unasked")


def _expanded(spec: SecretSpec | ConfigSpec, task_id: TaskId) -> bytes:
    """What a task has of that data: of templates, the little that the operators write."""
    if not spec.templating:
        return spec.data
    return _COMMENT.sub(b"", spec.data).replace(b"{{.Task.ID}}", task_id.encode())


def _told(event: Event) -> str:
    match event.object:
        case Task() as task:
            status = f"{task.status.state.name}/{task.desired_state.name} {task.status.message} {task.status.err}"
            return f"{event.action} task {task.name} on {task.node_id}: {status}"
        case Service() as service:
            return f"{event.action} service {service.spec.name}: {service.update_status}"
        case Node() as node:
            return f"{event.action} node {node.id}: {node.status.state} {node.availability} {node.status.message}"
        case _:
            return f"{event.action} {event.kind} {event.id}"


def _looks_for(dispatcher: Dispatcher, view: View, agent: Machine) -> bool:
    """True while an agent that is up, and not known to be down, has no session with this leader."""
    node = view.node(NodeId(agent.name))
    is_there = agent.host.is_up and node is not None and node.status.state is not NodeState.DOWN
    return is_there and NodeId(agent.name) not in dispatcher._sessions


def _routes(ports: Iterable[tuple[Endpoint, ...]], task_id: TaskId) -> bool:
    return any(endpoint.task_id == task_id for endpoints in ports for endpoint in endpoints)


class _ObservedRouter(Router):
    """Tells ``told`` of every message that a session sends, and ``given`` of secrets."""

    def __init__(self, told: Any, given: Any) -> None:
        super().__init__()
        self._told = told
        self._given = given

    async def dispatch_call(self, peer: Peer, method: str, payload: Any) -> Any:
        """See ``Router``."""
        answer = await super().dispatch_call(peer, method, payload)
        if method == "dispatcher.dependencies":
            self._given(peer.node_id, answer)
        return answer

    def dispatch_stream(self, peer: Peer, method: str, payload: Any) -> AsyncIterator[Any]:
        """See ``Router``."""
        items = super().dispatch_stream(peer, method, payload)
        return self._observed(peer, items) if method == "dispatcher.session" else items

    async def _observed(self, peer: Peer, items: Any) -> AsyncIterator[Any]:
        async with aclosing(items):
            async for item in items:
                self._told(peer.node_id, item)
                yield item

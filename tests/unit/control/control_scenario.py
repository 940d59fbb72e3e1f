"""A cluster that is led by commands, and tells what is decided: the world of the transcripts.

The decisions and the store are the real ones; agents obey at once, but for images that are said to behave otherwise.
After each command everything goes on until it is quiet at that moment of time; time passes only in ``advance``.

A task is written ``web.2#3``: the third task of slot 2; those of a global service ``agent.n1#1``.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
from control_world import GIB, SECOND, World
from datadriven import Command, TranscriptError

from swarmpy.compose.units import parse_duration
from swarmpy.control.outdated import is_outdated
from swarmpy.model import changes, codec
from swarmpy.model.changes import Action, Change
from swarmpy.model.ids import ClusterId, ServiceId
from swarmpy.model.objects import Cluster, JobStatus, JoinTokens, Node, RootCA, Service, Task, UpdateStatus
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    MaxUnavailable,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from swarmpy.model.states import Availability, NodeState, ServiceMode, TaskState, UpdateState

ENDS = {
    TaskState.COMPLETE: "has completed",
    TaskState.SHUTDOWN: "has stopped",
    TaskState.FAILED: "has failed",
    TaskState.REJECTED: "is rejected",
    TaskState.ORPHANED: "is orphaned",
}
BEHAVIOURS = ("works", "fails", "rejects", "stalls", "ignores-stop")
MODES = {
    "replicated": ServiceMode.REPLICATED,
    "global": ServiceMode.GLOBAL,
    "job": ServiceMode.REPLICATED_JOB,
    "global-job": ServiceMode.GLOBAL_JOB,
}
_NODE_ID = re.compile(r"\b0+([a-z]\w*)\b")
_TASK_ID = re.compile(r"\b\d{25}\b")


class ToldWorld(World):
    """A world that tells of every write."""

    def __init__(self, tell: Any) -> None:
        super().__init__()
        self._told = tell
        root = RootCA(cert_pem=b"", key_pem=b"", cert_digest="")
        tokens = JoinTokens(worker="", manager="")
        cluster = Cluster(id=ClusterId("c"), root_ca=root, join_tokens=tokens, schema=codec.SCHEMA_VERSION)
        self.write(changes.create(cluster))

    def write(self, *changed: Change) -> None:
        """See ``World``."""
        before = {change.id: self.view.task(change.id) or self.view.service(change.id) for change in changed}
        super().write(*changed)
        for change in changed:
            self._told(before[change.id], change)


class Scenario:
    """A world, and the lines of the command that runs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.behaviours: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._began_ns = 0
        self._quiet = False
        self.world = ToldWorld(self._tell_change)
        for attribute, behaviour in (
            ("crashing", "fails"),
            ("rejecting", "rejects"),
            ("stalling", "stalls"),
            ("stubborn", "ignores-stop"),
        ):
            setattr(self.world, attribute, lambda task, b=behaviour: self._behaves(task, b))

    def run(self, command: Command) -> str:
        """Do ``command``, and what follows from it; what it prints. ``quietly COMMAND`` prints nothing."""
        self.lines = []
        self._began_ns = self.world.clock.now_ns
        self._quiet = command.name == "quietly"
        if self._quiet:
            command = attrs.evolve(command, name=command.args[0], args=command.args[1:])
        words = [command.name]
        do = getattr(self, f"do_{command.name}", None)
        if do is None and command.args:
            words.append(command.args[0])
            command = attrs.evolve(command, args=command.args[1:])
            do = getattr(self, "do_" + "_".join(words), None)
        if do is None:
            raise TranscriptError(f"no command {' '.join(words)!r}")
        do(command)
        self.world.run()
        return "\n".join(self.lines) or "ok"

    # -- telling ------------------------------------------------------------------------------------------------------

    def _tell(self, line: str) -> None:
        if self._quiet:
            return
        after_ns = self.world.clock.now_ns - self._began_ns
        line = _TASK_ID.sub(lambda found: self._names.get(found[0], found[0]), _NODE_ID.sub(r"\1", line))
        self.lines.append(f"{after_ns / SECOND:g}s: {line}" if after_ns else line)

    def _tell_change(self, before: Any, change: Change) -> None:
        if change.task is not None and change.action is not Action.DELETE:
            self._tell_task(before, change.task)
        elif change.service is not None and change.action is Action.UPDATE:
            status, old = change.service.update_status, before.update_status
            if status is not None and status != old:
                self._tell(f"{change.service.spec.name} is {status.state}: {status.message}")
        elif change.action is Action.DELETE and change.id in self._names:
            self._tell(f"forget {self._names[change.id]}")

    def _tell_task(self, before: Task | None, task: Task) -> None:
        if before is None:
            slot = str(task.slot or _NODE_ID.sub(r"\1", str(task.node_id)))
            place = f"{task.service_name}.{slot}"
            self._counts[place] = self._counts.get(place, 0) + 1
            self._names[task.id] = f"{place}#{self._counts[place]}"
            waits = ", when it may" if task.desired_state is TaskState.READY else ""
            self._tell(f"start {self._names[task.id]} of {task.spec.container.image}{waits}")
            return
        name, state = self._names[task.id], task.status.state
        if task.desired_state != before.desired_state:
            words = {TaskState.SHUTDOWN: "stop", TaskState.REMOVE: "remove"}
            self._tell(f"{words.get(task.desired_state, 'let go')} {name}")
        if state != before.status.state and state in ENDS:
            self._tell(f"{name} {ENDS[state]}")
        elif state != before.status.state and state is TaskState.RUNNING:
            self._tell(f"{name} runs on {task.node_id}")
        if task.status.err != before.status.err:
            self._tell(f"{name} says: {task.status.err}" if task.status.err else f"{name} says no more")

    # -- nodes --------------------------------------------------------------------------------------------------------

    def do_node_add(self, command: Command) -> None:
        """``node add n1 n2 [cpu=4] [memory=8] [labels=(zone=x)]``: memory in GiB."""
        for name in command.args:
            labels = dict(label.split("=") for label in command.options.get("labels", ()))
            cpus, memory = float(_one(command, "cpu", "4")), float(_one(command, "memory", "8"))
            self.world.add_node(name, cpus=cpus, memory=int(memory * GIB), **labels)

    def do_node_drain(self, command: Command) -> None:
        """``node drain n1 n2``."""
        self._set_nodes(command, availability=Availability.DRAIN)

    def do_node_pause(self, command: Command) -> None:
        """``node pause n1``."""
        self._set_nodes(command, availability=Availability.PAUSE)

    def do_node_active(self, command: Command) -> None:
        """``node active n1``."""
        self._set_nodes(command, availability=Availability.ACTIVE)

    def do_node_down(self, command: Command) -> None:
        """``node down n1``: it does not answer any more."""
        self._set_nodes(command, state=NodeState.DOWN)

    def do_node_up(self, command: Command) -> None:
        """``node up n1``: it answers again."""
        self._set_nodes(command, state=NodeState.READY)

    def do_node_leave(self, command: Command) -> None:
        """``node leave n1``: it says that it is about to leave."""
        self._set_nodes(command, leaving=True)

    def do_node_stay(self, command: Command) -> None:
        """``node stay n1``: it says that no more."""
        self._set_nodes(command, leaving=False)

    def _set_nodes(self, command: Command, **what: Any) -> None:
        for name in command.args:
            self.world.set_node(self._node(name), **what)

    def do_node_label(self, command: Command) -> None:
        """``node label n1 labels=(zone=x)``: these, and no others."""
        node = self._node(command.args[0])
        labels = dict(label.split("=") for label in command.options.get("labels", ()))
        self.world.write(changes.update(attrs.evolve(node, spec=attrs.evolve(node.spec, labels=labels))))

    def do_node_remove(self, command: Command) -> None:
        """``node remove n1``."""
        self.world.write(changes.delete(self._node(command.args[0])))

    def _node(self, name: str) -> Node:
        for node in self.world.view.nodes():
            if node.description.hostname == name:
                return node
        raise TranscriptError(f"no node {name!r}")

    # -- services -----------------------------------------------------------------------------------------------------

    def do_service_create(self, command: Command) -> None:
        """``service create web image=web:1 replicas=3 ...``: see ``_spec`` for the options."""
        name = command.args[0]
        mode = MODES[_one(command, "mode", "replicated")]
        empty = ServiceSpec(name=name, mode=mode, task=TaskSpec(container=ContainerSpec(image="web:1")))
        spec = self._spec(empty, command)
        service = Service(id=ServiceId(self.world.new_id()), spec=spec, job=JobStatus() if mode.is_job else None)
        self.world.write(changes.create(service))

    def do_service_update(self, command: Command) -> None:
        """``service update web [force] image=web:2 ...``: what is not given stays. A paused update goes on with it."""
        service = self._service(command.args[0])
        spec = self._spec(service.spec, command)
        if "force" in command.args:
            spec = attrs.evolve(spec, task=attrs.evolve(spec.task, force_update=spec.task.force_update + 1))
        job = None if service.job is None else JobStatus(iteration=service.job.iteration + 1)
        changed = attrs.evolve(service, spec=spec, previous_spec=service.spec, update_status=None, job=job)
        self.world.write(changes.update(changed))

    def do_service_rollback(self, command: Command) -> None:
        """``service rollback web``: as its user asks for it."""
        service = self._service(command.args[0])
        if service.previous_spec is None:
            raise TranscriptError(f"{service.spec.name} has no previous spec")
        status = UpdateStatus(
            state=UpdateState.ROLLBACK_STARTED,
            started_at_ns=self.world.clock.now_ns,
            message="manually requested rollback",
        )
        changed = attrs.evolve(service, spec=service.previous_spec, previous_spec=service.spec, update_status=status)
        self.world.write(changes.update(changed))

    def do_service_remove(self, command: Command) -> None:
        """``service remove web``."""
        self.world.remove_service(self._service(command.args[0]).id)

    def _service(self, name: str) -> Service:
        found = self.world.view.service_by_name(name)
        if found is None:
            raise TranscriptError(f"no service {name!r}")
        return found

    def _spec(self, spec: ServiceSpec, command: Command) -> ServiceSpec:
        """``spec`` with what the options say.

        Of tasks: ``image``, ``cpu`` (reserved), ``constraint``, ``on_node`` (most on one); of restarts: ``condition``,
        ``delay``, ``attempts``, ``window``; of updates: ``order``, ``parallelism``, ``pause`` (between slots),
        ``monitor``, ``action``, ``ratio``, ``deadline``, and with ``back_`` before it of rollbacks; of the whole:
        ``replicas``, ``completions``, ``concurrent``, ``max_unavailable``, ``labels``, ``host_port``.
        """
        unknown = set(command.options) - set(_PARTS) - _OF_TASKS - _OF_RESTARTS - _OF_UPDATES - {"mode"}
        unknown -= {f"back_{name}" for name in _OF_UPDATES}
        if unknown:
            raise TranscriptError(f"no option {', '.join(sorted(unknown))}")
        given = {name: values[0] if name != "labels" else values for name, values in command.options.items()}
        parts = {field: make(given[name]) for name, (field, make) in _PARTS.items() if name in given}
        if not spec.mode.is_job:
            parts["update"] = _update(spec.update or UpdateConfig(), given, "")
            parts["rollback"] = _update(spec.rollback or UpdateConfig(), given, "back_")
        return attrs.evolve(spec, task=_task(spec.task, given), **parts)

    # -- tasks and time -----------------------------------------------------------------------------------------------

    def do_image(self, command: Command) -> None:
        """``image web:2 fails``: how its tasks behave from now on."""
        image, behaviour = command.args
        if behaviour not in BEHAVIOURS:
            raise TranscriptError(f"no behaviour {behaviour!r}: {', '.join(BEHAVIOURS)}")
        self.behaviours[image] = behaviour

    def _behaves(self, task: Task, behaviour: str) -> bool:
        return self.behaviours.get(task.spec.container.image) == behaviour

    def do_task_fail(self, command: Command) -> None:
        """``task fail web.1 web.2``: the task of the slot that runs, or is on its way there, fails."""
        self._end(command, TaskState.FAILED, "boom")

    def do_task_complete(self, command: Command) -> None:
        """``task complete web.1``."""
        self._end(command, TaskState.COMPLETE, "")

    def do_task_stop(self, command: Command) -> None:
        """``task stop web.1``: what was told to stop and did not, has."""
        for place in command.args:
            for task in self._tasks_at(place):
                if not task.desired_state.is_wanted and task.status.state is TaskState.RUNNING:
                    self.world.report(task, TaskState.SHUTDOWN)

    def _end(self, command: Command, state: TaskState, err: str) -> None:
        for place in command.args:
            found = [t for t in self._tasks_at(place) if t.desired_state.is_wanted and not t.status.state.is_terminal]
            if not found:
                raise TranscriptError(f"no task of {place} runs")
            self.world.report(found[-1], state, err)

    def _tasks_at(self, place: str) -> list[Task]:
        found = [task for task in self.world.view.tasks() if self._names[task.id].partition("#")[0] == place]
        return sorted(found, key=lambda task: task.id)

    def do_advance(self, command: Command) -> None:
        """``advance 5s``: time passes."""
        self.world.advance(parse_duration(command.args[0]) / SECOND)

    def do_leader(self, command: Command) -> None:
        """``leader``: another one leads, and has waited for nothing yet."""
        self.world.new_leader()

    def do_tasks(self, command: Command) -> None:
        """``tasks``: all that have not ended, and where they are; ``*`` are outdated."""
        self.world.run()
        for task in sorted(self.world.view.tasks(), key=lambda task: self._names[task.id]):
            if task.status.state.is_terminal:
                continue
            service = self.world.view.service(task.service_id)
            old = "*" if service is not None and is_outdated(self.world.view, service, task) else ""
            desired = "" if task.desired_state is TaskState.RUNNING else f", to be {task.desired_state.name.lower()}"
            where = f" on {task.node_id}" if task.node_id else ""
            err = f": {task.status.err}" if task.status.err else ""
            image, state = task.spec.container.image, task.status.state.name.lower()
            self._tell(f"{self._names[task.id]}{old} {image} {state}{where}{desired}{err}")


def _one(command: Command, name: str, default: str) -> str:
    return command.options.get(name, (default,))[0]


def _nanoseconds(text: str) -> int:
    return parse_duration(text)


def _bound(text: str) -> MaxUnavailable | None:
    return None if text == "none" else MaxUnavailable.parse(text)


def _host_port(text: str) -> EndpointSpec:
    return EndpointSpec(ports=(PortConfig(target_port=80, published_port=int(text), publish_mode="host"),))


_PARTS: dict[str, tuple[str, Any]] = {
    "replicas": ("replicas", int),
    "completions": ("total_completions", int),
    "concurrent": ("max_concurrent", int),
    "max_unavailable": ("max_unavailable", _bound),
    "labels": ("labels", lambda values: dict(value.split("=") for value in values)),
    "host_port": ("endpoint", _host_port),
}
_OF_TASKS = {"image", "cpu", "constraint", "on_node"}
_OF_RESTARTS = {"condition", "delay", "attempts", "window"}
_OF_UPDATES = {"order", "parallelism", "pause", "monitor", "action", "ratio", "deadline"}


def _task(task: TaskSpec, given: dict[str, Any]) -> TaskSpec:
    restart = {
        "condition": str,
        "delay": _nanoseconds,
        "attempts": int,
        "window": _nanoseconds,
    }
    fields = {"delay": "delay_ns", "attempts": "max_attempts", "window": "window_ns", "condition": "condition"}
    policy = {fields[name]: make(given[name]) for name, make in restart.items() if name in given}
    task = attrs.evolve(task, restart=attrs.evolve(task.restart or RestartPolicy(), **policy))
    placement = task.placement or Placement()
    if "constraint" in given:
        placement = attrs.evolve(placement, constraints=(given["constraint"],))
    if "on_node" in given:
        placement = attrs.evolve(placement, max_replicas=int(given["on_node"]))
    task = attrs.evolve(task, placement=placement)
    if "image" in given:
        task = attrs.evolve(task, container=ContainerSpec(image=given["image"]))
    if "cpu" in given:
        reserved = Resources(nano_cpus=int(float(given["cpu"]) * 1e9))
        task = attrs.evolve(task, resources=ResourceRequirements(reservations=reserved))
    return task


def _update(config: UpdateConfig, given: dict[str, Any], prefix: str) -> UpdateConfig:
    fields: dict[str, tuple[str, Any]] = {
        "order": ("order", str),
        "parallelism": ("parallelism", int),
        "pause": ("delay_ns", _nanoseconds),
        "monitor": ("monitor_ns", _nanoseconds),
        "action": ("failure_action", str),
        "ratio": ("max_failure_ratio", float),
        "deadline": ("progress_deadline_ns", _nanoseconds),
    }
    found = {field: make(given[prefix + name]) for name, (field, make) in fields.items() if prefix + name in given}
    return attrs.evolve(config, **found)

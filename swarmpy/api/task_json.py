"""Tasks as Docker's JSON."""

from __future__ import annotations

from typing import Any

from swarmpy.api.json_fields import given
from swarmpy.api.resources_json import generic_to_json
from swarmpy.api.task_spec_json import task_spec_to_json
from swarmpy.api.timestamps import meta_to_json, rfc3339_nano
from swarmpy.control.explain import why_waiting
from swarmpy.model import story
from swarmpy.model.objects import PortStatus, Task, TaskStatus
from swarmpy.model.states import TaskState
from swarmpy.model.story import Moment
from swarmpy.store.view import View


def task_to_json(task: Task) -> dict[str, Any]:
    """A task as ``GET /tasks`` shows it. A global task has no ``Slot``, one that waits for a node no ``NodeID``."""
    return {
        "ID": task.id,
        **meta_to_json(task.meta),
        "Labels": {},
        "Spec": task_spec_to_json(task.spec),
        "ServiceID": task.service_id,
        **({} if task.shown_slot is None else {"Slot": task.shown_slot}),
        **given(NodeID=task.node_id),
        "Status": _status_to_json(task.status),
        "DesiredState": task.desired_state.name.lower(),
        **given(GenericResources=generic_to_json(task.generic)),
        **({} if task.iteration is None else {"JobIteration": {"Index": task.iteration}}),
    }


def inspected_to_json(view: View, task: Task) -> dict[str, Any]:
    """The same with its story, and with the tasks of its slot that were before and after it.

    The story is empty where it was not written down: below schema version 8.
    """
    before, after = neighbours(view, task)
    return {
        **task_to_json(task),
        "History": [_moment_to_json(moment) for moment in story.read(task.story, task.meta.created_at_ns)],
        **given(Waits=why_waiting(view, task)),
        **({"NotBefore": rfc3339_nano(task.not_before_ns)} if _waits(task) else {}),
        **given(Replaces=before and before.id, ReplacedBy=after and after.id),
    }


def neighbours(view: View, task: Task) -> tuple[Task | None, Task | None]:
    """The tasks that were made for the same slot just before and just after, as far as they are still known."""
    slot = sorted((t for t in view.tasks_of_service(task.service_id) if _slot_of(t) == _slot_of(task)), key=_made)
    at = next(number for number, other in enumerate(slot) if other.id == task.id)
    return slot[at - 1] if at else None, slot[at + 1] if at + 1 < len(slot) else None


def _waits(task: Task) -> bool:
    return task.desired_state is TaskState.READY and task.not_before_ns > 0


def _slot_of(task: Task) -> tuple[int, str, int | None]:
    return task.slot, "" if task.slot else str(task.node_id), task.iteration


def _made(task: Task) -> tuple[int, str]:
    return task.meta.created_at_ns, task.id


def _moment_to_json(moment: Moment) -> dict[str, Any]:
    name = moment.state.name.lower()
    return {
        "Timestamp": rfc3339_nano(moment.at_ns),
        **({"DesiredState": name} if moment.is_desired else {"State": name}),
        **given(Reason=moment.cause.words),
    }


def _status_to_json(status: TaskStatus) -> dict[str, Any]:
    out: dict[str, Any] = {
        "Timestamp": rfc3339_nano(status.timestamp_ns),
        "State": status.state.name.lower(),
        "Message": status.message,
        **given(Err=status.err),
    }
    if status.container is not None:
        container = status.container
        out["ContainerStatus"] = {
            "ContainerID": container.container_id,
            "PID": container.pid,
            "ExitCode": container.exit_code,
        }
    host_ports = [_host_port_to_json(port) for port in status.ports if port.publish_mode == "host"]
    out["PortStatus"] = given(Ports=host_ports)
    return out


def _host_port_to_json(port: PortStatus) -> dict[str, Any]:
    """Only ports in mode host belong to a task; where an ingress port really listens is the cluster's own affair."""
    return {
        "Protocol": port.protocol,
        "TargetPort": port.target_port,
        "PublishedPort": port.host_port,
        "PublishMode": port.publish_mode,
    }

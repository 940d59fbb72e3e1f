"""Tasks as Docker's JSON."""

from __future__ import annotations

from typing import Any

from swarmpy.api.json_fields import given
from swarmpy.api.resources_json import generic_to_json
from swarmpy.api.task_spec_json import task_spec_to_json
from swarmpy.api.timestamps import meta_to_json, rfc3339_nano
from swarmpy.model.objects import PortStatus, Task, TaskStatus


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

"""What an Engine says, in our words: inspected containers as statuses and exits, refusals as task errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from swarmpy.errors import TaskError, TaskFailed, TaskRejected
from swarmpy.model.defaults import SECOND_NS
from swarmpy.model.generic import merged
from swarmpy.model.ids import TaskId
from swarmpy.model.objects import ContainerStatus, NodeDescription, Platform, Plugin
from swarmpy.model.specs import GenericResource, Resources
from swarmpy.ports import RunningTask, TaskExit
from swarmpy.runtime.container_config import LABEL_PORTS, LABEL_TASK_ID, bound_ports, decode_ports

UNHEALTHY = "unhealthy container"
UNHEALTHY_STATUS = "unhealthy"
GONE_EXIT_CODE = -1
"""For a container that was deleted by somebody else, so that nobody knows how it ended."""

_LIVE = frozenset({"running", "paused", "restarting"})
_ENDED = frozenset({"exited", "dead", "removing"})


def labels(container: Mapping[str, Any]) -> Mapping[str, str]:
    """The labels of an inspected container."""
    return container.get("Config", {}).get("Labels") or {}


def is_live(container: Mapping[str, Any]) -> bool:
    """True for a container that runs."""
    return container["State"]["Status"] in _LIVE


def startable_task(listed: Mapping[str, Any]) -> TaskId | None:
    """The task of a container in a list, if it runs or may still be started."""
    is_one = listed.get("State") in _LIVE | {"created"}
    return TaskId((listed.get("Labels") or {}).get(LABEL_TASK_ID, "")) if is_one else None


def health(container: Mapping[str, Any]) -> str:
    """``starting``, ``healthy``, ``unhealthy``, or "" for a container without a healthcheck."""
    status = (container["State"].get("Health") or {}).get("Status", "")
    return "" if status == "none" else str(status)


def running_task(container: Mapping[str, Any], address: str) -> RunningTask:
    """The status of a container on a node with this address; its ports are those of its label."""
    state = container["State"]
    ports = decode_ports(labels(container).get(LABEL_PORTS, ""))
    bindings = (container.get("NetworkSettings") or {}).get("Ports") or {}
    return RunningTask(
        container=ContainerStatus(
            container_id=container["Id"], pid=state.get("Pid", 0), exit_code=state.get("ExitCode", 0)
        ),
        ports=bound_ports(ports, address, bindings),
    )


def task_exit(container: Mapping[str, Any] | None) -> TaskExit | None:
    """How a container ended; None while it has not."""
    if container is None:
        return TaskExit(exit_code=GONE_EXIT_CODE, error="the container was removed by somebody else")
    state = container["State"]
    if state["Status"] not in _ENDED:
        return None
    error = "out of memory" if state.get("OOMKilled") else " ".join(state.get("Error", "").split())
    return TaskExit(exit_code=state.get("ExitCode", 0), error=error)


def description(
    info: Mapping[str, Any],
    plugins: Iterable[Mapping[str, Any]] | None,
    given: Iterable[GenericResource],
    hostname: str,
) -> NodeDescription:
    """The node, of ``GET /info`` and ``GET /plugins`` (None: it was not answered), with the generic resources that its
    daemon was ``given``."""
    pairs = (label.partition("=") for label in info.get("Labels") or ())
    return NodeDescription(
        hostname=hostname or info.get("Name", ""),
        platform=Platform(architecture=info.get("Architecture", ""), os=info.get("OSType", "linux")),
        resources=Resources(
            nano_cpus=info.get("NCPU", 0) * SECOND_NS,
            memory_bytes=info.get("MemTotal", 0),
            generic=merged(_told_generic(info.get("GenericResources") or ()), given),
        ),
        runtime="docker",
        engine_version=info.get("ServerVersion", ""),
        engine_labels={key: value for key, _, value in pairs},
        plugins=_plugins(info.get("Plugins") or {}, plugins),
    )


def _told_generic(entries: Iterable[Mapping[str, Any]]) -> Iterator[GenericResource]:
    """What ``node-generic-resources`` of the engine's configuration says."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        discrete, named = entry.get("DiscreteResourceSpec"), entry.get("NamedResourceSpec")
        if discrete:
            yield GenericResource(kind=discrete.get("Kind", ""), count=discrete.get("Value", 0))
        elif named:
            names.setdefault(named.get("Kind", ""), []).append(named.get("Value", ""))
    for kind, found in names.items():
        yield GenericResource(kind=kind, names=tuple(found))


_PLUGIN_KINDS = {"volumedriver": "volume", "networkdriver": "network", "logdriver": "log", "authz": "authorization"}


def _plugins(built_in: Mapping[str, Any], managed: Iterable[Mapping[str, Any]] | None) -> tuple[Plugin, ...]:
    """Those that ``/info`` has, and the managed ones: of drivers for logs ``/info`` has no others than its own.

    Where the managed ones are not known, nothing is said of those, so that no task is kept away from its driver.
    """
    found = {(kind.lower(), name) for kind, names in built_in.items() for name in names or ()}
    if managed is None:
        found = {(kind, name) for kind, name in found if kind != "log"}
    for plugin in managed or ():
        types = ((plugin.get("Config") or {}).get("Interface") or {}).get("Types") or ()
        kinds = {_capability(each) for each in types} if plugin.get("Enabled") else set()
        found |= {(_PLUGIN_KINDS[kind], plugin.get("Name", "")) for kind in kinds & _PLUGIN_KINDS.keys()}
    return tuple(Plugin(type=kind, name=name) for kind, name in sorted(found) if kind in _PLUGIN_KINDS.values())


def _capability(interface: object) -> str:
    """Of ``docker.logdriver/1.0``, or of an object with its parts: engines have shown both."""
    if isinstance(interface, Mapping):
        return str(interface.get("Capability", ""))
    return str(interface).partition("/")[0].rpartition(".")[2]


# -- refusals ---------------------------------------------------------------------------------------------------------

_BIND_SOURCE = re.compile(r"bind source path does not exist: (\S+)")
_PORT_TAKEN = re.compile(
    r"(?:Bind for|listen \w+) (\S+?:(\d+))\S* ?(?:failed: port is already allocated|.*already in use)"
)
_NOT_LOCAL = re.compile(r"(?:listen \w+|[Bb]ind for) (\S+?)(?::\d+)?:? .*cannot assign requested address")
_NO_EXECUTABLE = re.compile(r'exec: \\?"?([^":\\]+)\\?"?: (executable file not found|no such file or directory|stat )')
_NO_PERMISSION = re.compile(r'exec: \\?"?([^":\\]+)\\?"?: permission denied')


def create_refused(message: str) -> TaskError:
    """The error for a container that the engine would not create."""
    bind = _BIND_SOURCE.search(message)
    if bind is not None:
        return TaskRejected(f"bind source path does not exist on this node: {bind.group(1)}")
    return TaskRejected(f"the engine refused to create the container: {_trim(message)}")


def start_refused(message: str, image: str) -> TaskError:
    """The error for a container that was created of ``image`` but would not start."""
    taken = _PORT_TAKEN.search(message)
    if taken is not None:
        return TaskFailed(f"port {taken.group(2)} is already in use on this node ({taken.group(1)})")
    foreign = _NOT_LOCAL.search(message)
    if foreign is not None:
        return TaskFailed(f"the node's address {foreign.group(1)} is not an address of the engine's machine")
    missing = _NO_EXECUTABLE.search(message)
    if missing is not None:
        return TaskFailed(f"command not found in image {image}: {missing.group(1)}")
    forbidden = _NO_PERMISSION.search(message)
    if forbidden is not None:
        return TaskFailed(f"command in image {image} is not executable: {forbidden.group(1)}")
    bind = _BIND_SOURCE.search(message)
    if bind is not None:
        return TaskRejected(f"bind source path does not exist on this node: {bind.group(1)}")
    return TaskFailed(f"starting the container failed: {_trim(message)}")


def _trim(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= 400 else line[:399] + "…"

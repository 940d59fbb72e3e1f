"""A task as a plain process of this machine: its command line, environment and stop signal.

Pure. The image is not used; whatever of a spec needs a container (mounts, limits, capabilities ...) is not available,
and :func:`ignored_fields` says so. What would be dangerous to ignore is refused.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

from swarmpy.errors import TaskRejected
from swarmpy.model.generic import variables
from swarmpy.model.networks import HOST
from swarmpy.model.objects import PortStatus, Task
from swarmpy.model.template import NodeFacts
from swarmpy.runtime.checked import expanded
from swarmpy.runtime.task_files import CONFIGS, SECRETS

SECRETS_VARIABLE = "SWARMPY_SECRETS_DIR"
CONFIGS_VARIABLE = "SWARMPY_CONFIGS_DIR"
"""Environment variables that name the directories of a task's secrets and configs."""


def command_line(task: Task, node: NodeFacts) -> tuple[str, ...]:
    """Command and arguments. Raises TaskRejected for a spec that has none of its own, or no process can be given."""
    spec = expanded(task, node)
    words = (*spec.command, *spec.args)
    if not words or not words[0]:
        raise TaskRejected(
            f"service {task.service_name} has no command: the process runtime runs commands of this machine and cannot "
            f"know what the image {spec.image!r} would run; give the service a command"
        )
    return words


def environment(
    task: Task, node: NodeFacts, *, path: str, home: str, ports: tuple[PortStatus, ...], files: str = ""
) -> dict[str, str]:
    """The whole environment: a small base, then the spec's, then what only the runtime knows.

    ``PORT`` is the port to listen on for the first target port, ``PORT_<target>`` the one for each. They win over the
    spec's, since requests are routed to them. ``files`` is the directory with the files of secrets and configs, for a
    task that has such. Nothing of the daemon's own environment is among them but ``path``.
    Raises TaskRejected for what no process can be given.
    """
    env = {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "TMPDIR": home}
    for line in (*expanded(task, node).env, *variables(task.generic)):
        name, given, value = line.partition("=")
        if given:
            env[name] = value
        else:
            env.pop(name, None)  # as Docker has it: a name alone takes the variable away
    env |= {"HOST": node.address, "SWARMPY_NODE_ADDRESS": node.address}
    env |= {f"PORT_{port.target_port}": str(port.host_port) for port in ports}
    if ports:
        env["PORT"] = str(ports[0].host_port)
    if task.spec.container.secrets:
        env[SECRETS_VARIABLE] = f"{files}/{SECRETS}"
    if task.spec.container.configs:
        env[CONFIGS_VARIABLE] = f"{files}/{CONFIGS}"
    return env


def stop_signal(task: Task) -> int:
    """The number of the spec's stop signal: SIGTERM unless given, by name (with or without SIG) or number."""
    given = task.spec.container.stop_signal.strip().upper()
    if not given:
        return signal.SIGTERM
    try:
        if given.isdecimal():
            return signal.Signals(int(given))
        return signal.Signals[given if given.startswith("SIG") else f"SIG{given}"]
    except (KeyError, ValueError):
        raise TaskRejected(f"stop signal {task.spec.container.stop_signal!r} is unknown on this machine") from None


def check_user(task: Task, *, user: str, uid: int) -> None:
    """Raise TaskRejected for a task of another user: running it as the node's own could give it more than was meant."""
    wanted = task.spec.container.user.partition(":")[0]
    if wanted not in {"", user, str(uid)}:
        raise TaskRejected(
            f"user {task.spec.container.user!r}: the process runtime runs everything as the node's own user ({user})"
        )


def ignored_fields(task: Task) -> tuple[str, ...]:
    """What of the spec has no meaning for a plain process, by Docker's names."""
    spec = task.spec.container
    resources = task.spec.resources
    given: Mapping[str, object] = {
        "Mounts": spec.mounts,
        "Resources.Limits": resources is not None and resources.limits,
        "ReadOnly": spec.read_only,
        "Hosts": spec.hosts,
        "DNSConfig": (*spec.dns_nameservers, *spec.dns_search, *spec.dns_options),
        "Sysctls": spec.sysctls,
        "Ulimits": spec.ulimits,
        "CapabilityAdd": spec.capability_add,
        "CapabilityDrop": spec.capability_drop,
        "Groups": spec.groups,
        "Hostname": spec.hostname,
        "TTY": spec.tty,
        "OpenStdin": spec.open_stdin,
        "Privileges": spec.privileges,
        "OomScoreAdj": spec.oom_score_adj,
        "Init": spec.init,
        "Networks": [network for network in task.spec.networks if network.target != HOST],
        "LogDriver": task.spec.log_driver,
    }
    return tuple(name for name, value in given.items() if value)

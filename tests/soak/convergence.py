"""Waiting until a healed cluster is as its users asked for, and saying what is wrong when it does not become so."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from checks import RunningTask, TaskProcess, differing, misplaced
from machines import Machine

from swarmpy.errors import SwarmpyError
from swarmpy.runtime.leftovers import RUNTIME_MARK
from swarmpy.runtime.warden import UNIT_MARK

BOUND_S = 90.0
"""Restarts, elections, heartbeats, restart delays, on a machine that has more to do."""
STEADY_S = 2.0
"""So long everything must be right: a node that went away a moment ago may not have been missed yet."""
POLL_S = 0.25
LABEL = "sleeper"


def task_processes(machines: Mapping[str, Machine]) -> list[TaskProcess]:
    """All processes of tasks of these nodes, by what is in their environment."""
    places = {str(machine.data_dir / "tasks"): name for name, machine in machines.items()}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            variables = dict(
                line.split("=", 1)
                for line in (entry / "environ").read_text(errors="replace").split("\0")
                if "=" in line
            )
            node = places.get(variables.get(RUNTIME_MARK, ""))
            if node and UNIT_MARK in variables:
                found.append(TaskProcess(pid=int(entry.name), task=variables[UNIT_MARK], node=node))
    return found


async def problems(machines: Mapping[str, Machine], through: Machine) -> list[str]:
    """What is not as it should be, as one manager and this machine's process table say."""
    client = through.client
    nodes = await client.nodes()
    names = {node["ID"]: node["Description"]["Hostname"] for node in nodes}
    found = [f"node {names[n['ID']]} is {n['Status']['State']}" for n in nodes if n["Status"]["State"] != "ready"]
    if sorted(names.values()) != sorted(machines):
        found.append(f"the nodes are {sorted(names.values())}")
    for node in nodes:
        name = names[node["ID"]]
        wanted = "manager" if machines[name].is_manager else "worker"
        reach = (node.get("ManagerStatus") or {}).get("Reachability", "")
        if node["Spec"]["Role"] != wanted or (wanted == "manager" and reach != "reachable"):
            found.append(f"node {name} is {node['Spec']['Role']}, {reach or 'no member of the managers'}")
    members = [member["role"] for member in (await client.raft_status())["members"]]
    if members != ["voter"] * sum(machine.is_manager for machine in machines.values()):
        found.append(f"the members of the Raft group are {members}")
    services = [s for s in await client.services() if LABEL in s["Spec"].get("Labels", {})]
    wanted_tasks = {s["Spec"]["Name"]: _replicas(s, len(nodes)) for s in services}
    by_id = {s["ID"]: s["Spec"]["Name"] for s in services}
    tasks = [_running(t, by_id, names) for t in await client.tasks(desired_state="running") if _runs(t)]
    return found + misplaced(wanted_tasks, tasks, await asyncio.to_thread(task_processes, machines))


def _replicas(service: dict[str, Any], nodes: int) -> int:
    replicated = service["Spec"]["Mode"].get("Replicated")
    return nodes if replicated is None else int(replicated["Replicas"])


def _runs(task: dict[str, Any]) -> bool:
    return bool(task["Status"]["State"] == "running")


def _running(task: dict[str, Any], services: Mapping[str, str], names: Mapping[str, str]) -> RunningTask:
    node = names.get(task["NodeID"], task["NodeID"])
    return RunningTask(
        id=task["ID"],
        service=services.get(task["ServiceID"], task["ServiceID"]),
        place=str(task.get("Slot") or node),
        node=node,
    )


async def converged(machines: Mapping[str, Machine]) -> list[str]:
    """Wait until nothing is wrong; else what still is after BOUND_S."""
    managers = [machine for machine in machines.values() if machine.is_manager]
    return await _until(lambda turn: problems(machines, managers[turn % len(managers)]), steady_s=STEADY_S)


async def same_log(machines: Mapping[str, Machine]) -> list[str]:
    """Wait until all managers have applied the same; nobody may write meanwhile."""
    managers = [machine for machine in machines.values() if machine.is_manager]

    async def ask(_turn: int) -> list[str]:
        reports = [await machine.client.raft_status() for machine in managers]
        applied = {machine.name: report["applied"] for machine, report in zip(managers, reports, strict=True)}
        return [f"applied differs: {applied}"] if differing(applied) else []

    return await _until(ask)


async def no_processes(machines: Mapping[str, Machine]) -> list[str]:
    """Wait until no task has a process any more, as all daemons have ended."""

    async def ask(_turn: int) -> list[str]:
        left = await asyncio.to_thread(task_processes, machines)
        return [f"orphan: process {p.pid} of task {p.task} on {p.node}" for p in left]

    return await _until(ask)


async def _until(ask: Callable[[int], Awaitable[list[str]]], steady_s: float = 0.0) -> list[str]:
    """Ask until nothing is wrong, and was not for so long; else what is, or was last, after BOUND_S."""
    deadline = time.monotonic() + BOUND_S
    right_since: float | None = None
    last: list[str] = []
    for turn in itertools.count():
        now = time.monotonic()
        try:
            found = await ask(turn)
        except SwarmpyError as error:
            found = [f"no answer: {error}"]
        if found:
            right_since, last = None, found
        else:
            right_since = now if right_since is None else right_since
            if time.monotonic() - right_since >= steady_s:
                return []
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_S)
    return last

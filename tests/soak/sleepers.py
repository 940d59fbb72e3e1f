"""Services whose tasks sleep, and an operator who scales them."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from convergence import LABEL
from door import Door, Lost, NotSent, write
from report import Report

REPLICAS = {"sleeper-a": 6, "sleeper-b": 4, "sleeper-c": 2}
EVERYWHERE = "sleeper-everywhere"
MOST_REPLICAS = 8
PATIENCE_S = 20.0
SECOND_NS = 1_000_000_000


def sleeper_spec(name: str, replicas: int | None) -> dict[str, Any]:
    """A service; on every node where ``replicas`` is None."""
    return {
        "Name": name,
        "Labels": {LABEL: "yes"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "none:latest", "Args": ["sleep", "100000"], "StopGracePeriod": SECOND_NS},
            "RestartPolicy": {"Condition": "any", "Delay": SECOND_NS // 2},
        },
        "Mode": {"Global": {}} if replicas is None else {"Replicated": {"Replicas": replicas}},
    }


async def create_sleepers(door: Door, report: Report) -> None:
    """Create them all."""
    for name, replicas in [*REPLICAS.items(), (EVERYWHERE, None)]:
        body = sleeper_spec(name, replicas)
        outcome = await write(door, door.machines, "POST", "/services/create", seconds=60, body=body)
        if outcome.answer is None or not outcome.answer.is_ok:
            report.violation(f"{name} could not be created before the first fault: {outcome.answer}")


async def scale(door: Door, report: Report, random: Random) -> None:
    """Scale one of them, if that can be done; what came of it is read when it counts."""
    name, replicas = random.choice(sorted(REPLICAS)), random.randint(1, MOST_REPLICAS)
    await asyncio.sleep(random.uniform(0, 10))
    machines = random.sample(door.machines, len(door.machines))
    for machine in machines:
        try:
            found = await door.ask(machine, "GET", f"/services/{name}")
        except (Lost, NotSent):
            continue
        if found.is_ok:
            path, version = f"/services/{found.body['ID']}/update", str(found.body["Version"]["Index"])
            body = sleeper_spec(name, replicas)
            outcome = await write(door, machines, "POST", path, seconds=PATIENCE_S, body=body, version=version)
            report.line("scaled", service=name, replicas=replicas, done=bool(outcome.answer and outcome.answer.is_ok))
            return

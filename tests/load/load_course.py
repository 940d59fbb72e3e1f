"""What is done to a service and its nodes while clients ask for it: each change alone, until it is over."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import load_server
from load_clients import NOTHING, Fate, Load

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError

SECOND = 1_000_000_000
SERVICE = "web"
SERVER = Path(load_server.__file__)
SETTLE_S = 90.0
POLL_S = 0.05
READ_ONLY = {"Type": "bind", "ReadOnly": True}
Json = dict[str, Any]


def in_container(image: str) -> Json:
    """The server with this machine's Python, in a container of an image that has a shell and wget."""
    prefixes = dict.fromkeys(["/usr", "/lib", "/lib64", sys.base_prefix])
    places = [
        place for place in prefixes if Path(place).exists() and (place == "/usr" or not place.startswith("/usr/"))
    ]
    return {
        "Image": image,
        "Command": [f"{sys.base_prefix}/bin/python3", "-I", "-S", "/load_server.py"],
        "Env": ["TASK={{.Task.ID}}", f"LD_LIBRARY_PATH={sys.base_prefix}/lib"],
        "Mounts": [
            {**READ_ONLY, "Source": str(SERVER), "Target": "/load_server.py"},
            *({**READ_ONLY, "Source": place, "Target": place} for place in places),
        ],
        "Healthcheck": {
            "Test": ["CMD-SHELL", "wget -q -O /dev/null http://127.0.0.1/0"],
            "Interval": SECOND // 2,
            "Retries": 40,
        },
        "StopGracePeriod": 10 * SECOND,
    }


def as_process() -> Json:
    """The server as a process of this machine."""
    return {
        "Image": "none",
        "Command": [sys.executable, "-I", "-S", str(SERVER)],
        "Env": ["TASK={{.Task.ID}}"],
        "StopGracePeriod": 10 * SECOND,
    }


def service(container: Json, replicas: int, port: int, *constraints: str) -> Json:
    """The service that is asked for; its updates watch each new task for a tenth of a second only."""
    task = {
        "ContainerSpec": container,
        "RestartPolicy": {"Condition": "any", "Delay": 0},
        "Placement": {"Constraints": list(constraints)},
    }
    return {
        "Name": SERVICE,
        "TaskTemplate": task,
        "Mode": {"Replicated": {"Replicas": replicas}},
        "UpdateConfig": {"Parallelism": 2, "Monitor": SECOND // 10},
        "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": port}]},
    }


class Course:
    """The service ``web`` of a cluster, its nodes, and the clients."""

    def __init__(self, cluster: LocalCluster, load: Load) -> None:
        self._cluster = cluster
        self._load = load
        self.operator = cluster.managers[0]
        """The manager that is asked; a test chooses one that it leaves alone."""
        self._ids: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        """How long each change took."""

    async def begin(self, body: Json) -> None:
        """Deploy, and wait until every node answers."""
        for node in self._cluster.nodes:
            self._ids[node.name] = str((await node.client.info())["Swarm"]["NodeID"])
        await self._client.post("/services/create", body)
        await self._settled(body["Mode"]["Replicated"]["Replicas"])

    @property
    def _client(self) -> Any:
        return self.operator.client

    async def update(self, order: str) -> None:
        """Replace every task."""
        began = self._begin(f"update {order}")
        body = await self._client.service(SERVICE)
        task = body["Spec"]["TaskTemplate"]
        template = {**task, "ForceUpdate": task.get("ForceUpdate", 0) + 1}
        config = {**body["Spec"]["UpdateConfig"], "Order": order}
        before = {t["ID"] for t in await self._tasks()}
        await self._change(TaskTemplate=template, UpdateConfig=config)

        async def completed() -> bool:
            status = (await self._client.service(SERVICE)).get("UpdateStatus") or {}
            assert status.get("State") in {None, "updating", "completed"}, status
            now = {t["ID"] for t in await self._tasks() if t["DesiredState"] == "running"}
            return status.get("State") == "completed" and not now & before

        await _until(completed, "the update is completed")
        await self._settled(body["Spec"]["Mode"]["Replicated"]["Replicas"])
        self._end(began)

    async def scale(self, replicas: int) -> None:
        """Have another number of replicas."""
        began = self._begin(f"scale to {replicas}")
        await self._change(Mode={"Replicated": {"Replicas": replicas}})
        await self._settled(replicas)
        self._end(began)

    async def drain(self, node: LocalNode) -> None:
        """Move the tasks of a node elsewhere, and let it have some again."""
        began = self._begin("drain")
        replicas = (await self._client.service(SERVICE))["Spec"]["Mode"]["Replicated"]["Replicas"]
        node_id = self._ids[node.name]
        for availability in ("drain", "active"):
            current = await self._client.node(node_id)
            spec = {**current["Spec"], "Availability": availability}
            await self._client.update_node(node_id, current["Version"]["Index"], spec)

            async def is_moved() -> bool:
                return node_id not in {t.get("NodeID") for t in await self._tasks() if _may_run(t)}

            if availability == "drain":
                await _until(is_moved, "the drained node has no tasks")
            await self._settled(replicas)
        self._end(began)

    async def restart(self, node: LocalNode) -> None:
        """Stop a daemon as a service manager does, and start it again."""
        began = self._begin("restart")
        self._load.fates[node.address] = Fate.STOPPING
        await node.stop()
        await node.start()
        await self._is_back(node, began)

    async def kill(self, node: LocalNode) -> None:
        """kill -9 of a daemon, and its next start."""
        began = self._begin("kill -9")
        self._load.fates[node.address] = Fate.KILLED
        await node.kill()
        await node.start()
        await self._is_back(node, began)

    async def reboot(self, node: LocalNode) -> None:
        """Move a node's tasks away, and end and start its daemon, as a machine that is rebooted in good order."""
        began = self._begin("reboot")
        replicas = (await self._client.service(SERVICE))["Spec"]["Mode"]["Replicated"]["Replicas"]
        assert await node.client.post("/node/drain", timeout=SETTLE_S) is None, "all tasks run elsewhere"
        await self._settled(replicas)
        self._load.fates[node.address] = Fate.STOPPING
        await node.stop()
        await node.start()
        await self._is_back(node, began)

        async def takes_tasks() -> bool:
            return "Message" not in (await self._client.node(self._ids[node.name]))["Status"]

        await _until(takes_tasks, "the node takes tasks again")

    async def relabel(self, node: LocalNode, labels: Json) -> None:
        """The node becomes no place for its tasks."""
        began = self._begin("relabel")
        node_id = self._ids[node.name]
        replicas = (await self._client.service(SERVICE))["Spec"]["Mode"]["Replicated"]["Replicas"]
        current = await self._client.node(node_id)
        await self._client.update_node(node_id, current["Version"]["Index"], {**current["Spec"], "Labels": labels})

        async def is_moved() -> bool:
            return node_id not in {t.get("NodeID") for t in await self._tasks() if _may_run(t)}

        await _until(is_moved, "the node has no tasks")
        await self._settled(replicas)
        self._end(began)

    async def leave(self, node: LocalNode) -> None:
        """Have a worker leave the cluster, which was not drained before."""
        began = self._begin("leave")
        replicas = (await self._client.service(SERVICE))["Spec"]["Mode"]["Replicated"]["Replicas"]
        self._load.fates[node.address] = Fate.STOPPING
        assert await node.client.post("/swarm/leave", timeout=SETTLE_S) is None, "nothing is lost"
        await self._settled(replicas)
        state = (await self._client.node(self._ids[node.name]))["Status"]["State"]
        assert state == "down"
        self._end(began)

    async def die(self, node: LocalNode, kill_containers: Callable[[str], Awaitable[None]]) -> None:
        """kill -9 of a daemon and, by the id of its node, of its containers: of all that a machine has."""
        self._load.fates[node.address] = Fate.KILLED
        async with asyncio.TaskGroup() as group:
            group.create_task(node.kill())
            group.create_task(kill_containers(self._ids[node.name]))

    async def _is_back(self, node: LocalNode, began: float) -> None:
        """It answers, as does every other, and the cluster knows it."""
        since = time.monotonic()

        async def is_back() -> bool:
            state = (await self._client.node(self._ids[node.name]))["Status"]["State"]
            return self._load.last_answer.get(node.address, 0) > since and state == "ready"

        await _until(is_back, f"{node.name} is back")
        self._load.fates[node.address] = Fate.HERE
        replicas = (await self._client.service(SERVICE))["Spec"]["Mode"]["Replicated"]["Replicas"]
        await self._settled(replicas)
        self._end(began)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _begin(self, what: str) -> float:
        # Two may be under way at once.
        before = self._load.doing
        self._load.doing = what if before == NOTHING else f"{before}, {what}"
        return time.monotonic()

    def _end(self, began: float) -> None:
        if self._load.doing != NOTHING:
            self.seconds[self._load.doing] = round(time.monotonic() - began, 2)
        self._load.doing = NOTHING

    async def _tasks(self) -> list[Json]:
        found: list[Json] = await self._client.get("/tasks", query={"filters": json.dumps({"service": [SERVICE]})})
        return found

    async def _settled(self, replicas: int) -> None:
        async def is_settled() -> bool:
            alive = [t for t in await self._tasks() if _may_run(t)]
            wanted = [t for t in alive if t["DesiredState"] == t["Status"]["State"] == "running"]
            return len(wanted) == len(alive) == replicas

        await _until(is_settled, f"{replicas} tasks run and no other")

    async def _change(self, **spec: Any) -> None:
        current = await self._client.service(SERVICE)
        await self._client.update_service(current["ID"], current["Version"]["Index"], {**current["Spec"], **spec})


async def leader_of(cluster: LocalCluster) -> LocalNode:
    """The node that leads."""
    found: list[LocalNode] = []

    async def is_known() -> bool:
        leader = (await cluster.living_manager.client.status()).get("leader") or {}
        found[:] = [m for m in cluster.managers if m.cluster_address == leader.get("address") and m.is_running]
        return bool(found)

    await _until(is_known, "a leader")
    return found[0]


def _may_run(task: Json) -> bool:
    return task["Status"]["State"] not in {"complete", "shutdown", "failed", "rejected", "orphaned", "remove"}


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + SETTLE_S
    last: SwarmpyError | None = None
    while True:
        try:
            if await condition():
                return
        except SwarmpyError as error:
            last = error
        assert time.monotonic() < deadline, f"not within {SETTLE_S:g} s: {what} ({last})"
        await asyncio.sleep(POLL_S)

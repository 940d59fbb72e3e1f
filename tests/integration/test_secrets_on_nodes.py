"""Secrets and configs on real nodes: with the tasks that have them, nowhere else, and no longer."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from agent_memory import remembered
from clusters import ClusterMaker, node_id, running_tasks, until
from fortress import Fortress, standing
from looking import files_below
from structlog.testing import capture_logs

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import PermissionDenied, SwarmpyError
from swarmpy.manager.operations import create_service
from swarmpy.model import codec
from swarmpy.model.assignments import AGENT_LEVEL, SessionMessage, SessionRequest
from swarmpy.model.dependencies import DependenciesReply, DependenciesRequest
from swarmpy.model.ids import SecretId, TaskId
from swarmpy.model.objects import NodeDescription, Secret
from swarmpy.model.specs import ContainerSpec, FileTarget, Placement, SecretReference, SecretSpec, ServiceSpec, TaskSpec
from swarmpy.model.states import Availability, Role, TaskState
from swarmpy.runtime.memory_files import usual_bases
from swarmpy.security.identity import NodeIdentity
from swarmpy.wire.calling import RpcChannel

PLANTED = "hunter2-planted"
SECOND = 1_000_000_000
LOOK = 'cd "$SWARMPY_SECRETS_DIR" && cat * && stat -c "%a %n" * && cat "$SWARMPY_CONFIGS_DIR"/app.conf; exec sleep 1000'


def root_of(node: str) -> list[Path]:
    """Where a node may have files in memory."""
    return [base.path / node for base in usual_bases(os.geteuid(), os.environ)]


def files_of(node: str) -> dict[str, bytes]:
    """All that a node has in memory: by task and path below its directory."""
    return {str(path.relative_to(root)): data for root in root_of(node) for path, data in files_below(root).items()}


def tasks_with_files(node: str) -> set[str]:
    """The tasks that have some."""
    return {name.split("/")[0] for name in files_of(node)}


async def create(node: LocalNode, kind: str, name: str, data: str, *, is_template: bool = False) -> dict[str, Any]:
    """Make a secret or config; what refers to it in a spec."""
    body: dict[str, Any] = {"Name": name, "Data": base64.b64encode(data.encode()).decode()}
    if is_template:
        body["Templating"] = {"Name": "golang"}
    made = await node.client.post(f"/{kind.lower()}s/create", body)
    return {f"{kind}ID": made["ID"], f"{kind}Name": name}


def at(reference: dict[str, Any], target: str, mode: int = 0o444) -> dict[str, Any]:
    """The reference, with the file that the task sees."""
    return {**reference, "File": {"Name": target, "UID": "0", "GID": "0", "Mode": mode}}


async def make_service(node: LocalNode, *, replicas: int, constraints: tuple[str, ...] = ()) -> str:
    """A service whose tasks show a secret, a template with another in it, and a config, and then sleep."""
    plain = await create(node, "Secret", "password", PLANTED)
    made = await create(node, "Secret", "dsn", '{{.Task.Slot}}@{{.Node.ID}}:{{secret "password"}}\n', is_template=True)
    config = await create(node, "Config", "app", "greeting={{env `WORD`}}\n", is_template=True)
    container = {
        "Image": "none:latest",
        "Command": ["/bin/sh", "-c", LOOK],
        "Env": ["WORD=hello"],
        "StopGracePeriod": SECOND,
        "Secrets": [at(plain, "password", 0o400), at(made, "dsn")],
        "Configs": [at(config, "/etc/app/app.conf")],
    }
    task = {
        "ContainerSpec": container,
        "RestartPolicy": {"Condition": "any", "Delay": 0},
        "Placement": {"Constraints": list(constraints)},
    }
    body = {"Name": "web", "TaskTemplate": task, "Mode": {"Replicated": {"Replicas": replicas}}}
    return str((await node.client.post("/services/create", body))["ID"])


async def runs(node: LocalNode, count: int, on: str | None = None) -> list[dict[str, Any]]:
    """The running tasks, once there are so many (on one node)."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [t for t in await running_tasks(node, "web") if on in (None, t["NodeID"])]
        return len(found) == count

    await until(there, f"{count} tasks run")
    return found


async def gone(node: str, *, keeps: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Return when the node has files of these tasks only."""

    async def none() -> bool:
        return tasks_with_files(node) == keeps

    await until(none, f"files of {keeps or 'no task'} on {node}")


def log_of(node: LocalNode, task: str) -> str:
    """What a task has said."""
    text = (node.data_dir / "tasks" / task / "output.log").read_text()
    return "".join(line.split(" ", 3)[3] for line in text.splitlines(keepends=True))


def holders_of(word: str, *places: Path) -> list[str]:
    """The files that have it in them."""
    return subprocess.run(
        ["grep", "-rlaF", word, *map(str, places)], capture_output=True, text=True, check=False
    ).stdout.splitlines()


@pytest.fixture
async def cluster(make_cluster: ClusterMaker) -> AsyncIterator[LocalCluster]:
    """A manager and two workers; they end in order, so that nothing of theirs is left in memory."""
    cluster = await make_cluster(1, 2)
    ids = [await node_id(node) for node in cluster.nodes]
    yield cluster
    for node in cluster.nodes:
        if not node.is_running:
            await node.start()
    await cluster.dissolve()
    assert [root for each in ids for root in root_of(each) if root.exists()] == []


async def test_a_task_has_its_files(cluster: LocalCluster) -> None:
    """Each task its own, expanded for it; with the modes that were asked for; only on the nodes that run it."""
    manager = cluster.nodes[0]
    ids = {await node_id(node): node for node in cluster.nodes}
    await make_service(manager, replicas=2, constraints=("node.role==worker",))
    for task in await runs(manager, 2):
        node = ids[task["NodeID"]]
        found = files_of(task["NodeID"])
        dsn = f"{task['Slot']}@{task['NodeID']}:{PLANTED}\n"
        assert found[f"{task['ID']}/secrets/dsn"].decode() == dsn
        assert set(found) == {
            f"{task['ID']}/{name}" for name in ("secrets/password", "secrets/dsn", "configs/app.conf")
        }

        async def has_looked(node: LocalNode = node, task: dict[str, Any] = task) -> bool:
            return "greeting" in log_of(node, task["ID"])

        await until(has_looked, "the task has looked at its files")
        assert log_of(node, task["ID"]) == f"{dsn}{PLANTED}444 dsn\n400 password\ngreeting=hello\n"
    assert files_of(await node_id(manager)) == {}


async def test_the_word_is_nowhere_else(cluster: LocalCluster) -> None:
    """Not in what the daemons write, say or show: only in memory, and in the managers' log."""
    manager, *workers = cluster.nodes
    service = await make_service(manager, replicas=2, constraints=("node.role==worker",))
    tasks = await runs(manager, 2)
    shown = [
        await manager.client.get(path)
        for path in ("/tasks", "/services", "/nodes", "/info", f"/services/{service}", "/secrets", "/swarm")
    ]
    shown += [await node.client.status() for node in cluster.nodes]
    assert PLANTED not in json.dumps(shown)
    assert base64.b64encode(PLANTED.encode()).decode() not in json.dumps(shown)
    processes = [Path("/proc") / str(task["Status"]["ContainerStatus"]["PID"]) for task in tasks]
    for process in processes:
        assert PLANTED.encode() not in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    # What the service itself prints is its own affair, and goes with it.
    await manager.client.remove_service(service)
    await until(lambda: _have_no_tasks(workers), "the tasks are removed")
    raft = str(manager.data_dir / "raft")
    holders = holders_of(PLANTED, *(node.data_dir for node in cluster.nodes))
    assert [path for path in holders if not path.startswith(raft)] == []
    assert "session_opened" in manager.log_file.read_text()


async def _have_no_tasks(nodes: list[LocalNode]) -> bool:
    """Neither directories of theirs, which go last."""
    ids = [await node_id(node) for node in nodes]
    return not any(tasks_with_files(each) for each in ids) and not any(_task_directories(node) for node in nodes)


def _task_directories(node: LocalNode) -> list[Path]:
    return [path for path in (node.data_dir / "tasks").iterdir() if path.is_dir()]


async def test_files_go_with_their_task(cluster: LocalCluster) -> None:
    """When it is scaled away, when its node is drained, and when its service is removed."""
    manager, first, second = cluster.nodes
    service = await make_service(manager, replicas=3, constraints=("node.role==worker",))
    tasks = await runs(manager, 3)
    await scale(manager, service, 2)
    left = await runs(manager, 2)
    for worker in (first, second):
        mine = await node_id(worker)
        await gone(mine, keeps={task["ID"] for task in left if task["NodeID"] == mine})
    assert len(tasks) == 3
    drained, other = await node_id(first), await node_id(second)
    await set_availability(manager, drained, "drain")
    moved = await runs(manager, 2, on=other)
    await gone(drained)
    await gone(other, keeps={task["ID"] for task in moved})
    await manager.client.remove_service(service)
    await gone(other)


async def scale(manager: LocalNode, service: str, replicas: int) -> None:
    """Have so many replicas."""
    found = await manager.client.get(f"/services/{service}")
    body = {**found["Spec"], "Mode": {"Replicated": {"Replicas": replicas}}}
    await manager.client.post(f"/services/{service}/update", body, query={"version": str(found["Version"]["Index"])})


async def set_availability(manager: LocalNode, node: str, availability: str) -> None:
    """As ``node update --availability``."""
    found = await manager.client.get(f"/nodes/{node}")
    body = {**found["Spec"], "Availability": availability}
    await manager.client.post(f"/nodes/{node}/update", body, query={"version": str(found["Version"]["Index"])})


async def test_what_a_killed_agent_left_is_swept_away(cluster: LocalCluster) -> None:
    """After kill -9 its tasks are gone and their files are there; once it is back, those of the new tasks only."""
    manager, worker, other = cluster.nodes
    mine = await node_id(worker)
    await set_availability(manager, await node_id(other), "drain")
    await set_availability(manager, await node_id(manager), "drain")
    await make_service(manager, replicas=2)
    before = {task["ID"] for task in await runs(manager, 2, on=mine)}
    assert tasks_with_files(mine) == before

    async def is_written_down() -> bool:
        known = remembered(worker.data_dir).tasks
        return {task.id for task in known if task.status.state is TaskState.RUNNING} == before

    # One that it does not remember to have run it would begin again, under the same id.
    await until(is_written_down, "the agent remembers them")
    await worker.kill()
    assert tasks_with_files(mine) == before
    await worker.start()

    async def replaced() -> bool:
        now = {task["ID"] for task in await running_tasks(manager, "web")}
        return len(now) == 2 and not now & before

    await until(replaced, "other tasks run")
    await gone(mine, keeps={task["ID"] for task in await runs(manager, 2)})


async def test_nothing_is_left_of_a_node_that_leaves(cluster: LocalCluster) -> None:
    """Or is removed, or just ends: the file system in memory is gone, too."""
    manager, first, second = cluster.nodes
    ids = [await node_id(node) for node in (first, second)]
    await make_service(manager, replicas=4, constraints=("node.role==worker",))
    await runs(manager, 4)
    assert all(tasks_with_files(each) for each in ids)
    assert os.geteuid() != 0 or all(root_of(each)[0].is_mount() for each in ids)
    # Removed by its operator, while its daemon runs.
    await manager.client.delete(f"/nodes/{ids[0]}", query={"force": "1"})
    await gone(ids[0])
    await first.stop()
    assert not any(root.exists() for root in root_of(ids[0]))
    # It leaves.
    await runs(manager, 4, on=ids[1])
    await second.client.post("/swarm/leave", None, query={"force": "1"}, timeout=30)
    assert not any(root.exists() for root in root_of(ids[1]))


async def test_a_secret_that_does_not_suit_the_task_is_a_reason(cluster: LocalCluster) -> None:
    """It is rejected, with what is wrong and not with what the secret is."""
    manager = cluster.nodes[0]
    bad = await create(manager, "Secret", "bad", f"{PLANTED}\n{{{{if}}}}", is_template=True)
    container = {"Image": "none:latest", "Command": ["sleep", "1000"], "Secrets": [at(bad, "bad")]}
    body = {"Name": "web", "TaskTemplate": {"ContainerSpec": container}, "Mode": {"Replicated": {"Replicas": 1}}}
    await manager.client.post("/services/create", body)
    said: list[str] = []

    async def rejected() -> bool:
        said[:] = [task["Status"].get("Err", "") for task in await manager.client.get("/tasks")]
        return any(said)

    await until(rejected, "a reason")
    assert next(filter(None, said)).startswith("secret bad: line 2: a placeholder")
    assert PLANTED not in str(said)


# -- a worker in the wrong hands --------------------------------------------------------------------------------------


@pytest.fixture
async def fortress(tmp_path: Path) -> AsyncIterator[Fortress]:
    """A daemon whose port is knocked at."""
    async with standing(tmp_path / "fortress") as fortress:
        yield fortress


@attrs.define
class Worker:
    """A real certificate, and code of its own."""

    channel: RpcChannel
    stream: AsyncIterator[Any]
    session_id: str

    @classmethod
    async def open(cls, fortress: Fortress, identity: NodeIdentity) -> Worker:
        """With a session, as an agent has one."""
        channel = await fortress.dial(identity)
        description = NodeDescription(hostname="h")
        request = SessionRequest(description=description, address="127.0.0.1", level=AGENT_LEVEL)
        stream = channel.stream("dispatcher.session", codec.to_plain(request))
        return cls(channel, stream, codec.from_plain(SessionMessage, await anext(stream)).session_id)

    async def ask(self, task: str, *secrets: str, session: str | None = None) -> DependenciesReply:
        """Ask for secrets, in the name of a task."""
        request = DependenciesRequest(
            session_id=self.session_id if session is None else session,
            task_id=TaskId(task),
            secrets=tuple(SecretId(i) for i in secrets),
        )
        answer = await self.channel.call("dispatcher.dependencies", codec.to_plain(request), timeout=10)
        return codec.from_plain(DependenciesReply, answer)


async def test_a_worker_gets_no_secret_of_a_task_that_it_does_not_run(fortress: Fortress) -> None:
    """Whatever it asks for, and in whose name; what it is refused is written down; its own it gets."""
    manager = fortress.manager
    store = manager.store
    own, others = SecretId("a" * 25), SecretId("b" * 25)

    def write(tx: Any) -> None:
        for secret_id in (own, others):
            tx.create(Secret(id=secret_id, spec=SecretSpec(name=f"s-{secret_id[0]}", data=PLANTED.encode())))
        for node in tx.nodes():
            if node.role is Role.WORKER:
                tx.update(attrs.evolve(node, spec=attrs.evolve(node.spec, availability=Availability.ACTIVE)))

    await until(lambda: _schema_is_raised(fortress), "the state may hold secrets")
    await store.update(write)
    bad = await Worker.open(fortress, fortress.worker)
    good = await Worker.open(fortress, fortress.other)
    for secret_id, identity in ((own, fortress.worker), (others, fortress.other)):
        reference = SecretReference(
            secret_id=secret_id, secret_name=f"s-{secret_id[0]}", file=FileTarget(name="password")
        )
        container = ContainerSpec(image="x", command=("sleep", "1"), secrets=(reference,))
        task = TaskSpec(container=container, placement=Placement(constraints=(f"node.id=={identity.node_id}",)))
        await create_service(store, ServiceSpec(name=f"of-{secret_id[0]}", task=task), manager.new_id)

    def task_on(identity: NodeIdentity) -> str:
        return next((task.id for task in store.view().tasks_on_node(identity.node_id)), "")

    async def assigned() -> bool:
        return bool(task_on(fortress.worker) and task_on(fortress.other))

    await until(assigned, "each worker has a task")
    mine, theirs = task_on(fortress.worker), task_on(fortress.other)
    assert (await bad.ask(mine, own)).secrets[own].data == PLANTED.encode()
    with capture_logs() as logs:
        for task, secret_id in ((mine, others), (theirs, others), (theirs, own), ("x" * 25, others)):
            with pytest.raises(PermissionDenied) as caught:
                await bad.ask(task, secret_id)
            assert PLANTED not in caught.value.message
    refused = [line for line in logs if line["event"] == "secret_refused"]
    assert [line["node"] for line in refused] == [fortress.worker.node_id] * 4
    assert [line["ids"] for line in refused] == [others, others, own, others]
    assert PLANTED not in str(logs)
    with pytest.raises(SwarmpyError, match="this session has ended"):
        await bad.ask(theirs, others, session=good.session_id)
    stranger = attrs.evolve(good, channel=await fortress.dial(None))
    with pytest.raises(PermissionDenied, match="is not open to a caller without a certificate"):
        await stranger.ask(theirs, others)
    assert (await good.ask(theirs, others)).secrets[others].data == PLANTED.encode()
    for worker in (bad, good, stranger):
        await worker.channel.close()


async def _schema_is_raised(fortress: Fortress) -> bool:
    return fortress.cluster.schema >= codec.SECRETS_VERSION

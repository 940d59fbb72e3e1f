"""Services, tasks, nodes and the cluster by way of the API, on real stores."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from api_world import World, ask

from swarmpy.api.api import Api
from swarmpy.model import codec
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.objects import TaskStatus
from swarmpy.model.states import Cause, NodeState, TaskState


@pytest.fixture
async def world() -> World:
    """One manager that leads, one worker."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    return world


@pytest.fixture
def api(world: World) -> Api:
    """The manager's API."""
    return world.apis["m1"]


def spec(name: str = "web", **fields: Any) -> dict[str, Any]:
    """A service spec as clients send it."""
    return {"Name": name, "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}, **fields}


# -- services -------------------------------------------------------------------------------------------------------


async def test_networks_that_no_node_has_are_told_of(api: Api) -> None:
    """They are kept in the spec: whoever asked for them learns that nothing is done with them."""
    networks = [{"Target": "back"}, {"Target": "host"}]
    wanted = spec(TaskTemplate={"ContainerSpec": {"Image": "busybox"}, "Networks": networks})
    status, created = await ask(api, "POST", "/services/create", wanted)
    assert status == 201
    (warning,) = created["Warnings"]
    assert warning.startswith("networks: back are accepted, but overlay networks are not available yet")
    _, shown = await ask(api, "GET", "/services/web")
    assert shown["Spec"]["TaskTemplate"]["Networks"] == networks
    version = str(shown["Version"]["Index"])
    assert await ask(api, "POST", "/services/web/update", wanted, version=version) == (200, {"Warnings": [warning]})


async def test_a_service_is_created_found_updated_and_removed(api: Api) -> None:
    """The life of a service: by id, by name, by id prefix, then gone."""
    status, created = await ask(api, "POST", "/services/create", spec(Labels={"a": "b"}))
    assert status == 201
    service_id = created["ID"]
    for reference in (service_id, "web", service_id[:6]):
        status, shown = await ask(api, "GET", f"/services/{reference}")
        assert (status, shown["ID"]) == (200, service_id)
    version = str(shown["Version"]["Index"])
    status, answer = await ask(
        api, "POST", "/services/web/update", spec(Mode={"Replicated": {"Replicas": 3}}), version=version
    )
    assert (status, answer) == (200, {"Warnings": None})
    _, shown = await ask(api, "GET", "/services/web")
    assert shown["Spec"]["Mode"] == {"Replicated": {"Replicas": 3}}
    assert shown["PreviousSpec"]["Labels"] == {"a": "b"}
    assert shown["Version"]["Index"] > int(version)
    assert await ask(api, "DELETE", "/services/web") == (200, None)
    assert await ask(api, "GET", "/services/web") == (404, {"message": "service web not found"})
    assert await ask(api, "DELETE", "/services/web") == (404, {"message": "service web not found"})
    assert await ask(api, "GET", "/services") == (200, [])


async def test_a_bound_of_what_may_be_missing_is_kept() -> None:
    """By an update that says nothing of it, as Docker's clients do; null takes it away. Not before all can read it."""
    old, new = World("m1"), World("m1")
    for world, schema in ((old, codec.SERVICES_VERSION - 1), (new, codec.SERVICES_VERSION)):
        world.elect("m1")
        await world.found(schema=schema)
    status, answer = await ask(old.apis["m1"], "POST", "/services/create", spec(MaxUnavailable=1))
    assert status == 400
    assert "this needs schema version 8" in answer["message"]
    api = new.apis["m1"]
    await ask(api, "POST", "/services/create", spec(MaxUnavailable="25%"))
    sent: list[tuple[dict[str, Any], Any]] = [({}, "25%"), ({"MaxUnavailable": 2}, 2), ({"MaxUnavailable": None}, None)]
    for fields, bound in sent:
        _, shown = await ask(api, "GET", "/services/web")
        wanted = spec(Labels={"bound": str(bound)}, **fields)
        status, _ = await ask(api, "POST", "/services/web/update", wanted, version=str(shown["Version"]["Index"]))
        assert status == 200
        _, shown = await ask(api, "GET", "/services/web")
        assert shown["Spec"].get("MaxUnavailable") == bound


async def test_a_stale_version_is_out_of_sequence(api: Api) -> None:
    """An update with an old version is refused in the words that clients retry on."""
    await ask(api, "POST", "/services/create", spec())
    status, answer = await ask(api, "POST", "/services/web/update", spec(), version="999")
    assert status == 500
    assert answer["message"].endswith("update out of sequence")
    status, _ = await ask(api, "POST", "/services/web/update", spec())
    assert status == 400


async def test_a_rollback_swaps_the_specs(api: Api) -> None:
    """rollback=previous takes the spec before; without one it is refused."""
    await ask(api, "POST", "/services/create", spec())
    _, shown = await ask(api, "GET", "/services/web")
    version = str(shown["Version"]["Index"])
    status, answer = await ask(api, "POST", "/services/web/update", None, version=version, rollback="previous")
    assert status == 400
    assert "does not have a previous spec" in answer["message"]
    await ask(api, "POST", "/services/web/update", spec(Labels={"new": "1"}), version=version)
    _, shown = await ask(api, "GET", "/services/web")
    version = str(shown["Version"]["Index"])
    status, _ = await ask(api, "POST", "/services/web/update", None, version=version, rollback="previous")
    assert status == 200
    _, shown = await ask(api, "GET", "/services/web")
    assert shown["Spec"]["Labels"] == {}
    assert shown["PreviousSpec"]["Labels"] == {"new": "1"}
    assert shown["UpdateStatus"]["State"] == "rollback_started"
    status, _ = await ask(api, "POST", "/services/web/update", spec(), version=version, rollback="next")
    assert status == 400


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "got EOF"),
        (b"{", 400, "invalid JSON"),
        ({"Name": "web"}, 400, "image reference must be provided"),
        (spec("no name"), 400, "name must be valid as a DNS name component"),
        (spec("taken"), 409, "name conflicts with an existing object: service taken already exists"),
        (spec(EndpointSpec={"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}), 409, "8080"),
        (spec(Mode={"ReplicatedJob": {}}, UpdateConfig={}), 400, "Jobs may not have an update config"),
    ],
)
async def test_a_service_that_cannot_be_is_refused(api: Api, body: Any, status: int, message: str) -> None:
    """Every reason has its status and one line that names it."""
    ports = {"Ports": [{"TargetPort": 80, "PublishedPort": 8080}]}
    assert (await ask(api, "POST", "/services/create", spec("taken", EndpointSpec=ports)))[0] == 201
    answer = await ask(api, "POST", "/services/create", body)
    assert answer[0] == status
    assert message in answer[1]["message"]


async def test_an_ambiguous_prefix_is_refused(world: World, api: Api) -> None:
    """A prefix of two ids names both."""
    ids = iter(["dd1", "dd2"])
    world.leader.new_id = lambda: next(ids)  # type: ignore[method-assign]
    await world.service("a")
    await world.service("b")
    assert await ask(api, "GET", "/services/dd") == (400, {"message": "service dd is ambiguous (2 matches found)"})
    assert (await ask(api, "GET", "/services/dd2"))[1]["Spec"]["Name"] == "b"


async def test_services_are_filtered(world: World, api: Api) -> None:
    """By name and id prefix, label, mode; unknown keys and modes are refused."""
    await world.service("web", labels={"tier": "front"})
    await world.service("webby")
    await ask(api, "POST", "/services/create", spec("everywhere", Mode={"Global": {}}))

    async def names(filters: str) -> list[str]:
        status, found = await ask(api, "GET", "/services", filters=filters)
        assert status == 200
        return [service["Spec"]["Name"] for service in found]

    assert await names('{"name":["web"]}') == ["web", "webby"]
    assert await names('{"name":{"webb":true,"every":true}}') == ["webby", "everywhere"]
    assert await names('{"label":["tier"]}') == await names('{"label":["tier=front"]}') == ["web"]
    assert await names('{"mode":["global"]}') == ["everywhere"]
    assert (await ask(api, "GET", "/services", filters='{"zz":["1"]}'))[0] == 400
    assert (await ask(api, "GET", "/services", filters='{"mode":["zz"]}'))[0] == 400


async def test_counts_come_only_when_asked_for(world: World, api: Api) -> None:
    """ServiceStatus counts running and desired tasks."""
    service = await world.service("web", replicas=2)
    await world.task(service)
    _, found = await ask(api, "GET", "/services", status="true")
    assert found[0]["ServiceStatus"] == {"RunningTasks": 1, "DesiredTasks": 2, "CompletedTasks": 0}
    _, found = await ask(api, "GET", "/services")
    assert "ServiceStatus" not in found[0]


# -- tasks ----------------------------------------------------------------------------------------------------------


async def test_tasks_are_filtered(world: World, api: Api) -> None:
    """By service, node, name, desired state, label and whether they are up to date."""
    web = await world.service("web", labels={"com.docker.stack.namespace": "st"})
    db = await world.service("db")
    before = attrs.evolve(web.spec.task, force_update=7)
    old = await world.task(web, 1, desired_state=TaskState.SHUTDOWN, spec=before, spec_version=0)
    new = await world.task(web, 1)
    other = await world.task(db, 2, node_id=NodeId("m1"))

    async def ids(filters: str) -> set[str]:
        status, found = await ask(api, "GET", "/tasks", filters=filters)
        assert status == 200, found
        return {task["ID"] for task in found}

    assert await ids("{}") == {old.id, new.id, other.id}
    assert await ids('{"service":["web"]}') == await ids(f'{{"service":{{"{web.id}":true}}}}') == {old.id, new.id}
    assert await ids('{"service":["web"],"_up-to-date":["true"]}') == {new.id}
    assert await ids('{"desired-state":["running"]}') == {new.id, other.id}
    assert await ids('{"node":["host-m1"]}') == {other.id}
    assert await ids('{"service":["web"],"node":["host-m1"]}') == set()
    assert await ids('{"name":["db.2"]}') == {other.id}
    assert await ids('{"label":["com.docker.stack.namespace=st"]}') == {old.id, new.id}
    assert await ids(f'{{"id":["{new.id[:12]}"]}}') == {new.id}
    status, answer = await ask(api, "GET", "/tasks", filters='{"service":["nosuch"]}')
    assert (status, answer) == (404, {"message": "service nosuch not found"})
    assert (await ask(api, "GET", "/tasks", filters='{"desired-state":["bogus"]}'))[0] == 400


async def test_the_last_tasks_of_a_removed_service_can_be_watched(world: World, api: Api) -> None:
    """A service that is being removed is found by its whole id only, and only for its tasks."""
    web = await world.service("web")
    task = await world.task(web)
    await ask(api, "DELETE", "/services/web")
    _, found = await ask(api, "GET", "/tasks", filters=f'{{"service":["{web.id}"]}}')
    assert [shown["ID"] for shown in found] == [task.id]
    assert (await ask(api, "GET", "/tasks", filters='{"service":["web"]}'))[0] == 404


async def test_a_task_is_inspected_by_id_prefix_or_name(world: World, api: Api) -> None:
    """Full id, full name, id prefix."""
    task = await world.task(await world.service("web"))
    for reference in (task.id, task.name, task.id[:10]):
        status, shown = await ask(api, "GET", f"/tasks/{reference}")
        assert (status, shown["ID"], shown["Slot"]) == (200, task.id, 1)
    assert await ask(api, "GET", "/tasks/zzz") == (404, {"message": "task zzz not found"})


async def test_a_task_tells_what_became_of_it(world: World, api: Api) -> None:
    """Its states with their times, why it was told to stop, and the tasks of its slot before and after it."""
    await world.leader.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), schema=codec.SCHEMA_VERSION)))
    service = await world.service("web")
    first = await world.task(service, status=TaskStatus())
    steps: list[dict[str, Any]] = [
        {"status": TaskStatus(state=TaskState.PENDING)},
        {"status": TaskStatus(state=TaskState.ASSIGNED), "node_id": NodeId("w1")},
        {"status": TaskStatus(state=TaskState.RUNNING)},
        {"desired_state": TaskState.SHUTDOWN, "cause": Cause.DRAIN},
        {"status": TaskStatus(state=TaskState.SHUTDOWN)},
    ]
    for step in steps:
        await world.leader.store.update(
            lambda tx, step=step: tx.update(attrs.evolve(tx.task(first.id), **step))  # type: ignore[misc]
        )
    second = await world.task(service, status=TaskStatus(), desired_state=TaskState.READY, not_before_ns=10**18)
    await world.task(service, slot=2)
    _, shown = await ask(api, "GET", f"/tasks/{first.id}")
    assert [{k: v for k, v in moment.items() if k != "Timestamp"} for moment in shown["History"]] == [
        {"State": "pending"},
        {"State": "assigned"},
        {"State": "running"},
        {"DesiredState": "shutdown", "Reason": "its node was drained"},
        {"State": "shutdown"},
    ]
    times = [shown["CreatedAt"], *(moment["Timestamp"] for moment in shown["History"])]
    assert times == sorted(times)
    assert times[-1] == shown["UpdatedAt"]
    assert (shown["ReplacedBy"], "Replaces" in shown) == (second.id, False)
    _, shown = await ask(api, "GET", f"/tasks/{second.id}")
    assert (shown["Replaces"], shown["History"]) == (first.id, [])
    assert shown["NotBefore"] == "2001-09-09T01:46:40Z"
    _, listed = await ask(api, "GET", "/tasks")
    assert all("History" not in task for task in listed)


# -- nodes ----------------------------------------------------------------------------------------------------------


async def test_nodes_show_who_leads(api: Api) -> None:
    """A manager has a ManagerStatus, the leader says so; a worker has none."""
    _, nodes = await ask(api, "GET", "/nodes")
    manager, worker = nodes
    assert manager["ManagerStatus"] == {"Leader": True, "Reachability": "reachable", "Addr": "m1:2377"}
    assert "ManagerStatus" not in worker
    assert worker["Description"]["Resources"] == {"NanoCPUs": 2_000_000_000, "MemoryBytes": 4 << 30}
    assert worker["Description"]["TLSInfo"]["TrustRoot"].startswith("-----BEGIN CERTIFICATE")
    assert worker["Status"] == {"State": "ready", "Addr": "127.0.0.1"}


async def test_nodes_are_filtered(api: Api) -> None:
    """By role, hostname prefix, engine label and node label."""

    async def ids(filters: str) -> list[str]:
        _, found = await ask(api, "GET", "/nodes", filters=filters)
        return [node["ID"] for node in found]

    assert await ids('{"role":["worker"]}') == ["w1"]
    assert await ids('{"name":["host-m"]}') == ["m1"]
    assert await ids('{"label":["disk=ssd"],"id":["w"]}') == ["w1"]
    assert await ids('{"node.label":["zone"]}') == []
    assert await ids('{"membership":["pending"]}') == []
    status, answer = await ask(api, "GET", "/nodes", filters='{"role":["bogus"]}')
    assert status == 400
    assert "Invalid role filter: 'bogus'" in answer["message"]


async def test_a_node_is_updated_by_its_hostname(api: Api) -> None:
    """The whole spec is replaced and comes back as it was sent."""
    _, node = await ask(api, "GET", "/nodes/host-w1")
    changed = {"Name": "w", "Labels": {"zone": "a"}, "Role": "worker", "Availability": "drain"}
    version = str(node["Version"]["Index"])
    assert await ask(api, "POST", "/nodes/host-w1/update", changed, version=version) == (200, None)
    _, node = await ask(api, "GET", "/nodes/w1")
    assert node["Spec"] == changed
    assert (await ask(api, "POST", "/nodes/w1/update", changed, version=version))[0] == 500
    assert (await ask(api, "GET", "/nodes/self"))[0] == 404


async def test_managers_and_living_nodes_are_not_removed_lightly(world: World, api: Api) -> None:
    """A manager must be demoted, the last one cannot be; a node that is up needs force."""
    _, node = await ask(api, "GET", "/nodes/m1")
    demoted = {**node["Spec"], "Role": "worker"}
    status, answer = await ask(api, "POST", "/nodes/m1/update", demoted, version=str(node["Version"]["Index"]))
    assert (status, answer["message"]) == (400, "attempting to demote the last manager of the swarm")
    status, answer = await ask(api, "DELETE", "/nodes/m1", force="1")
    assert status == 400
    assert "must be demoted to worker before removal" in answer["message"]
    status, answer = await ask(api, "DELETE", "/nodes/host-w1")
    assert (status, answer["message"]) == (400, "node w1 is not down and can't be removed")
    assert await ask(api, "DELETE", "/nodes/host-w1", force="1") == (200, None)
    assert await ask(api, "GET", "/nodes/w1") == (404, {"message": "node w1 not found"})
    assert "w1" in world.leader.store.view().cluster().removed_nodes


# -- the cluster ----------------------------------------------------------------------------------------------------


async def test_the_swarm_is_shown_with_its_tokens_and_changed(api: Api) -> None:
    """An update keeps what was not given; a rotated token is another one."""
    _, swarm = await ask(api, "GET", "/swarm")
    assert swarm["JoinTokens"]["Worker"].startswith("SWMTKN-1-")
    version = str(swarm["Version"]["Index"])
    body = {"Orchestration": {"TaskHistoryRetentionLimit": 3}, "CAConfig": {"NodeCertExpiry": 3_600_000_000_000}}
    assert await ask(api, "POST", "/swarm/update", body, version=version, rotateWorkerToken="true") == (200, None)
    _, after = await ask(api, "GET", "/swarm")
    assert after["Spec"]["Orchestration"]["TaskHistoryRetentionLimit"] == 3
    assert after["Spec"]["Raft"] == swarm["Spec"]["Raft"]
    assert after["JoinTokens"]["Worker"] != swarm["JoinTokens"]["Worker"]
    assert after["JoinTokens"]["Manager"] == swarm["JoinTokens"]["Manager"]
    assert (await ask(api, "POST", "/swarm/update", body, version=version))[0] == 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"CAConfig": {"NodeCertExpiry": 1}}, "30 minutes"),
        ({"EncryptionConfig": {"AutoLockManagers": "yes"}}, "EncryptionConfig.AutoLockManagers: expected boolean"),
        ({"CAConfig": {"ExternalCAs": [{"URL": "https://ca"}]}}, "ExternalCAs is not supported yet"),
        ({"CAConfig": {"SigningCAKey": "k"}}, "a CA key needs its certificate"),
        ({"CAConfig": {"SigningCACert": "c", "SigningCAKey": "k"}}, "must be one PEM certificate"),
        ({"Raft": {"ElectionTick": 4}}, "the election timeout of 400 ms is too short"),
        ({"Raft": {"TickInterval": 1_000_000}}, "the heartbeat interval is 1 ms"),
    ],
)
async def test_what_a_swarm_cannot_do_is_refused(api: Api, body: Any, message: str) -> None:
    """Settings that would have no effect or do harm are refused."""
    _, swarm = await ask(api, "GET", "/swarm")
    status, answer = await ask(api, "POST", "/swarm/update", body, version=str(swarm["Version"]["Index"]))
    assert status == 400
    assert message in answer["message"]


async def test_tasks_of_a_dead_node_do_not_count(world: World, api: Api) -> None:
    """Counts leave out tasks of nodes that are down."""
    service = await world.service("web")
    await world.task(service)

    def down(tx: Any) -> None:
        node = tx.node("w1")
        tx.update(attrs.evolve(node, status=attrs.evolve(node.status, state=NodeState.DOWN)))

    await world.leader.store.update(down)
    _, found = await ask(api, "GET", "/services", status="1")
    assert found[0]["ServiceStatus"]["RunningTasks"] == 0


async def test_a_waiting_task_says_why(world: World, api: Api) -> None:
    """The scheduler's reason is in Status.Err; there is no node yet."""
    status = TaskStatus(state=TaskState.PENDING, err="no suitable node")
    await world.task(await world.service("web"), id=TaskId("t1"), node_id=None, status=status)
    _, task = await ask(api, "GET", "/tasks/t1")
    assert (task["Status"]["State"], task["Status"]["Err"]) == ("pending", "no suitable node")
    assert "NodeID" not in task

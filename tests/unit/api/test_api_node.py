"""What a node answers about itself: ping, version, info, founding, joining, leaving, status."""

from __future__ import annotations

import base64
import json
from typing import Any

import attrs
import pytest
from api_world import BenchNode, World, api_of, ask, decoded, request

from swarmpy.model.images import RegistryImage
from swarmpy.model.specs import Platform
from swarmpy.model.states import Availability


@pytest.fixture
def alone() -> BenchNode:
    """A node in no cluster."""
    return BenchNode("", local_state="inactive")


async def test_ping_says_ok() -> None:
    """HEAD has no body, GET has OK, neither may be cached."""
    api = api_of(BenchNode("w1"))
    head, get = await api.handle(request("HEAD", "/_ping")), await api.handle(request("GET", "/_ping"))
    assert (head.status, head.body, get.body) == (200, b"", b"OK")
    assert "no-store" in get.headers["Cache-Control"]


async def test_version_announces_the_api() -> None:
    """Clients read the API versions and the architecture in Go's spelling."""
    _, version = await ask(api_of(BenchNode("w1")), "GET", "/version")
    assert (version["ApiVersion"], version["MinAPIVersion"]) == ("1.41", "1.12")
    assert (version["Os"], version["Arch"]) == ("linux", "amd64")
    assert version["Components"][0]["Name"] == "Engine"


async def test_info_tells_whether_the_node_is_in_a_swarm(alone: BenchNode) -> None:
    """Inactive, worker and manager look as clients expect."""
    _, info = await ask(api_of(alone), "GET", "/info")
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert (info["Swarm"]["NodeID"], info["Swarm"]["RemoteManagers"]) == ("", None)
    _, info = await ask(api_of(BenchNode("w1")), "GET", "/info")
    assert [info[f"Containers{state}"] for state in ("", "Running", "Paused", "Stopped")] == [2, 1, 0, 1]
    assert (info["Swarm"]["LocalNodeState"], info["Swarm"]["ControlAvailable"]) == ("active", False)
    assert info["Swarm"]["RemoteManagers"] == [{"NodeID": "m1", "Addr": "m1:2377"}]
    world = World("m1")
    world.elect("m1")
    _, info = await ask(world.apis["m1"], "GET", "/info")
    assert "Cluster" not in info["Swarm"]
    await world.found()
    _, info = await ask(world.apis["m1"], "GET", "/info")
    assert (info["Swarm"]["Nodes"], info["Swarm"]["Managers"]) == (2, 1)
    assert info["Swarm"]["Cluster"]["ID"] == "thecluster"
    assert "JoinTokens" not in json.dumps(info)
    assert "SWMTKN" not in json.dumps(info)


@pytest.mark.parametrize("path", ["/services", "/nodes", "/tasks", "/swarm", "/services/x", "/secrets", "/configs"])
async def test_only_managers_know_the_cluster(alone: BenchNode, path: str) -> None:
    """A node outside and a worker answer 503 with the words that clients look for."""
    status, answer = await ask(api_of(alone), "GET", path)
    assert status == 503
    assert 'not a swarm manager: it is in no swarm. Create one ("swarm init")' in answer["message"]
    status, answer = await ask(api_of(BenchNode("w1")), "GET", path)
    assert status == 503
    assert "Worker nodes can't be used to view or modify cluster state" in answer["message"]
    alone.local_state = "pending"
    assert "is joining a swarm" in (await ask(api_of(alone), "GET", path))[1]["message"]
    alone.local_state, alone.error = "error", "certificate expired"
    assert "certificate expired" in (await ask(api_of(alone), "GET", path))[1]["message"]


async def test_init_passes_what_was_asked(alone: BenchNode) -> None:
    """The answer is the node id as a JSON string; docker-py's nulls are fine."""
    body = {
        "ListenAddr": "0.0.0.0:2377",
        "AdvertiseAddr": "10.0.0.1",
        "DataPathPort": None,
        "DefaultAddrPool": None,
        "SubnetSize": 24,
        "ForceNewCluster": False,
        "Availability": "drain",
        "Spec": {"Dispatcher": {"HeartbeatPeriod": 2_000_000_000}, "EncryptionConfig": {"AutoLockManagers": False}},
    }
    assert await ask(api_of(alone), "POST", "/swarm/init", body) == (200, "newnodeid")
    asked = alone.inits[0]
    assert (asked.listen_addr, asked.advertise_addr) == ("0.0.0.0:2377", "10.0.0.1")
    assert asked.availability is Availability.DRAIN
    assert asked.spec.dispatcher.heartbeat_period_ns == 2_000_000_000


async def test_restoring_needs_a_file_and_a_node_in_no_cluster(alone: BenchNode) -> None:
    """The path is absolute, for the daemon may work in another directory."""
    body = {"File": "/x/b.bak", "ListenAddr": "0.0.0.0:2377", "Force": True}
    assert await ask(api_of(alone), "POST", "/swarm/restore", body) == (200, "restorednodeid")
    assert (alone.restores[0].file, alone.restores[0].force) == ("/x/b.bak", True)
    for file in ("", "b.bak"):
        status, answer = await ask(api_of(alone), "POST", "/swarm/restore", {**body, "File": file})
        assert (status, "absolute path" in answer["message"]) == (400, True)
    status, answer = await ask(api_of(BenchNode("w1")), "POST", "/swarm/restore", body)
    assert (status, "already part of a swarm" in answer["message"]) == (503, True)


@pytest.mark.parametrize(("listen", "asked"), [("0.0.0.0:2377", ""), ("10.0.0.1:2399", "10.0.0.1:2399")])
async def test_forcing_a_new_cluster_is_asked_of_a_member(listen: str, asked: str) -> None:
    """Docker's client sends its default address always: it means the one there is."""
    node = BenchNode("w1")
    body = {"ListenAddr": listen, "ForceNewCluster": True, "Spec": {}, "Availability": "active"}
    assert await ask(api_of(node), "POST", "/swarm/init", body) == (200, "newnodeid")
    assert (node.inits[0].force_new_cluster, node.inits[0].listen_addr) == (True, asked)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/swarm/init", b"", "got EOF"),
        ("/swarm/init", {}, "ListenAddr: must not be empty"),
        ("/swarm/init", {"ListenAddr": "x", "DataPathAddr": "10.0.0.1"}, "DataPathAddr is not supported yet"),
        ("/swarm/init", {"ListenAddr": "x", "DefaultAddrPool": ["10.0.0.0/8"]}, "DefaultAddrPool is not supported yet"),
        ("/swarm/init", {"ListenAddr": "x", "Spec": {"Raft": 1}}, "Spec.Raft: expected object"),
        ("/swarm/join", {"ListenAddr": "x", "JoinToken": "t"}, "at least 1 RemoteAddr is required"),
        ("/swarm/join", {"ListenAddr": "x", "JoinToken": "t", "RemoteAddrs": [""]}, "at least 1 RemoteAddr"),
        ("/swarm/join", {"ListenAddr": "x", "RemoteAddrs": ["m"]}, "join token is necessary"),
    ],
)
async def test_founding_and_joining_need_their_parts(alone: BenchNode, path: str, body: Any, message: str) -> None:
    """What is missing or cannot be done is said, and nothing is tried."""
    status, answer = await ask(api_of(alone), "POST", path, body)
    assert status == 400
    assert message in answer["message"]
    assert not alone.inits
    assert not alone.joins


async def test_join_and_leave(alone: BenchNode) -> None:
    """A join is passed on; leaving nothing is refused; a manager is asked for force."""
    body = {"ListenAddr": "0.0.0.0:2377", "RemoteAddrs": ["m1:2377"], "JoinToken": "SWMTKN-1-x-y"}
    assert await ask(api_of(alone), "POST", "/swarm/join", body) == (200, None)
    assert alone.joins[0].remote_addrs == ("m1:2377",)
    assert "SWMTKN" not in repr(alone.joins[0])
    assert await ask(api_of(alone), "POST", "/swarm/leave") == (503, {"message": "This node is not part of a swarm"})
    worker = BenchNode("w1")
    assert await ask(api_of(worker), "POST", "/swarm/leave") == (200, None)
    worker.losses = ("web: 1 not running elsewhere: starting",)
    answer = {"Warnings": ["web: 1 not running elsewhere: starting"]}
    assert await ask(api_of(worker), "POST", "/swarm/leave", timeout="2.5") == (200, answer)
    assert await ask(api_of(worker), "POST", "/node/drain", timeout="7") == (200, answer)
    worker.losses = ()
    assert await ask(api_of(worker), "POST", "/node/drain", undo="1") == (200, None)
    assert worker.drains == [(7.0, False), (None, True)]
    for wrong in ("-1", "nan", "1e3", "3600.5", "soon"):
        status, refusal = await ask(api_of(worker), "POST", "/swarm/leave", timeout=wrong)
        assert (status, "expected seconds, from 0 to 3600" in refusal["message"]) == (400, True)
    assert worker.leaves == [(False, None), (False, 2.5)]
    world = World("m1")
    status, answer = await ask(world.apis["m1"], "POST", "/swarm/leave")
    assert status == 503
    assert "participating as a manager" in answer["message"]
    assert await ask(world.apis["m1"], "POST", "/swarm/leave", force="1") == (200, None)
    assert world.nodes["m1"].leaves == [(True, None)]


async def test_a_member_cannot_found_or_join_again() -> None:
    """503, with the way out."""
    for path in ("/swarm/init", "/swarm/join"):
        status, answer = await ask(api_of(BenchNode("w1")), "POST", path, {"ListenAddr": "x"})
        assert status == 503
        assert "already part of a swarm" in answer["message"]


async def test_a_member_that_is_shut_out_joins_again() -> None:
    """Joining is how it comes back; whether it may is not for the API to say. It still cannot found another cluster."""
    node = BenchNode("w1", local_state="error")
    node.may_rejoin = True
    body = {"ListenAddr": "x", "RemoteAddrs": ["m1:2377"], "JoinToken": "t"}
    status, _ = await ask(api_of(node), "POST", "/swarm/join", body)
    assert (status, [join.join_token for join in node.joins]) == (200, ["t"])
    status, _ = await ask(api_of(node), "POST", "/swarm/init", {"ListenAddr": "x"})
    assert status == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/containers/json", 200),
        ("GET", "/images/json", 200),
        ("GET", "/networks", 200),
        ("GET", "/volumes", 200),
        ("GET", "/networks/back", 404),
        ("GET", "/networks/none", 404),
        ("DELETE", "/networks/back", 404),
        ("GET", "/containers/web/json", 404),
        ("GET", "/images/a/b/json", 404),
        ("POST", "/networks/create", 501),
        ("GET", "/events", 501),
        ("GET", "/nonsense", 404),
        ("PUT", "/services", 404),
    ],
)
async def test_what_swarmpy_does_not_manage(method: str, path: str, status: int) -> None:
    """Lists are empty, single objects not found, creation not supported, the rest no page."""
    assert (await ask(api_of(BenchNode("w1")), method, path))[0] == status


@pytest.mark.parametrize("name", ["host", "bridge"])
async def test_networks_that_every_node_has(name: str) -> None:
    """The docker command looks for them before it makes a service that names one, and then names it by its id."""
    status, found = await ask(api_of(BenchNode("w1")), "GET", f"/networks/{name}", scope="swarm")
    assert status == 200
    assert (found["Id"], found["Name"], found["Scope"], found["Driver"]) == (name, name, "swarm", name)


# -- registries ------------------------------------------------------------------------------------------------------

PINNED = RegistryImage(
    digest="sha256:" + "5" * 64, media_type="m/v2", size=527, platforms=(Platform(architecture="arm64"),)
)


async def test_a_registry_is_asked_with_the_callers_credentials() -> None:
    """The answer has Docker's fields; the credentials are what the header says, those of an empty object are none."""
    node = BenchNode("w1")
    asked: list[tuple[str, bytes]] = []

    def registry(image: str, auth: bytes) -> RegistryImage:
        asked.append((image, auth))
        return PINNED

    node.registry = registry
    header = {"x-registry-auth": base64.urlsafe_b64encode(b'{"username": "u", "password": "planted"}').decode()}
    status, answer = await asked_with(node, "10.0.0.1:5000/shop/web:8", header)
    assert status == 200
    assert answer == {
        "Descriptor": {"mediaType": "m/v2", "digest": PINNED.digest, "size": 527},
        "Platforms": [{"architecture": "arm64", "os": "linux"}],
    }
    empty = {"x-registry-auth": base64.urlsafe_b64encode(b"{}").decode()}
    assert (await asked_with(node, "web", empty))[0] == 200
    assert asked == [("10.0.0.1:5000/shop/web:8", b'{"password": "planted", "username": "u"}'), ("web", b"")]


async def asked_with(node: BenchNode, image: str, headers: dict[str, str]) -> tuple[int, Any]:
    """What the node answers on an image."""
    asked = attrs.evolve(request("GET", f"/distribution/{image}/json"), headers=headers)
    return decoded(await api_of(node).handle(asked))


@pytest.mark.parametrize("name", ["BAD", "a/../b", "web:8?x=1", "web%0a"])
async def test_what_is_no_image_is_asked_of_no_registry(name: str) -> None:
    """It becomes part of a path at the engine."""
    node = BenchNode("w1")
    status, answer = await ask(api_of(node), "GET", f"/distribution/{name}/json")
    assert status == 400
    assert "is no image" in answer["message"]


async def test_a_node_without_an_engine_asks_no_registry() -> None:
    """It says so; clients go on with the tag."""
    assert (await ask(api_of(BenchNode("w1")), "GET", "/distribution/web/json"))[0] == 400


# -- status ---------------------------------------------------------------------------------------------------------


async def test_status_shows_the_cluster_and_its_problems() -> None:
    """Leader, quorum, nodes, services with the reason for what does not run."""
    world = World("m1", "m2", "m3")
    world.elect("m1")
    await world.found()
    service = await world.service("web", replicas=2)
    await world.task(service)
    world.nodes["m1"].troubles = ("published port 80: permission denied",)
    del world.apis["m3"]
    _, status = await ask(world.apis["m1"], "GET", "/status")
    assert status["leader"] == {"node_id": "m1", "address": "m1:2377"}
    assert status["raft"]["role"] == "leader"
    assert status["quorum"] == {"healthy": True, "managers": 3, "reachable": 2, "needed": 2}
    shown = {node["hostname"]: (node["leader"], node["reachable"]) for node in status["nodes"]}
    assert list(shown.values()) == [(True, True), (False, True), (False, False), (False, None)]
    shown = status["services"][0]
    assert (shown["name"], shown["running"], shown["desired"]) == ("web", 1, 2)
    assert shown["reason"]
    assert "published port 80: permission denied" in status["problems"]
    assert "manager host-m3 is not reachable" in status["problems"]
    assert any(line.startswith("service web: 1 of 2 tasks running") for line in status["problems"])
    assert (await ask(world.apis["m1"], "GET", "/readyz"))[0] == 200


async def test_status_answers_without_a_quorum() -> None:
    """The page still comes, says so, and the node is healthy but not ready."""
    world = World("m1", "m2", "m3")
    world.elect("m1")
    await world.found()
    world.elect(None)
    api = world.apis["m1"]
    _, status = await ask(api, "GET", "/status")
    assert status["leader"] is None
    assert status["quorum"]["healthy"] is False
    assert any(line.startswith("no quorum") for line in status["problems"])
    code, answer = await ask(api, "GET", "/readyz")
    assert (code, answer["reason"]) == (503, "no quorum: too few managers are online")
    assert (await ask(api, "GET", "/healthz"))[0] == 200


async def test_a_manager_without_a_vote_is_not_part_of_the_quorum() -> None:
    """One that catches up is neither needed nor counted, whether it answers or not."""
    world = World("m1", "m2")
    world.learners = {"m2"}
    world.elect("m1")
    await world.found()
    alone = {"healthy": True, "managers": 1, "reachable": 1, "needed": 1}
    _, status = await ask(world.apis["m1"], "GET", "/status")
    assert status["quorum"] == alone
    del world.apis["m2"]
    _, status = await ask(world.apis["m1"], "GET", "/status")
    assert status["quorum"] == alone
    assert "manager host-m2 is not reachable" in status["problems"]


async def test_a_worker_tells_what_it_knows(alone: BenchNode) -> None:
    """A worker knows itself and where the managers are; a node outside is not ready."""
    _, status = await ask(api_of(BenchNode("w1")), "GET", "/status")
    assert (status["state"], status["nodes"], status["services"], status["quorum"]) == ("active", None, None, None)
    assert status["manager_addresses"] == [{"node_id": "m1", "address": "m1:2377"}]
    assert (await ask(api_of(BenchNode("w1")), "GET", "/readyz"))[0] == 200
    code, answer = await ask(api_of(alone), "GET", "/readyz")
    assert (code, answer["reason"]) == (503, "this node is inactive, not active in a swarm")

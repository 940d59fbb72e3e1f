"""What a cluster of real processes does when parts of it are killed."""

from __future__ import annotations

import asyncio

import aiohttp
from clusters import ClusterMaker, leader_of, node_id, running_tasks, runs, service_body, until

from swarmpy.cli.local_cluster import LocalCluster, LocalNode

WEB = ["sh", "-c", 'exec python3 -m http.server "$PORT" --bind "$HOST"']


async def answers(node: LocalNode, port: int) -> int:
    """The status a published port of the node answers with."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://{node.address}:{port}/") as response,
    ):
        return response.status


async def all_answer(cluster: LocalCluster, port: int) -> bool:
    """True when every living node answers on the port."""
    try:
        codes = await asyncio.gather(*(answers(n, port) for n in cluster.nodes if n.is_running))
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
    return all(code == 200 for code in codes)


async def deploy_web(cluster: LocalCluster, port: int, replicas: int) -> None:
    body = service_body("web", replicas)
    body["TaskTemplate"] = {"ContainerSpec": {"Image": "none", "Command": WEB, "StopGracePeriod": 1_000_000_000}}
    body["EndpointSpec"] = {"Ports": [{"TargetPort": 80, "PublishedPort": port}]}
    await cluster.managers[0].client.post("/services/create", body)
    await until(lambda: runs(cluster.living_manager, "web", replicas), "web runs")


async def test_a_killed_workers_tasks_run_elsewhere(make_cluster: ClusterMaker) -> None:
    """kill -9 of a worker moves its tasks to living nodes, and published ports keep answering from all of them."""
    cluster = await make_cluster(3, 2, ports=(18081,))
    await deploy_web(cluster, 18081, 5)
    await until(lambda: all_answer(cluster, 18081), "every node answers")
    victim = cluster.workers[0]
    victim_id = await node_id(victim)
    assert any(t["NodeID"] == victim_id for t in await running_tasks(cluster.managers[0], "web"))
    await victim.kill()

    async def moved() -> bool:
        tasks = await running_tasks(cluster.managers[0], "web")
        return len([t for t in tasks if t["NodeID"] != victim_id]) == 5

    await until(moved, "five tasks on living nodes", timeout=20)
    await until(lambda: all_answer(cluster, 18081), "every living node answers")
    state = (await cluster.managers[0].client.node(victim_id))["Status"]["State"]
    assert state == "down"


async def test_a_killed_leader_is_replaced(make_cluster: ClusterMaker) -> None:
    """kill -9 of the leader leaves the others able to write, and no task is lost or started twice."""
    cluster = await make_cluster(3, 1)
    await cluster.managers[0].client.post("/services/create", service_body("keep", 4))
    await until(lambda: runs(cluster.managers[0], "keep", 4), "keep runs")
    leader = await leader_of(cluster)
    await leader.kill()
    survivor = cluster.living_manager
    await survivor.client.post("/services/create", service_body("after", 2), timeout=30)
    await until(lambda: runs(survivor, "after", 2), "the new service runs")
    await until(lambda: runs(survivor, "keep", 4), "the old service is whole", timeout=20)
    assert await leader_of(cluster) is not leader


async def test_a_killed_follower_comes_back(make_cluster: ClusterMaker) -> None:
    """A follower that was killed catches up from its own disk and the leader."""
    cluster = await make_cluster(3, 0)
    leader = await leader_of(cluster)
    follower = next(m for m in cluster.managers if m is not leader)
    await follower.kill()
    await leader.client.post("/services/create", service_body("meanwhile", 1))
    await follower.start()

    async def knows() -> bool:
        return [s["Spec"]["Name"] for s in await follower.client.get("/services")] == ["meanwhile"]

    await until(knows, "the follower knows what happened meanwhile")


async def test_everything_restarts_from_disk(make_cluster: ClusterMaker) -> None:
    """When every daemon is killed and started again, nothing is lost and the services run again."""
    cluster = await make_cluster(3, 1)
    await cluster.managers[0].client.post("/services/create", service_body("solid", 3))
    await until(lambda: runs(cluster.managers[0], "solid", 3), "solid runs")
    before = await cluster.managers[0].client.get("/services")
    nodes_before = {n["ID"] for n in await cluster.managers[0].client.nodes()}
    await asyncio.gather(*(node.kill() for node in cluster.nodes))
    await asyncio.gather(*(node.start() for node in cluster.nodes))
    await until(lambda: runs(cluster.managers[0], "solid", 3), "solid runs again", timeout=40)
    after = await cluster.managers[1].client.get("/services")
    assert [(s["ID"], s["Spec"]) for s in after] == [(s["ID"], s["Spec"]) for s in before]
    assert {n["ID"] for n in await cluster.managers[2].client.nodes()} == nodes_before


async def test_a_stopped_leader_hands_over_first(make_cluster: ClusterMaker) -> None:
    """When a leader that is told to stop has gone, another manager leads already."""
    cluster = await make_cluster(3, 0)
    leader = await leader_of(cluster)
    await leader.stop()
    assert "leadership_handed_over" in leader.log_file.read_text()
    others = [manager for manager in cluster.managers if manager is not leader]
    told = [(await manager.client.status())["leader"] for manager in others]
    assert any(known and known["address"] != leader.cluster_address for known in told)


async def test_a_manager_that_misses_its_demotion_enters_the_group_anew(make_cluster: ClusterMaker) -> None:
    """Demoted and promoted while it was dead, it hears of neither; it becomes a member again, under a new raft id."""
    cluster = await make_cluster(3, 0)
    victim = cluster.managers[2]
    victim_id = await node_id(victim)
    operator = next(node for node in cluster.managers if node is not victim)

    async def members() -> dict[str, int]:
        report = await operator.client.raft_status()
        return {member["node_id"]: member["raft_id"] for member in report["members"] if member["role"] == "voter"}

    async def set_role(role: str) -> None:
        node = await operator.client.node(victim_id)
        await operator.client.update_node(victim_id, node["Version"]["Index"], {**node["Spec"], "Role": role})

    before = (await members())[victim_id]
    await victim.kill()

    async def is_out() -> bool:
        return victim_id not in await members()

    async def is_back() -> bool:
        return (await members()).get(victim_id, before) != before and len(await victim.client.services()) == 1

    await set_role("worker")
    await until(is_out, "the group removes the manager that is to be a worker")
    await set_role("manager")
    await operator.client.create_service(service_body("meanwhile", 0))
    await victim.start()
    await until(is_back, "it is a member again, and has what was written without it")

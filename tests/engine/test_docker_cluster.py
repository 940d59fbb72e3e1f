"""Clusters of real daemons on a real Docker Engine: deploying, healing, adopting, updating, leaving nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from pathlib import Path

import aiohttp
import pytest
from docker_clusters import (
    OWNER,
    ClusterMaker,
    DockerCluster,
    ask,
    node_ids,
    remove_containers,
    swarmpy,
    until,
    web_service,
)

from swarmpy.cli.local_cluster import LocalNode

HELLO = Path(__file__).parents[2] / "compose-examples" / "hello.yml"


async def deploy(cluster: DockerCluster, replicas: int, *, port: int = 0, **container: object) -> dict[str, str]:
    """A web service that runs, as its container ids by task ids."""
    await cluster.manager.client.create_service(web_service("web", replicas, port=port, **container))
    await cluster.running("web", replicas)
    if port:
        await cluster.all_answer(port)
    return await cluster.containers_by_task("web")


# -- deploying and removing -------------------------------------------------------------------------------------------


async def test_hello_is_deployed_and_removed(make_docker_cluster: ClusterMaker) -> None:
    """A stack runs on every node's port in containers that look like Docker Swarm's; ``stack rm`` leaves none."""
    cluster = await make_docker_cluster(1, 2, ports=(8080,))
    command = ("--data-dir", str(cluster.manager.data_dir), "stack")
    code, out, err = await swarmpy(*command, "deploy", "--resolve-image", "never", "-c", str(HELLO), "hello")
    assert (code, err) == (0, ""), out + err
    tasks = await cluster.running("hello_web", 3)
    for _ in range(3):
        answers = await cluster.all_answer(8080)
        assert all(answer.startswith("Hello from task hello_web.") for answer in answers)
    containers = await cluster.containers("hello_web")
    assert len({c["Labels"]["com.docker.swarm.node.id"] for c in containers}) == 3
    for container in containers:
        labels = container["Labels"]
        task = tasks[labels["com.docker.swarm.task.id"]]
        name = f"hello_web.{task['Slot']}.{task['ID']}"
        assert container["Names"] == [f"/{name}"]
        assert container["Id"] == task["Status"]["ContainerStatus"]["ContainerID"]
        assert (
            labels.items()
            >= {
                "com.docker.stack.namespace": "hello",
                "com.docker.swarm.node.id": task["NodeID"],
                "com.docker.swarm.service.id": task["ServiceID"],
                "com.docker.swarm.service.name": "hello_web",
                "com.docker.swarm.task": "",
                "com.docker.swarm.task.name": name,
            }.items()
        )
    await cluster_ps(containers[0]["Names"][0].removeprefix("/"))
    code, out, err = await swarmpy(*command, "rm", "hello")
    assert (code, err) == (0, ""), out + err
    await cluster.no_containers()


async def cluster_ps(name: str) -> None:
    """``docker ps`` shows a container of that name as it shows any other."""
    with contextlib.suppress(FileNotFoundError):  # an engine without its command line is an engine all the same
        command = [
            "docker",
            "ps",
            "--filter",
            f"name={name}",
            "--format",
            "{{.Names}} {{.Image}} {{.Status}} {{.Ports}}",
        ]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout.startswith(f"{name} busybox:1.36 Up "), done.stdout
        assert "->8080/tcp" in done.stdout


async def test_dev_check_leaves_nothing_behind(engine_api: aiohttp.ClientSession, tmp_path: Path) -> None:
    """``dev --check`` on Docker answers on every node, ends well, and takes its containers with it, soon."""
    command = ("dev", str(HELLO), "--check", "--runtime", "docker", "--managers", "2", "--keep")
    try:
        code, out, err = await swarmpy(*command, "--data-dir", str(tmp_path / "dev"))
        assert code == 0, out + err
        assert "all 4 requests were answered" in out
        ids = node_ids(tmp_path / "dev")
        assert len(ids) == 4
        async with engine_api.get("containers/json", params={"all": "true"}) as response:
            assert not [c for c in await response.json() if c["Labels"].get(OWNER) in ids]
    finally:
        await remove_containers(engine_api, node_ids(tmp_path / "dev"))


async def test_a_node_that_leaves_takes_its_containers_along(make_docker_cluster: ClusterMaker) -> None:
    """``swarm leave --force`` removes the node's containers; its tasks run elsewhere."""
    cluster = await make_docker_cluster(1, 2)
    await deploy(cluster, 6)
    leaver = cluster.local.workers[0]
    mine = {t["ID"] for t in await cluster.tasks("web") if t["NodeID"] == cluster.ids[leaver.name]}
    assert mine
    code, out, err = await swarmpy("--data-dir", str(leaver.data_dir), "swarm", "leave", "--force")
    assert code == 0, out + err
    left = await cluster.containers(all_states=True)
    assert not [c for c in left if c["Labels"]["com.docker.swarm.node.id"] == cluster.ids[leaver.name]]
    after = await cluster.running("web", 6)
    assert not mine & set(after)


async def test_dev_falls_back_to_processes(tmp_path: Path, engine_images: str) -> None:
    """``dev`` with an image that is not to be had runs plain processes instead, and says why."""
    file = tmp_path / "odd.yml"
    file.write_text("services:\n  odd:\n    image: localhost:1/no/such:1\n    command: ['sleep', '1000']\n")
    code, out, err = await swarmpy(
        "dev", str(file), "--check", "--managers", "1", "--workers", "0", "--data-dir", str(tmp_path / "dev"),
        env={"DOCKER_HOST": f"unix://{engine_images}"},
    )  # fmt: skip
    assert code == 0, out + err
    reason = next(line for line in out.splitlines() if line.startswith("runtime: "))
    assert reason.startswith(
        "runtime: process (image localhost:1/no/such:1 is neither on this machine nor to be pulled"
    )
    assert "odd_odd  1/1 running" in out


# -- healing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "rm"])
async def test_a_lost_container_is_replaced(make_docker_cluster: ClusterMaker, how: str) -> None:
    """After ``docker kill`` or ``docker rm -f`` of a container another takes its place; the rest is untouched."""
    cluster = await make_docker_cluster(1, 1)
    before = await deploy(cluster, 4)
    victim_task, victim = min(before.items())
    if how == "kill":
        await cluster.docker("POST", f"containers/{victim}/kill")
    else:
        await cluster.docker("DELETE", f"containers/{victim}", force="true")

    async def replaced() -> bool:
        return victim_task not in {t["ID"] for t in await cluster.tasks("web")}

    await until(replaced, "the task is noticed to have ended")
    await cluster.running("web", 4)
    after = await cluster.containers_by_task("web")
    assert {t: c for t, c in before.items() if t != victim_task}.items() <= after.items()
    history = await cluster.manager.client.tasks(id=victim_task)
    assert history[0]["Status"]["State"] == "failed"
    # A removal is a kill first; which of the two is seen is a matter of luck.
    assert re.search("137" if how == "kill" else "137|removed by somebody else", history[0]["Status"]["Err"])


async def test_a_lost_worker_is_replaced(make_docker_cluster: ClusterMaker) -> None:
    """Tasks of a dead worker run elsewhere; when it is back after all, its old containers are stopped."""
    cluster = await make_docker_cluster(1, 2, ports=(18480,), heartbeat_s=1)
    before = await deploy(cluster, 6, port=18480)
    victim = cluster.local.workers[0]
    victim_id = cluster.ids[victim.name]
    lost = {t["ID"] for t in await cluster.tasks("web") if t["NodeID"] == victim_id}
    assert lost
    await victim.kill()

    async def moved() -> bool:
        tasks = await cluster.tasks("web")
        return len(tasks) == 6 and all(t["NodeID"] != victim_id for t in tasks)

    await until(moved, "six tasks on nodes that live")
    answers = await cluster.all_answer(18480)
    assert not answers & lost
    assert {before[task_id] for task_id in lost} <= {c["Id"] for c in await cluster.containers("web")}
    await victim.start()

    after = await cluster.running("web", 6)
    assert {t: c for t, c in before.items() if t not in lost}.items() <= (
        await cluster.containers_by_task("web")
    ).items()
    assert not lost & set(after)
    await cluster.all_answer(18480)
    await cluster.manager.client.remove_service("web")
    await cluster.no_containers()


# -- adoption ---------------------------------------------------------------------------------------------------------


async def survives_restart(cluster: DockerCluster, victim: LocalNode, before: dict[str, str], port: int) -> None:
    """kill -9 of a daemon leaves all containers as they are, and so does its return."""
    count = len(before)
    task_ids = {t["ID"] for t in await cluster.manager.client.tasks(service="web")}
    await victim.kill()
    mine = {t for t, c in before.items()}
    asked = [node for node in cluster.nodes if node is not victim]

    async def all_seen() -> bool:
        answers: set[str] = set()
        for _ in range(count):
            answers |= set(await asyncio.gather(*(ask(node.address, port) for node in asked)))
        return answers == mine

    await until(all_seen, "every task answers through the other nodes", timeout=10)
    assert await cluster.containers_by_task("web") == before
    await victim.start()
    victim_id = cluster.ids[victim.name]

    async def ready() -> bool:
        return bool((await victim.client.get("/readyz"))["status"] == "ready")

    async def known() -> bool:
        node = await cluster.manager.client.node(victim_id)
        return bool(node["Status"]["State"] == "ready")

    await until(ready, "the daemon is a member again")
    await until(known, "the cluster has seen it")
    await cluster.running("web", count)
    await cluster.all_answer(port)
    assert await cluster.containers_by_task("web") == before
    assert {t["ID"] for t in await cluster.manager.client.tasks(service="web")} == task_ids


async def test_containers_outlive_their_daemon(make_docker_cluster: ClusterMaker) -> None:
    """A worker, a manager and the leader, each killed and started again in time, find their containers as they were."""
    cluster = await make_docker_cluster(3, 1, ports=(18481,))
    before = await deploy(cluster, 8, port=18481)
    leader = await cluster.leader()
    follower = next(node for node in cluster.local.managers if node is not leader)
    for victim in (cluster.local.workers[0], follower, leader):
        await survives_restart(cluster, victim, before, 18481)


async def test_an_end_while_the_daemon_was_away_is_noticed(make_docker_cluster: ClusterMaker) -> None:
    """A container that was killed while its daemon was dead is replaced when the daemon is back."""
    cluster = await make_docker_cluster(1, 1)
    before = await deploy(cluster, 4)
    worker = cluster.local.workers[0]
    victim = next(t["ID"] for t in await cluster.tasks("web") if t["NodeID"] == cluster.ids[worker.name])
    await worker.kill()
    await cluster.docker("POST", f"containers/{before[victim]}/kill")
    await worker.start()

    async def replaced() -> bool:
        return victim not in {t["ID"] for t in await cluster.tasks("web")}

    await until(replaced, "the task is noticed to have ended")
    await cluster.running("web", 4)
    after = await cluster.containers_by_task("web")
    assert {t: c for t, c in before.items() if t != victim}.items() <= after.items()


# -- images -----------------------------------------------------------------------------------------------------------


async def test_an_unknown_image_is_said_and_mended(make_docker_cluster: ClusterMaker, tmp_path: Path) -> None:
    """A deployment with an image that is not to be had waits and says so in one line; another image mends it."""
    cluster = await make_docker_cluster(1, 0)
    file = tmp_path / "shop.yml"
    command = ("--data-dir", str(cluster.manager.data_dir), "stack", "deploy", "-c", str(file), "--timeout")
    text = "services:\n  web:\n    image: {}\n    command: ['sleep', '1000']\n    stop_grace_period: 1s\n"
    file.write_text(text.format("localhost:1/no/such:1"))
    code, out, err = await swarmpy(*command, "3", "shop")
    assert code != 0
    assert "shop_web  0/1 running" in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("swarmpy: not converged within 3 s"), err
    assert "No such image: localhost:1/no/such:1 (localhost:1 does not answer: " in last
    service = (await cluster.manager.client.status())["services"][0]
    assert "No such image: localhost:1/no/such:1" in service["reason"]
    assert "\n" not in service["reason"]
    file.write_text(text.format("swarmpy-test:latest"))
    code, out, err = await swarmpy(*command, "60", "shop")
    assert code == 0, out + err
    await cluster.running("shop_web", 1)

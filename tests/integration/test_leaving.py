"""A worker that leaves the cluster has its tasks moved away first, and says what is lost where that is not possible."""

from __future__ import annotations

import asyncio
import json
import time

from clusters import ClusterMaker, runs, service_body, until
from hosts import DOCKER, Finished, needs_docker_cli, refused, swarmpy
from load_clients import Load
from load_course import Course, as_process, service

from swarmpy.cli.local_cluster import LocalCluster, LocalNode

PORT = 18590


@needs_docker_cli
async def test_a_worker_leaves(make_cluster: ClusterMaker) -> None:
    """First under load, then two that cannot be emptied: one has a time set, of the other somebody loses patience.

    The docker CLI leaves as it is.
    """
    cluster = await make_cluster(1, 3, ports=(PORT,))
    moved, bounded, hurried = cluster.workers
    await _no_request_fails(cluster, moved, bounded)
    await cluster.managers[0].client.remove_service("web")

    await _bound_to(cluster, bounded)
    drained = await _does(bounded, "node", "drain", "--timeout", "1")
    refused(drained, 1, "this node is not drained", f"on-{bounded.name}: 1 still on this node, 1 not running elsewhere")
    assert f"waits: on-{bounded.name} may miss at most 1 task" in drained.stdout
    told = (await cluster.managers[0].client.node(bounded.name))["Status"]["Message"]
    assert told == "its tasks move to other nodes, as it is about to leave or restart"
    assert (await _does(bounded, "node", "drain", "--undo")).returncode == 0
    await until(lambda: runs(cluster.managers[0], f"on-{bounded.name}", 2), "both run again")

    left = await _leave(bounded, "--timeout", "1")
    assert (left.returncode, left.stdout.splitlines()[-1]) == (0, "Node left the swarm."), left
    assert "this node  1 task left" in left.stdout
    assert f"waits: on-{bounded.name} may miss at most 1 task" in left.stdout
    assert "lost: 1 task is stopped where requests may still be on their way: its tasks have had" in left.stderr
    assert f"lost: on-{bounded.name}: 1 still on this node, 1 not running elsewhere: waits:" in left.stderr

    await _bound_to(cluster, hurried)
    docker = [DOCKER, "-H", f"unix://{hurried.data_dir}/swarmpy.sock", "swarm", "leave"]
    waiting = await asyncio.create_subprocess_exec(*docker, stdout=asyncio.subprocess.PIPE)
    await until(lambda: _has_left(hurried, 1), "one of its tasks stays")
    began = time.monotonic()
    forced = await _leave(hurried, "--force")
    assert (forced.returncode, forced.stdout) == (0, "Node left the swarm.\n"), forced
    assert await waiting.communicate() == (b"Node left the swarm.\n", None)
    assert time.monotonic() - began < 20, "it waits for longer by itself"
    for node in cluster.nodes:
        assert "Traceback" not in node.log_file.read_text()


async def _no_request_fails(cluster: LocalCluster, leaver: LocalNode, rebooted: LocalNode) -> None:
    """Through every node, the leaver's own included: it answers what it has taken.

    Another one becomes no place for its tasks for a moment, and is rebooted: its tasks end with its daemon.
    """
    load = Load([node.address for node in cluster.nodes], PORT)
    course = Course(cluster, load)
    await course.begin(service(as_process(), 6, PORT, "node.role==worker", "node.labels.closed!=yes"))
    async with load.clients():
        await course.relabel(rebooted, {"closed": "yes"})
        await course.relabel(rebooted, {})
        await course.leave(leaver)
        await course.reboot(rebooted)
    print(json.dumps(load.summary()), json.dumps(course.seconds))
    assert not load.failures, load.failures
    assert min(load.answered["short"], load.answered["kept"]) > 100
    assert len(load.servers) >= 6 + 2, "each task of the node was replaced"


async def _bound_to(cluster: LocalCluster, node: LocalNode) -> None:
    """Two tasks that may run nowhere else, of which one may be missing."""
    manager = cluster.managers[0]
    body = service_body(f"on-{node.name}", 2, Placement={"Constraints": [f"node.hostname=={node.name}"]})
    await manager.client.create_service({**body, "MaxUnavailable": 1})
    await until(lambda: runs(manager, body["Name"], 2), "both run")


async def _has_left(node: LocalNode, count: int) -> bool:
    """True while so many tasks are left of a node that leaves."""
    return ((await node.client.status())["leaving"] or {}).get("left") == count


async def _leave(node: LocalNode, *options: str) -> Finished:
    return await _does(node, "swarm", "leave", *options)


async def _does(node: LocalNode, *words: str) -> Finished:
    return await asyncio.to_thread(swarmpy, "--data-dir", node.data_dir, *words)

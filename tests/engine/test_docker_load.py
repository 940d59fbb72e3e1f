"""Clients that ask through every node of a cluster on a real engine, while the service changes."""

from __future__ import annotations

import json

from docker_clusters import ClusterMaker
from images import PRIVATE_TAG
from load_clients import Load
from load_course import Course, in_container, service

PORT = 18482


async def test_no_request_fails_while_the_service_changes(make_docker_cluster: ClusterMaker) -> None:
    """Updates of both orders, scaling up and down, and a drain; with connections that are kept and short ones."""
    cluster = (await make_docker_cluster(3, 2, ports=(PORT,))).local
    load = Load([node.address for node in cluster.nodes], PORT)
    course = Course(cluster, load)
    await course.begin(service(in_container(PRIVATE_TAG), 4, PORT))
    async with load.clients():
        await course.update("start-first")
        await course.update("stop-first")
        await course.scale(6)
        await course.scale(4)
        await course.drain(cluster.workers[0])
    print(json.dumps(load.summary()), json.dumps(course.seconds))
    assert not load.failures, load.failures
    assert load.answered["short"] > 500
    assert load.answered["kept"] > 500
    assert len(load.servers) >= 4 * 3

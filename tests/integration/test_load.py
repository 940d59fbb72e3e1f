"""Clients that ask through every node go on being answered while nodes come and go."""

from __future__ import annotations

import asyncio
import json

from clusters import ClusterMaker, until
from load_clients import Load
from load_course import Course, as_process, leader_of, service

PORT = 18490


async def all_are_asked(load: Load) -> bool:
    return set(load.last_answer) == set(load.addresses)


async def test_no_request_fails_while_managers_come_and_go(make_cluster: ClusterMaker) -> None:
    """The restart of a manager, and the death of the leader in the middle of an update.

    The tasks are on the workers: processes end with their daemon.
    """
    cluster = await make_cluster(3, 2, ports=(PORT,))
    load = Load([node.address for node in cluster.nodes], PORT)
    course = Course(cluster, load)
    await course.begin(service(as_process(), 4, PORT, "node.role==worker"))
    leader = await leader_of(cluster)
    follower, course.operator = (manager for manager in cluster.managers if manager is not leader)
    async with load.clients():
        await until(lambda: all_are_asked(load), "every node has connections")
        await course.restart(follower)
        async with asyncio.TaskGroup() as group:
            group.create_task(course.update("start-first"))
            group.create_task(course.kill(leader))
    print(json.dumps(load.summary()), json.dumps(course.seconds))
    assert not load.failures, load.failures
    assert load.answered["short"] > 300
    assert load.answered["kept"] > 300
    assert load.forgiven["moved"] > 0
    assert len(load.servers) >= 4 * 2

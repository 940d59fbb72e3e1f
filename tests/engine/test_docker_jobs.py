"""Jobs on a real Docker Engine: containers that end, and are tried again where they fail."""

from __future__ import annotations

from pathlib import Path

from docker_clusters import ClusterMaker, until, web_service


async def test_a_job_of_containers_completes(make_docker_cluster: ClusterMaker, tmp_path: Path) -> None:
    """Five completions, two at once, of containers that know their slot; the first try of one of them fails."""
    cluster = await make_docker_cluster(1, 1)
    # What is in /tried outlives the container. Both nodes are on this machine.
    script = 'test "$SLOT" != 3 || test -e /tried/3 || { touch /tried/3; exit 7; }'
    job = web_service("work", 1, Command=["sh", "-c", script], Env=["SLOT={{.Task.Slot}}"])
    job["TaskTemplate"]["ContainerSpec"]["Mounts"] = [{"Type": "bind", "Source": str(tmp_path), "Target": "/tried"}]
    job["Mode"] = {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}
    await cluster.manager.client.create_service(job)

    async def completed() -> bool:
        (service,) = await cluster.manager.client.services()
        return bool(service["ServiceStatus"]["CompletedTasks"] == 5)

    await until(completed, "five completions")
    tasks = await cluster.manager.client.tasks(service="work")
    ended = sorted((task["Slot"], task["Status"]["State"]) for task in tasks)
    assert ended == [(0, "complete"), (1, "complete"), (2, "complete"), (3, "complete"), (3, "failed"), (4, "complete")]
    codes = sorted(task["Status"]["ContainerStatus"].get("ExitCode", 0) for task in tasks)
    assert codes == [0, 0, 0, 0, 0, 7]
    await cluster.manager.client.remove_service("work")
    await cluster.no_containers()

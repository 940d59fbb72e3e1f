"""What an engine's own configuration says decides where tasks go, and what they get."""

from __future__ import annotations

from typing import Any

from docker_clusters import ClusterMaker, DockerCluster, until, web_service
from images import PRIVATE_TAG
from needs import needs_own_engine
from own_engines import own_engine

SLEEP = {"Command": ["sleep"], "Args": ["600"], "Image": PRIVATE_TAG}


@needs_own_engine
async def test_labels_and_generic_resources_of_an_engine(make_docker_cluster: ClusterMaker) -> None:
    """A service goes to the engine with the label, or to the one without; it is told which of the GPUs it got."""
    configuration = ("--label", "zone=eu", "--node-generic-resource", "gpu=U1", "--node-generic-resource", "gpu=U2")
    async with own_engine(*configuration) as socket:
        cluster = await make_docker_cluster(1, 1, environments={"node-2": {"DOCKER_HOST": f"unix://{socket}"}})
        try:
            for name, constraint in (("here", "engine.labels.zone==eu"), ("there", "engine.labels.zone!=eu")):
                await cluster.manager.client.create_service(placed(name, {"Constraints": [constraint]}))
            gpus = [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 1}}]
            await cluster.manager.client.create_service(placed("gpu", {}, GenericResources=gpus))
            await cluster.manager.client.create_service(placed("arm", {"Platforms": [{"Architecture": "riscv64"}]}))
            assert await nodes_of(cluster, "here") == {"node-2"}
            assert await nodes_of(cluster, "there") == {"node-1"}
            assert await nodes_of(cluster, "gpu") == {"node-2"}
            [task] = await cluster.tasks("gpu")
            assert task["GenericResources"] == [{"NamedResourceSpec": {"Kind": "gpu", "Value": "U1"}}]
            await until(
                lambda: waits(cluster, "arm", "unsupported platform on 2 nodes"), "it waits for another machine"
            )
            description = (await cluster.manager.client.node("node-2"))["Description"]
            assert description["Engine"]["Labels"] == {"zone": "eu"}
            assert [entry["NamedResourceSpec"]["Value"] for entry in description["Resources"]["GenericResources"]] == [
                "U1",
                "U2",
            ]
        finally:
            await cluster.destroy()


def placed(name: str, placement: dict[str, Any], **reservations: Any) -> dict[str, Any]:
    """A service of one task that sleeps."""
    body = web_service(name, 1, **SLEEP)
    body["TaskTemplate"] |= {"Placement": placement, "Resources": {"Reservations": reservations}}
    return body


async def waits(cluster: DockerCluster, service: str, reason: str) -> bool:
    """True when its task says why it has no node."""
    return any(reason in task["Status"].get("Err", "") for task in await cluster.manager.client.tasks(service=service))


async def nodes_of(cluster: DockerCluster, service: str) -> set[str]:
    """The names of the nodes on which its task runs, once it does."""

    async def there() -> set[str] | None:
        return {cluster.name_of(task["NodeID"]) for task in await cluster.tasks(service)} or None

    found: set[str] = await until(there, f"{service} runs")
    return found

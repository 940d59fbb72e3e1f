"""Real daemons on loopback addresses, process runtime: machines and clusters for a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from clusters import ClusterMaker, forget_files
from hosts import Host, Hosts, until

from swarmpy.cli.local_cluster import LocalCluster


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Machines for a test."""
    made = Hosts(tmp_path)
    yield made
    made.close()
    asyncio.run(forget_files(tmp_path))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Machines for all tests of a file."""
    made = Hosts(tmp_path_factory.mktemp("network"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def nodes(network: Hosts) -> list[Host]:
    """A manager and a worker for all tests of a file."""
    return network.cluster(1, 1)


@pytest.fixture
def manager(nodes: list[Host]) -> Iterator[Host]:
    """The manager, with no service; it has said nothing of a defect in the end."""
    yield nodes[0]
    for host in nodes:
        assert "Traceback" not in host.log
        assert "never retrieved" not in host.log
    for service in nodes[0].api("/services"):
        nodes[0].does("service", "rm", service["Spec"]["Name"])
    until(lambda: not nodes[0].api("/tasks"), "all tasks are gone")


@pytest.fixture
async def make_cluster(tmp_path: Path) -> AsyncIterator[ClusterMaker]:
    """Makes clusters that are taken down after the test."""
    made: list[LocalCluster] = []

    async def make(managers: int = 3, workers: int = 2, ports: tuple[int, ...] = ()) -> LocalCluster:
        directory = tmp_path / f"cluster-{len(made)}"
        cluster = LocalCluster(directory, managers=managers, workers=workers, runtime="process", ports=ports)
        made.append(cluster)
        await cluster.start_daemons()
        await cluster.form()
        return cluster

    yield make
    for cluster in made:
        await cluster.stop()
    await forget_files(tmp_path)

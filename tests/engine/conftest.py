"""Fixtures of the tests against a real Docker Engine: it is there or they are skipped, loudly."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from docker_clusters import ClusterMaker, making_clusters
from images import SOCKET, ensure_images, remove_images

from swarmpy.errors import RuntimeUnavailable
from swarmpy.model.ids import NodeId
from swarmpy.runtime.docker import DockerRuntime
from swarmpy.runtime.docker_engine import probe_engine
from swarmpy.runtime.memory_files import MemoryFiles

NODE_PREFIX = "engine-test"


@pytest.fixture(scope="session")
def engine_images() -> Iterator[str]:
    """The Engine's socket; the test images are there. Skips where no engine answers."""
    try:
        asyncio.run(probe_engine(f"unix://{SOCKET}", 3))
    except RuntimeUnavailable as error:
        if os.environ.get("SWARMPY_REQUIRE_ENGINE") == "1":
            pytest.fail(f"SWARMPY_REQUIRE_ENGINE=1, but {error}")
        pytest.skip(f"NO DOCKER ENGINE, NOTHING OF THE DOCKER RUNTIME IS TESTED: {error}")
    made = asyncio.run(ensure_images(SOCKET))
    yield SOCKET
    asyncio.run(remove_images(made, SOCKET))


@pytest.fixture
async def engine_api(engine_images: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP session to the engine, to look and to meddle behind the runtime's back."""
    connector = aiohttp.UnixConnector(engine_images)
    async with aiohttp.ClientSession("http://docker/v1.41/", connector=connector) as session:
        yield session


@pytest.fixture
async def docker_runtime(engine_images: str, engine_api: aiohttp.ClientSession) -> AsyncIterator[DockerRuntime]:
    """An open docker runtime of a node of its own; all its containers are removed afterwards."""
    node_id = NodeId(f"{NODE_PREFIX}-{os.getpid()}-{os.urandom(4).hex()}")
    runtime = DockerRuntime(node_id=node_id, node_address="127.0.0.1", hostname="host1", url=f"unix://{engine_images}")
    await runtime.open()
    yield runtime
    await runtime.close()
    params = {"all": "true", "filters": f'{{"label": ["swarmpy.node.id={node_id}"]}}'}
    async with engine_api.get("containers/json", params=params) as response:
        left = await response.json()
    for container in left:
        async with engine_api.delete(f"containers/{container['Id']}", params={"force": "true", "v": "true"}):
            pass
    await MemoryFiles(node_id).sweep(())


@pytest.fixture
async def make_docker_cluster(tmp_path: Path, engine_api: aiohttp.ClientSession) -> AsyncIterator[ClusterMaker]:
    """Makes clusters of real daemons; their processes and containers are gone after the test."""
    async with making_clusters(tmp_path, engine_api) as make:
        yield make

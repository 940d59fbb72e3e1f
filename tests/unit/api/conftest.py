"""A manager that leads, and Docker's command line on its machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_world import World
from docker_client import Docker

from swarmpy.api.app import ApiServer
from swarmpy.model import codec


@pytest.fixture
async def world() -> World:
    """One manager that leads, one worker."""
    world = World("m1")
    world.elect("m1")
    await world.found(schema=codec.SCHEMA_VERSION)
    return world


@pytest.fixture
async def docker(tmp_path: Path, world: World) -> AsyncIterator[Docker]:
    """The command line of the leader's machine."""
    server = ApiServer(world.apis["m1"], tmp_path / "s")
    await server.start()
    try:
        yield Docker(tmp_path, tmp_path / "s")
    finally:
        await server.close()

"""The options of ``swarmpy service`` and of the docker command: the same words make the same service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_world import World
from docker_client import Docker, is_needed

from swarmpy.api.app import ApiServer
from swarmpy.cli.client import ApiClient
from swarmpy.cli.data_client import DataClient
from swarmpy.cli.main import main
from swarmpy.model import codec

pytestmark = is_needed

CREATE = """
--replicas 3 --env A=1 --env B= -e A=2 --label tier=front --container-label c=1 -p 8080:80 -p 53:53/udp
--publish published=8443,target=443,mode=host --publish 7000-7002:7000-7002 --endpoint-mode vip
--mode global --constraint node.role==worker --constraint node.labels.disk!=ssd --placement-pref spread=node.labels.zone
--replicas-max-per-node 2 --mode replicated-job --replicas 5 --max-concurrent 2 --restart-condition on-failure
--mode replicated-job --replicas 5 --restart-max-attempts 3 --restart-delay 2s --restart-window 1m30s
--mount source=d,target=/data,volume-driver=local,volume-opt=o=size=1m,volume-label=a=b,volume-nocopy
--mount type=bind,src=/srv,dst=/srv,readonly,bind-propagation=rslave,bind-nonrecursive,consistency=cached
--generic-resource gpu=2 --generic-resource disk=1
--mount type=tmpfs,destination=/tmp,tmpfs-size=64m,tmpfs-mode=1770
--limit-cpu 1.5 --limit-memory 64m --limit-pids 100 --reserve-cpu .25 --reserve-memory 8388608
--update-parallelism 2 --update-delay 3s --update-order start-first --update-failure-action rollback
--update-monitor 10s --update-max-failure-ratio 0.25 --rollback-parallelism 0 --rollback-order stop-first
--health-cmd true --health-interval 5s --health-timeout 1s --health-retries 2 --health-start-period 1m
--no-healthcheck --hostname h-{{.Task.Slot}} --user 1000:1000 --workdir /srv --group 5 --init --tty --read-only
--stop-signal SIGUSR1 --stop-grace-period 3s --init=false --entrypoint /bin/sh
--log-driver json-file --log-opt max-size=1m --log-opt max-file=2 --ulimit nofile=10:20 --ulimit nproc=5
--host db:10.0.0.1 --dns 1.1.1.1 --dns-option ndots:2 --dns-search example.org --sysctl net.core.somaxconn=99
--cap-add net_admin --cap-drop CHOWN --limit-pids -1
--secret s1 --secret source=s1,target=key,uid=1,gid=2,mode=0400 --config source=c1,target=/etc/c
"""

UPDATE = """
--env-add A=2 --env-add C=3 --env-rm B --label-add m=2 --label-rm l --container-label-add x=y
--publish-add 9090:90 --publish-rm 80 --replicas 4 --image other:2 --args
--constraint-add node.role==worker --constraint-rm node.labels.disk==ssd --force
--mount-add type=tmpfs,target=/b --mount-rm /a --limit-memory 0 --reserve-cpu 0.5
--generic-resource-add gpu=3 --generic-resource-rm disk
--update-delay 2s --rollback-monitor 3s --restart-delay 9s --stop-grace-period 5s
--health-interval 3s --hostname other --user nobody --host-add a:1.2.3.4 --host-rm db:10.0.0.1 --read-only=false
--secret-rm s1 --secret-add source=s1,target=again --config-add c1 --dns-rm 1.1.1.1 --dns-add 8.8.8.8
--no-healthcheck --cap-add CHOWN --cap-drop NET_ADMIN --ulimit-add nofile=3 --sysctl-rm net.core.somaxconn
"""
BASE = (
    "--generic-resource gpu=1 --generic-resource disk=1 "
    "--env A=1 --env B=2 --label l=1 -p 8080:80 --constraint node.labels.disk==ssd --mount type=tmpfs,target=/a "
    "--limit-memory 64m --health-cmd true --host db:10.0.0.1 --secret s1 --dns 1.1.1.1 --cap-drop CHOWN --cap-add "
    "NET_ADMIN --sysctl net.core.somaxconn=99 --read-only"
)


@pytest.fixture
async def world() -> World:
    """One manager that leads."""
    world = World("m1")
    world.elect("m1")
    await world.found(schema=codec.SCHEMA_VERSION)
    return world


class Both:
    """Both commands against one server, one after the other: ports and names are taken once only."""

    def __init__(self, socket: Path, docker: Docker) -> None:
        self._socket, self._docker = socket, docker

    async def create(self, options: str, *command: str) -> list[Any]:
        """The specs of a service that the docker command made, and of one that ours made."""
        return [await self._made(run, options, *command) for run in (self._docker, self._ours)]

    async def _made(self, run: Any, options: str, *command: str) -> Any:
        words = ["--name", "web", "-d", "--no-resolve-image", *options.split()]
        await run("service", "create", *words, "busybox", *command)
        return await self._taken()

    async def update(self, base: str, options: str) -> list[Any]:
        """The specs of a service of the docker command, updated by it, and by ours."""
        words = ["-d", "--no-resolve-image", *options.split(), *([""] if options.endswith("--args") else [])]
        specs = []
        for run in (self._docker, self._ours):
            made = ["--name", "web", "-d", "--no-resolve-image", *base.split()]
            await self._docker("service", "create", *made, "busybox", "sleep", "1")
            await run("service", "update", *words, "web")
            specs.append(await self._taken())
        return specs

    async def _ours(self, *words: str) -> None:
        assert await asyncio.to_thread(main, ["--socket", str(self._socket), *words]) == 0

    async def _taken(self) -> Any:
        async with ApiClient(self._socket) as client:
            found = await client.get("/services/web", query={"insertDefaults": "true"})
            await client.remove_service("web")
        return comparable(found["Spec"])


@pytest.fixture
async def both(tmp_path: Path, world: World) -> AsyncIterator[Both]:
    """The commands, and what their options speak of."""
    server = ApiServer(world.apis["m1"], tmp_path / "s")
    await server.start()
    async with ApiClient(tmp_path / "s") as client:
        await DataClient(client, "secret").create("s1", b"x")
        await DataClient(client, "config").create("c1", b"x")
    try:
        yield Both(tmp_path / "s", Docker(tmp_path, tmp_path / "s"))
    finally:
        await server.close()


def comparable(value: Any) -> Any:
    """Without what is empty, which one command says and the other does not, and with lists in an order of their own.

    The docker command puts some lists into a random order. No order means anything but that of a command's words.
    """
    match value:
        case dict():
            kept = {
                key: item if key in ("Args", "Command", "Test") else comparable(item) for key, item in value.items()
            }
            return {key: item for key, item in kept.items() if item}
        case list():
            return sorted(map(comparable, value), key=repr)
        case _:
            return value


async def test_the_same_options_make_the_same_service(both: Both) -> None:
    """Everything that the docker command can write into a new service."""
    for options in CREATE.strip().splitlines():
        theirs, ours = await both.create(options, "sleep", "--init=false", "1")
        assert ours == theirs, options


async def test_the_same_options_change_a_service_alike(both: Both) -> None:
    """Everything that the docker command can change."""
    for options in UPDATE.strip().splitlines():
        theirs, ours = await both.update(BASE, options)
        assert ours == theirs, options

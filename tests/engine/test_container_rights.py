"""A container gets what its spec asks for, and nothing more: compared with one that asks for nothing at all."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

from swarmpy.errors import TaskRejected
from swarmpy.model.ids import ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext
from swarmpy.model.specs import (
    ContainerSpec,
    Healthcheck,
    LogDriver,
    Mount,
    PortConfig,
    ResourceRequirements,
    Resources,
    TaskSpec,
    Ulimit,
)
from swarmpy.runtime.docker import DockerRuntime

pytestmark = pytest.mark.engine
IMAGE = "swarmpy-test:latest"
SLEEP = ("sleep", "600")
SECOND = 1_000_000_000
TOKEN = "SWMTKN-1-not-for-containers"
STATUS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


def make_task(resources: Any = None, log_driver: Any = None, ports: tuple[PortConfig, ...] = (), **fields: Any) -> Task:
    container = attrs.evolve(ContainerSpec(image=IMAGE, args=SLEEP, stop_grace_period_ns=SECOND), **fields)
    return Task(
        id=TaskId(os.urandom(13).hex()[:25]),
        spec=TaskSpec(container=container, resources=resources, log_driver=log_driver),
        service_id=ServiceId("s" * 25),
        service_name="web",
        slot=1,
        ports=ports,
    )


async def inspected(api: aiohttp.ClientSession, name: str) -> dict[str, Any]:
    async with api.get(f"containers/{name}/json") as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def run_in(api: aiohttp.ClientSession, name: str, *command: str) -> str:
    """What a command inside a container says."""
    body = {"AttachStdout": True, "AttachStderr": True, "Tty": True, "Cmd": list(command)}
    async with api.post(f"containers/{name}/exec", json=body) as response:
        started = (await response.json())["Id"]
    async with api.post(f"exec/{started}/start", json={"Detach": False, "Tty": True}) as response:
        return (await response.read()).decode().replace("\r\n", "\n")


async def rights_of(api: aiohttp.ClientSession, name: str) -> dict[str, Any]:
    """What the kernel lets the first process of a container do."""
    status = dict(line.split(":\t", 1) for line in (await run_in(api, name, "cat", "/proc/1/status")).splitlines())
    mounts = await run_in(api, name, "cat", "/proc/1/mountinfo")
    return {
        **{key: status[key] for key in STATUS},
        "mounts": sorted(line.split()[4] for line in mounts.splitlines()),
        "devices": sorted((await run_in(api, name, "ls", "/dev")).split()),
    }


async def namespaces_of(api: aiohttp.ClientSession, name: str) -> dict[str, str]:
    return {kind: (await run_in(api, name, "readlink", f"/proc/1/ns/{kind}")).strip() for kind in NAMESPACES}


@pytest.fixture
async def plain(engine_api: aiohttp.ClientSession, docker_runtime: DockerRuntime) -> dict[str, Any]:
    """A container that was made at the engine with nothing but an image and a command; removed with the runtime's."""
    name = f"plain-{os.urandom(4).hex()}"
    labels = {"swarmpy.node.id": docker_runtime._node.id}
    config = {"Image": IMAGE, "Cmd": list(SLEEP), "Labels": labels}
    async with engine_api.post("containers/create", json=config, params={"name": name}) as response:
        assert response.status == 201
    async with engine_api.post(f"containers/{name}/start") as response:
        assert response.status == 204
    return await inspected(engine_api, name)


async def test_a_minimal_spec_gets_the_least(
    docker_runtime: DockerRuntime,
    engine_api: aiohttp.ClientSession,
    plain: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rights, devices, mounts and environment of a container that asks for nothing; nothing of the daemon's."""
    for name in ("HTTP_PROXY", "https_proxy", "SWARMPY_TOKEN", "DOCKER_CERT_PATH"):
        monkeypatch.setenv(name, TOKEN)
    task = make_task()
    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    mine = await inspected(engine_api, task.name)

    host = dict(mine["HostConfig"])
    assert host.pop("RestartPolicy") == {"Name": "no", "MaximumRetryCount": 0}
    expected = dict(plain["HostConfig"])
    expected.pop("RestartPolicy")
    assert host == expected
    for nothing in ("Privileged", "CapAdd", "SecurityOpt", "Binds", "Devices", "DeviceRequests", "VolumesFrom"):
        assert not host[nothing]
    for namespace in ("PidMode", "UTSMode", "UsernsMode"):
        assert host[namespace] == ""
    assert host["IpcMode"] != "host"
    assert host["NetworkMode"] == "default"
    assert mine["Mounts"] == []
    assert mine["AppArmorProfile"] == plain["AppArmorProfile"]
    assert mine["Config"]["Env"] == plain["Config"]["Env"]
    assert TOKEN not in json.dumps(mine)

    rights = await rights_of(engine_api, task.name)
    assert rights == await rights_of(engine_api, plain["Id"])
    assert rights["Seccomp"] == "2", "the engine's filter is in force"
    environment = await run_in(engine_api, task.name, "cat", "/proc/1/environ")
    assert {entry.partition("=")[0] for entry in environment.split("\0") if entry} == {"PATH", "HOSTNAME", "HOME"}
    theirs, ours = await namespaces_of(engine_api, plain["Id"]), await namespaces_of(engine_api, task.name)
    assert all(ours[kind] != theirs[kind] for kind in ("ipc", "mnt", "net", "pid", "uts"))


async def test_a_maximal_spec_gets_what_it_asks_for(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession, plain: dict[str, Any], tmp_path: Path
) -> None:
    """Every field of a spec at once: all that differs from a plain container is what was asked for."""
    task = make_task(
        resources=ResourceRequirements(
            limits=Resources(nano_cpus=SECOND // 2, memory_bytes=64 << 20, pids=50),
            reservations=Resources(memory_bytes=32 << 20),
        ),
        log_driver=LogDriver(name="json-file", options={"max-size": "1m"}),
        ports=(PortConfig(target_port=80, published_port=8080),),
        labels={"tier": "front", "swarmpy.node.id": "forged", "com.docker.swarm.task.id": "forged"},
        env=("A=1", "SLOT={{.Task.Slot}}"),
        hostname="web-{{.Task.Slot}}",
        dir="/tmp",
        user="0:0",
        groups=("65534",),
        read_only=True,
        init=True,
        stop_signal="SIGINT",
        healthcheck=Healthcheck(test=("CMD", "true"), interval_ns=SECOND),
        mounts=(
            Mount(type="bind", source=str(tmp_path), target="/host", read_only=True),
            Mount(target="/anonymous"),
            Mount(type="tmpfs", target="/scratch", tmpfs_size_bytes=1 << 20),
        ),
        hosts=("10.1.1.1 db",),
        dns_nameservers=("10.1.1.1",),
        dns_search=("example",),
        dns_options=("ndots:1",),
        capability_add=("CAP_NET_ADMIN",),
        capability_drop=("CAP_CHOWN",),
        sysctls={"net.core.somaxconn": "256"},
        ulimits=(Ulimit(name="nofile", soft=100, hard=200),),
    )
    await docker_runtime.prepare(task)
    await docker_runtime.start(task)
    mine = await inspected(engine_api, task.name)

    asked = {
        "CapAdd", "CapDrop", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "GroupAdd", "Init", "LogConfig", "Memory",
        "MemoryReservation", "MemorySwap", "Mounts", "NanoCpus", "PidsLimit", "PortBindings", "ReadonlyRootfs",
        "RestartPolicy", "Sysctls", "Ulimits",
    }  # fmt: skip
    host, theirs = mine["HostConfig"], plain["HostConfig"]
    assert {key for key in {*host, *theirs} if host.get(key) != theirs.get(key)} <= asked
    assert (host["CapAdd"], host["CapDrop"], host["GroupAdd"]) == (["CAP_NET_ADMIN"], ["CAP_CHOWN"], ["65534"])
    assert (host["Sysctls"], host["Dns"], host["ExtraHosts"]) == (
        {"net.core.somaxconn": "256"}, ["10.1.1.1"], ["db:10.1.1.1"],
    )  # fmt: skip
    assert sorted((m["Type"], m["Destination"], m["RW"]) for m in mine["Mounts"]) == [
        ("bind", "/host", False), ("tmpfs", "/scratch", True), ("volume", "/anonymous", True),
    ]  # fmt: skip
    labels = mine["Config"]["Labels"]
    assert (labels["swarmpy.node.id"], labels["com.docker.swarm.task.id"]) == (docker_runtime._node.id, task.id)
    assert mine["Config"]["Hostname"] == "web-1"

    rights, least = await rights_of(engine_api, task.name), await rights_of(engine_api, plain["Id"])
    added, dropped = 1 << 12, 1 << 0  # CAP_NET_ADMIN and CAP_CHOWN of the kernel's capability.h
    assert int(rights["CapBnd"], 16) == (int(least["CapBnd"], 16) | added) & ~dropped
    assert (rights["Seccomp"], rights["NoNewPrivs"]) == (least["Seccomp"], least["NoNewPrivs"])
    assert rights["devices"] == least["devices"]
    new = {"/host", "/anonymous", "/scratch", "/sbin/docker-init", "/dev/init"}
    assert set(rights["mounts"]) - set(least["mounts"]) <= new
    environment = await run_in(engine_api, task.name, "cat", "/proc/1/environ")
    assert {e.partition("=")[0] for e in environment.split("\0") if e} == {"PATH", "HOSTNAME", "HOME", "A", "SLOT"}


async def test_privileges_are_less_or_more_as_asked_for(
    docker_runtime: DockerRuntime, engine_api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """What the kernel says of the first process; a bind without what is mounted below its source."""
    (tmp_path / "below").mkdir()
    await asyncio.to_thread(subprocess.run, ["mount", "-t", "tmpfs", "x", tmp_path / "below"], check=True, timeout=10)
    try:
        profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}).encode()
        for seccomp, mode in ((Seccomp(mode="unconfined"), "0"), (Seccomp(mode="custom", profile=profile), "2")):
            task = make_task(
                privileges=Privileges(
                    no_new_privileges=True,
                    seccomp=seccomp,
                    apparmor="disabled",
                    selinux=SELinuxContext(disable=True),
                ),
                oom_score_adj=321,
                mounts=(Mount(type="bind", source=str(tmp_path), target="/host", bind_non_recursive=True),),
            )
            await docker_runtime.prepare(task)
            await docker_runtime.start(task)
            rights = await rights_of(engine_api, task.name)
            assert (rights["NoNewPrivs"], rights["Seccomp"]) == ("1", mode)
            assert {"/host", "/host/below"} & set(rights["mounts"]) == {"/host"}
            assert (await run_in(engine_api, task.name, "cat", "/proc/1/oom_score_adj")).strip() == "321"
            await docker_runtime.remove(task.id)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", tmp_path / "below"], check=True, timeout=10)


async def test_an_engine_that_would_ignore_what_is_asked_for_is_not_asked(docker_runtime: DockerRuntime) -> None:
    """The oldest option that this engine does not know is named, with what would know it."""
    version = tuple(map(int, docker_runtime._engine.api_version.split(".")))
    if version >= (1, 45):
        pytest.skip("this engine knows all of them")
    task = make_task(mounts=(Mount(source="v", target="/v", volume_subpath="a"),))
    with pytest.raises(TaskRejected, match=r"Subpath of the mount /v needs an engine with API 1\.45 or later, and"):
        await docker_runtime.prepare(task)

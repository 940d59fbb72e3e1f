"""Whatever Docker's services may ask of a container, asked by Docker's own command and by a stack file."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from docker_clusters import OWNER, SECOND, ClusterMaker, DockerCluster, DockerCommand, Json, swarmpy, until
from images import PRIVATE_TAG
from needs import needs_docker_cli

MANY_GPUS = ("--generic-resource", "gpu=U2,gpu=U1,gpu=U3", "--generic-resource", "ssd=1")
SCRIPT = "echo begun; echo late >&2; trap 'exit 0' INT; while :; do sleep 0.1; done"


def within(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where what was found is another than expected; of objects only what is expected is looked at."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [line for key, value in expected.items() for line in within(value, found.get(key), f"{where}.{key}")]
    return [] if expected == found else [f"{where}: expected {expected!r}, found {found!r}"]


def mounts(source: Path, volume: str, slot: str) -> list[Json]:
    """One of each type."""
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    return [
        {"Type": "bind", "Source": str(source), "Target": "/host", "ReadOnly": True,
         "BindOptions": {"Propagation": "private"}},
        {"Type": "volume", "Source": volume, "Target": "/volume",
         "VolumeOptions": {"NoCopy": True, "Labels": {"slot": slot},
                           "DriverConfig": {"Name": "local", "Options": options}}},
        {"Type": "tmpfs", "Target": "/scratch", "TmpfsOptions": {"SizeBytes": 1 << 20}},
    ]  # fmt: skip


HEALTH = {
    "Test": ["CMD-SHELL", "true"],
    "Interval": SECOND,
    "Timeout": 2 * SECOND,
    "StartPeriod": 4 * SECOND,
    "Retries": 3,
}


def container_of(task: Json, *, source: Path, volume: str, service: str) -> Json:
    """The container that both descriptions below mean, as ``docker inspect`` shows it."""
    name = f"{service}.1.{task['ID']}"
    return {
        "Name": f"/{name}",
        "Config": {
            "Image": PRIVATE_TAG,
            "Entrypoint": ["sh", "-c"],
            "Cmd": [SCRIPT],
            "Env": [
                "A=1",
                f"NAME={service} {task['ServiceID']} deployed",
                f"TASK={task['ID']} {name} 1",
                f"WHERE={task['NodeID']} node-1 linux x86_64",
                "DOCKER_RESOURCE_GPU=U2,U1",
                "PATH=/bin",
            ],
            "Labels": {
                "tier": "front",
                "com.docker.swarm.node.id": task["NodeID"],
                "com.docker.swarm.service.id": task["ServiceID"],
                "com.docker.swarm.service.name": service,
                "com.docker.swarm.task": "",
                "com.docker.swarm.task.id": task["ID"],
                "com.docker.swarm.task.name": name,
                OWNER: task["NodeID"],
            },
            "Hostname": "node-1-1",
            "User": "65534:65534",
            "WorkingDir": "/tmp",
            "Tty": True,
            "OpenStdin": True,
            "StopSignal": "SIGINT",
            "StopTimeout": 3,
            "Healthcheck": HEALTH,
        },
        "HostConfig": {
            "Privileged": False,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "NetworkMode": "default",
            "Init": True,
            "ReadonlyRootfs": True,
            "CapAdd": ["CAP_NET_ADMIN"],
            "CapDrop": ["CAP_CHOWN"],
            "Sysctls": {"net.core.somaxconn": "256"},
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
            "ExtraHosts": ["db:10.1.1.1"],
            "Dns": ["10.1.1.1"],
            "DnsSearch": ["example"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "NanoCpus": SECOND // 2,
            "Memory": 64 << 20,
            "MemoryReservation": 32 << 20,
            "PidsLimit": 50,
            "Mounts": mounts(source, volume, "1"),
        },
    }  # fmt: skip


NAME, TASK = "{{.Service.Name}} {{.Service.ID}} ", "{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}"
LABEL = '{{index .Service.Labels "how"}}'
WHERE = "{{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.OS}} {{.Node.Platform.Architecture}}"


VOLUME_OPTIONS = (
    "volume-label=slot={{.Task.Slot}},volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"
    "volume-opt=o=size=1m"
)


def as_words(source: Path, volume: str) -> tuple[str, ...]:
    """The options of ``docker service create``."""
    return (
        "--name", "whole", "--label", "how=deployed", "--container-label", "tier=front",
        "--env", "A=1", "--env", f"NAME={NAME}{LABEL}", "--env", f"TASK={TASK}", "--env", f"WHERE={WHERE}",
        "--entrypoint", "sh -c", "--workdir", "/tmp", "--user", "65534:65534", "--group", "7",
        "--hostname", "{{.Node.Hostname}}-{{.Task.Slot}}", "--tty", "--init", "--read-only",
        "--stop-signal", "SIGINT", "--stop-grace-period", "3s",
        "--health-cmd", "true", "--health-interval", "1s", "--health-timeout", "2s", "--health-start-period", "4s",
        "--health-retries", "3",
        "--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN", "--sysctl", "net.core.somaxconn=256",
        "--ulimit", "nofile=100:200",
        "--host", "db:10.1.1.1", "--dns", "10.1.1.1", "--dns-search", "example", "--dns-option", "ndots:1",
        "--log-driver", "json-file", "--log-opt", "max-size=1m",
        "--limit-cpu", "0.5", "--limit-memory", "64M", "--limit-pids", "50",
        "--reserve-cpu", "0.1", "--reserve-memory", "32M", "--generic-resource", "gpu=2",
        "--mount", f"type=bind,source={source},target=/host,readonly,bind-propagation=private",
        "--mount", f"type=volume,source={volume},target=/volume,volume-nocopy,{VOLUME_OPTIONS}",
        "--mount", "type=tmpfs,target=/scratch,tmpfs-size=1m,tmpfs-mode=1770",
        "--constraint", "node.platform.os==linux", "--constraint", "node.platform.arch==amd64",
        "--constraint", "engine.labels.none!=x",
        "--placement-pref", "spread=node.labels.zone", "--replicas-max-per-node", "1", "--replicas", "1",
        "--restart-condition", "on-failure", "--restart-delay", "1s", "--restart-max-attempts", "2",
        "--restart-window", "9s",
        "--update-parallelism", "2", "--update-delay", "1s", "--update-failure-action", "rollback",
        "--update-monitor", "2s", "--update-max-failure-ratio", "0.5", "--update-order", "start-first",
        "--rollback-parallelism", "0", "--rollback-order", "stop-first",
        "--endpoint-mode", "dnsrr",
        PRIVATE_TAG, SCRIPT,
    )  # fmt: skip


AS_SHOWN: Json = {
    "Labels": {"how": "deployed"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": PRIVATE_TAG,
            "Command": ["sh", "-c"],
            "Args": [SCRIPT],
            "Env": ["A=1", f"NAME={NAME}{LABEL}", f"TASK={TASK}", f"WHERE={WHERE}"],
            "Labels": {"tier": "front"},
            "Hostname": "{{.Node.Hostname}}-{{.Task.Slot}}",
            "Dir": "/tmp",
            "User": "65534:65534",
            "StopSignal": "SIGINT",
            "Healthcheck": HEALTH,
            "Sysctls": {"net.core.somaxconn": "256"},
            "Groups": ["7"],
            "TTY": True,
            "Init": True,
            "ReadOnly": True,
            "StopGracePeriod": 3 * SECOND,
            "Hosts": ["10.1.1.1 db"],
            "DNSConfig": {"Nameservers": ["10.1.1.1"], "Search": ["example"], "Options": ["ndots:1"]},
            "CapabilityAdd": ["CAP_NET_ADMIN"],
            "CapabilityDrop": ["CAP_CHOWN"],
            "Ulimits": [{"Name": "nofile", "Hard": 200, "Soft": 100}],
            "Isolation": "default",
        },
        "Resources": {
            "Limits": {"NanoCPUs": SECOND // 2, "MemoryBytes": 64 << 20, "Pids": 50},
            "Reservations": {
                "NanoCPUs": SECOND // 10,
                "MemoryBytes": 32 << 20,
                "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}],
            },
        },
        "RestartPolicy": {"Condition": "on-failure", "Delay": SECOND, "MaxAttempts": 2, "Window": 9 * SECOND},
        "Placement": {
            "Constraints": ["node.platform.os==linux", "node.platform.arch==amd64", "engine.labels.none!=x"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
            "MaxReplicas": 1,
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
    },
    "Mode": {"Replicated": {"Replicas": 1}},
    "UpdateConfig": {
        "Parallelism": 2, "Delay": SECOND, "FailureAction": "rollback", "Monitor": 2 * SECOND,
        "MaxFailureRatio": 0.5, "Order": "start-first",
    },
    "RollbackConfig": {"Parallelism": 0, "Order": "stop-first"},
    "EndpointSpec": {"Mode": "dnsrr"},
}  # fmt: skip


@pytest.fixture
async def volume(engine_api: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The beginning of a volume's name; that of slot 1 is removed when the containers are gone."""
    name = f"swarmpy-whole-{os.urandom(4).hex()}"
    yield name
    async with engine_api.delete(f"volumes/{name}-1"):
        pass


@needs_docker_cli
async def test_as_dockers_command_asks_for_it(
    volume: str, make_docker_cluster: ClusterMaker, engine_api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The container is what ``docker service create`` means, field by field; its log is a terminal's."""
    cluster = await make_docker_cluster(1, 0, arguments=MANY_GPUS)
    docker = DockerCommand(cluster.manager, tmp_path / "docker")
    await engine_knows(docker, engine_api)
    template = f"{volume}-{{{{.Task.Slot}}}}"
    await docker("service", "create", "--detach", "--no-resolve-image", *as_words(tmp_path, template))
    task, container = await cluster.only_container("whole")
    expected = container_of(task, source=tmp_path, volume=f"{volume}-1", service="whole")
    expected["Config"]["OpenStdin"] = False  # Docker's command has no word for it
    expected["HostConfig"]["GroupAdd"] = ["7"]
    expected["HostConfig"]["DnsOptions"] = ["ndots:1"]
    expected["HostConfig"]["Mounts"][2]["TmpfsOptions"]["Mode"] = 0o1770
    assert within(expected, container) == []
    [shown] = json.loads(await docker("service", "inspect", "whole"))
    assert within(AS_SHOWN, shown["Spec"]) == []
    asked = mounts(tmp_path, template, "{{.Task.Slot}}")
    asked[2]["TmpfsOptions"]["Mode"] = 0o1770
    assert shown["Spec"]["TaskTemplate"]["ContainerSpec"]["Mounts"] == asked
    named = [{"NamedResourceSpec": {"Kind": "gpu", "Value": name}} for name in ("U2", "U1")]
    assert task["GenericResources"] == named
    await another_waits_for_gpus(docker)
    await logs_of_a_terminal(cluster, docker)
    await docker("service", "rm", "whole", "more")
    await cluster.no_containers()


async def engine_knows(docker: DockerCommand, engine: aiohttp.ClientSession) -> None:
    """The node shows what its engine tells of drivers, labels and its machine, and what its daemon was given."""
    [node] = json.loads(await docker("node", "inspect", "node-1"))
    async with engine.get("info") as response:
        info = await response.json()
    description = node["Description"]
    for kind in ("Volume", "Network", "Log"):
        told = {plugin["Name"] for plugin in description["Engine"]["Plugins"] if plugin["Type"] == kind}
        assert told == set(info["Plugins"][kind])
    assert description["Platform"] == {"Architecture": info["Architecture"], "OS": info["OSType"]}
    assert description["Resources"]["GenericResources"] == [
        *({"NamedResourceSpec": {"Kind": "gpu", "Value": name}} for name in ("U2", "U1", "U3")),
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 1}},
    ]


async def another_waits_for_gpus(docker: DockerCommand) -> None:
    """One is left, two are wanted; and no engine here has that log driver."""
    create = ("service", "create", "--detach", "--no-resolve-image", "--name", "more", "--generic-resource", "gpu=2")
    await docker(*create, PRIVATE_TAG, "sleep", "100")

    async def said(reason: str) -> bool:
        return reason in await docker("service", "ps", "--no-trunc", "more")

    await until(lambda: said("no suitable node (insufficient gpu on 1 node: largest free 1, needs 2)"), "a reason")
    await docker(
        "service", "update", "--detach", "--no-resolve-image", "--generic-resource-rm", "gpu", "--log-driver", "loki",
        "more",
    )  # fmt: skip
    await until(lambda: said("no suitable node (missing plugin on 1 node: log driver loki on 1)"), "another reason")


async def logs_of_a_terminal(cluster: DockerCluster, docker: DockerCommand) -> None:
    """One stream without frames, with a terminal's ends of lines, for Docker's command and at the API."""
    assert await docker.raw("service", "logs", "--raw", "whole") == b"begun\r\nlate\r\n"
    stream = cluster.manager.client.stream("/services/whole/logs", {"stdout": "1", "stderr": "1"})
    async with asyncio.timeout(30):
        assert b"".join([chunk async for chunk in stream]) == b"begun\r\nlate\r\n"


STACK = """
services:
  all:
    image: {image}
    entrypoint: [sh, -c]
    command: [{script}]
    environment:
      A: 1
      NAME: '{name}{label}'
      TASK: '{task}'
      WHERE: '{where}'
    labels: {{tier: front}}
    hostname: "{{{{.Node.Hostname}}}}-{{{{.Task.Slot}}}}"
    working_dir: /tmp
    user: 65534:65534
    tty: true
    stdin_open: true
    init: true
    read_only: true
    stop_signal: SIGINT
    stop_grace_period: 3s
    healthcheck: {{test: "true", interval: 1s, timeout: 2s, start_period: 4s, retries: 3}}
    cap_add: [NET_ADMIN]
    cap_drop: [CHOWN]
    sysctls: {{net.core.somaxconn: 256}}
    ulimits: {{nofile: {{soft: 100, hard: 200}}}}
    oom_score_adj: 100
    security_opt: ["no-new-privileges:true", "seccomp:unconfined"]
    extra_hosts: ["db:10.1.1.1"]
    dns: 10.1.1.1
    dns_search: example
    logging: {{driver: json-file, options: {{max-size: 1m}}}}
    volumes:
      - {{type: bind, source: "{source}", target: /host, read_only: true, bind: {{propagation: private}}}}
      - {{type: volume, source: v, target: /volume, volume: {{nocopy: true}}}}
      - {{type: tmpfs, target: /scratch, tmpfs: {{size: 1048576}}}}
    deploy:
      labels: {{how: deployed}}
      placement: {{constraints: [node.platform.os==linux, node.platform.arch==x86_64], max_replicas_per_node: 1}}
      resources:
        limits: {{cpus: "0.5", memory: 64M, pids: 50}}
        reservations:
          cpus: "0.1"
          memory: 32M
          generic_resources: [{{discrete_resource_spec: {{kind: gpu, value: 2}}}}]
volumes:
  v:
    name: "{volume}-{{{{.Task.Slot}}}}"
    driver: local
    driver_opts: {{type: tmpfs, device: tmpfs, o: size=1m}}
    labels: {{slot: "{{{{.Task.Slot}}}}"}}
"""


async def test_as_a_stack_file_asks_for_it(volume: str, make_docker_cluster: ClusterMaker, tmp_path: Path) -> None:
    """The same container again, from a stack file."""
    cluster = await make_docker_cluster(1, 0, arguments=MANY_GPUS)
    file = tmp_path / "whole.yml"
    file.write_text(
        STACK.format(
            image=PRIVATE_TAG, script=json.dumps(SCRIPT), name=NAME, label=LABEL, task=TASK, where=WHERE,
            source=tmp_path, volume=volume,
        )
    )  # fmt: skip
    stack = ("--data-dir", str(cluster.manager.data_dir), "stack")
    code, out, err = await swarmpy(*stack, "deploy", "--detach", "--resolve-image", "never", "-c", str(file), "whole")
    assert (code, err) == (0, ""), out + err
    task, container = await cluster.only_container("whole_all")
    expected = container_of(task, source=tmp_path, volume=f"{volume}-1", service="whole_all")
    expected["Config"]["Labels"]["com.docker.stack.namespace"] = "whole"
    expected["HostConfig"]["OomScoreAdj"] = 100
    expected["HostConfig"]["SecurityOpt"] = ["seccomp=unconfined", "no-new-privileges=true"]
    expected["HostConfig"]["Mounts"][1]["VolumeOptions"]["Labels"]["com.docker.stack.namespace"] = "whole"
    assert within(expected, container) == []
    code, out, err = await swarmpy(*stack, "rm", "whole")
    assert (code, err) == (0, ""), out + err
    await cluster.no_containers()

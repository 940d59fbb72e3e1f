"""What Docker Swarm makes of ``docker service create``, and what swarmpy does: side by side, on one engine.

Run as a script, as root, by hand after changes of what a container gets: ``python tests/engine/compare_swarm.py``. It
starts an engine of its own, a swarm of that engine and a node of ours on it, and prints one JSON object for each field
of a service or of a container that differs and is not KNOWN to. The exit code is 1 then.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from images import PRIVATE_TAG
from own_engines import own_engine

from swarmpy.cli.local_cluster import LocalCluster

RUNNING_S = 20.0
GENERIC = "gpu=U1"
SLEEP = f"{PRIVATE_TAG} sleep 1000"
TEMPLATES = "--env 'A={{.Service.Name}} {{.Task.Slot}} {{.Node.Hostname}} {{.Node.Platform.OS}}'"
LABEL = "--env 'B={{index .Service.Labels \"l\"}}'"

CASES = (
    SLEEP,
    f"--label l=m --hostname h-{{{{.Task.Slot}}}} {TEMPLATES} {LABEL} --mode global {SLEEP}",
    f"--mode replicated-job --replicas 2 --max-concurrent 1 {PRIVATE_TAG} true",
    f"--mode global-job --restart-condition on-failure {PRIVATE_TAG} true",
    f"--no-healthcheck --init --isolation default --entrypoint 'sh -c' {PRIVATE_TAG} 'sleep 1000'",
    f"--mount type=bind,source=/usr,target=/b,readonly,bind-propagation=private {SLEEP}",
    f"--mount type=bind,source=/usr,target=/b,bind-recursive=disabled {SLEEP}",
    f"--mount type=volume,source=v{{{{.Task.Slot}}}},target=/v,volume-nocopy,volume-label=a={{{{.Task.Slot}}}} {SLEEP}",
    f"--mount type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770 --mount type=volume,target=/anonymous {SLEEP}",
    f"--cap-add NET_ADMIN --cap-drop NET_RAW --ulimit nproc=1000 --ulimit nofile=500:600 {SLEEP}",
    f"--cap-drop ALL --cap-add CAP_CHOWN --sysctl net.ipv4.ip_forward=1 --group 5 --group 6 --user 7:8 {SLEEP}",
    f"--limit-memory 64M --limit-cpu 0.5 --limit-pids 50 --reserve-cpu 0.1 {SLEEP}",
    f"--generic-resource gpu=1 --constraint node.role==manager --placement-pref spread=node.labels.a {SLEEP}",
    f"--restart-condition none --stop-grace-period 3s --stop-signal INT {SLEEP}",
    f"--update-delay 3s --update-order start-first --update-failure-action rollback --update-monitor 9s {SLEEP}",
    f"--host a:1.2.3.4 --host b:1.2.3.4 --dns 1.1.1.1 --dns-option ndots:3 --dns-search a.b {SLEEP}",
    f"--health-cmd 'exit 0' --health-interval 5s --health-start-period 9s --health-retries 2 {SLEEP}",
    f"--log-driver local --log-opt max-size=1m --endpoint-mode vip --container-label b=c --env A= --workdir /x {SLEEP}",
    f"--tty --read-only --replicas-max-per-node 2 --rollback-parallelism 3 --publish mode=host,target=81 {SLEEP}",
)

KNOWN = (
    # Of the one and of the other.
    ".ID", ".Id", ".Name", "*.Version.Index", "*CreatedAt", "*UpdatedAt", ".Created", ".LastExecution", "*Path",
    ".GraphDriver*", ".NetworkSettings*", ".State*", ".ExecIDs*", "*com.docker.swarm.*", "*swarmpy.*", ".Mounts*",
    ".Config.Hostname", ".JobStatus*", ".Spec.Name", ".Config.Env*", "*LastExecution", ".HostConfig.Mounts*Source",
    # The engine stops a task in its own time when the daemon is away.
    ".Config.StopTimeout",
    # What is reserved is kept for the task when memory gets short.
    ".HostConfig.MemoryReservation",
    # Two spellings of the same.
    ".HostConfig.Isolation", ".HostConfig.RestartPolicy.Name", ".HostConfig.PortBindings*", ".HostConfig.Ulimits",
    "*.Mounts*.DriverConfig", "*.Mounts*.Propagation",
    # Jobs have none; an update that sent them back would be refused.
    ".Spec.UpdateConfig*", ".Spec.RollbackConfig*",
    # The way of requests.
    ".Endpoint*", ".Config.ExposedPorts*",
)  # fmt: skip


def fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, with its path; an empty container is one."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from fields(inner, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from fields(inner, f"{path}[{index}]")
    else:
        yield path, value


def differences(theirs: Any, ours: Any) -> Iterator[dict[str, Any]]:
    """The fields that differ and are not known to."""
    one, other = dict(fields(theirs)), dict(fields(ours))
    for path in sorted({*one, *other}):
        is_known = any(fnmatch.fnmatchcase(path, pattern.replace("[", "[[]")) for pattern in KNOWN)
        if one.get(path) != other.get(path) and not is_known:
            yield {"field": path, "docker": one.get(path), "swarmpy": other.get(path)}


class Docker:
    """The docker command, at a socket."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def __call__(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "docker", "-H", f"unix://{self._socket}", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()


async def container(engine: Docker, manager: Docker, service_id: str) -> Any:
    """The first container of a service, as the engine shows it, once it was started."""
    deadline = time.monotonic() + RUNNING_S
    while time.monotonic() < deadline:
        label = f"label=com.docker.swarm.service.id={service_id}"
        found = (await engine("ps", "--all", "--quiet", "--no-trunc", "--filter", label)).split()
        with contextlib.suppress(AssertionError):  # one that has failed may be removed meanwhile
            shown = json.loads(await engine("inspect", *found[-1:]))[0] if found else None
            if shown and shown["State"]["Status"] != "created":
                return shown
        await asyncio.sleep(0.2)
    reasons = await manager("service", "ps", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}", service_id)
    raise SystemExit(f"a service has no container within {RUNNING_S:g} s: {reasons}")


async def compare(engine: Docker, ours: Docker) -> int:
    """Print what differs; how much that is."""
    count = 0
    for number, words in enumerate(CASES):
        create = ("service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", f"s{number}")
        seen = []
        for docker in (engine, ours):
            service_id = (await docker(*create, *shlex.split(words))).strip()
            service = json.loads(await docker("service", "inspect", service_id))[0]
            seen.append((service, await container(engine, docker, service_id)))
            await docker("service", "rm", service_id)
        for theirs, mine in zip(*seen, strict=True):
            for difference in differences(theirs, mine):
                count += 1
                print(json.dumps({"case": words, **difference}), flush=True)
    print(json.dumps({"cases": len(CASES), "differences": count}))
    return count


async def main() -> int:
    """The exit code."""
    with tempfile.TemporaryDirectory() as directory:
        async with own_engine("--node-generic-resource", GENERIC) as socket:
            engine = Docker(socket)
            await engine("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
            cluster = LocalCluster(Path(directory) / "cluster", managers=1, workers=0, runtime="docker")
            [node] = cluster.nodes
            node.environment = {"DOCKER_HOST": f"unix://{socket}"}
            try:
                await cluster.start_daemons()
                await cluster.form()
                return int(await compare(engine, Docker(f"{node.data_dir}/swarmpy.sock")) > 0)
            finally:
                await cluster.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

"""The docker command line against our socket, unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
from api_world import World
from docker_client import Docker, is_needed

from swarmpy.manager.operations import create_service
from swarmpy.model.objects import TaskStatus
from swarmpy.model.specs import ContainerSpec, MaxUnavailable, NetworkAttachment, ServiceSpec, TaskSpec
from swarmpy.model.states import TaskState

pytestmark = is_needed


async def test_the_docker_command_leaves_what_may_be_missing(docker: Docker, world: World) -> None:
    """It does not know of that bound, and writes the spec without it."""
    spec = ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(image="busybox")))
    spec = attrs.evolve(spec, max_unavailable=MaxUnavailable(amount=1))
    service = await create_service(world.leader.store, spec, lambda: "a" * 25)
    await docker("service", "update", "-d", "--env-add", "B=2", "--no-resolve-image", "web")
    changed = world.leader.store.view().service(service.id)
    assert changed is not None
    assert changed.spec.task.container.env == ("B=2",)
    assert changed.spec.max_unavailable == spec.max_unavailable


async def test_the_docker_command_takes_a_stack_file_of_ours(docker: Docker, tmp_path: Path, world: World) -> None:
    """It passes over keys of ours beside ``deploy``, and refuses them below."""
    file = tmp_path / "stack.yml"
    rest = "networks: {outside: {external: true, name: host}}"
    web = "version: '3.8'\nservices: {web: {image: 'busybox:1', networks: [outside], %s}}\n" + rest
    deploy = ("stack", "deploy", "-c", str(file), "--resolve-image", "never", "--detach=true", "st")
    file.write_text(web % "x-swarmpy-max-unavailable: 1, x-swarmpy-progress-deadline: 90s")
    await docker(*deploy)
    [service] = world.leader.store.view().services()
    assert service.spec.max_unavailable is None
    file.write_text(web % "deploy: {x-swarmpy-max-unavailable: 1}")
    assert "x-swarmpy-max-unavailable is not allowed" in await docker(*deploy, fails=True)


async def test_the_hosts_network_by_the_docker_command(docker: Docker, world: World) -> None:
    """Given, shown by its name, taken away; another is not found."""
    create = ("service", "create", "--no-resolve-image", "-d", "--name")
    await docker(*create, "web", "--network", "host", "busybox")
    [service] = world.leader.store.view().services()
    assert service.spec.task.networks == (NetworkAttachment(target="host"),)
    assert "Networks: host" in await docker("service", "inspect", "--pretty", "web")
    await docker("service", "update", "-d", "--no-resolve-image", "--network-rm", "host", "web")
    [service] = world.leader.store.view().services()
    assert service.spec.task.networks == ()
    assert "network back not found" in await docker(*create, "other", "--network", "back", "busybox", fails=True)


async def test_a_stack_that_needs_a_network_is_told_what_to_write(docker: Docker, tmp_path: Path, world: World) -> None:
    """The docker command makes a network for each stack; with the line that it is told it makes none."""
    file = tmp_path / "stack.yml"
    text = "version: '3.8'\nservices: {web: {image: 'busybox:1', ports: ['8080:80']}}\n"
    file.write_text(text)
    deploy = ("stack", "deploy", "-c", str(file), "--resolve-image", "never", "--detach=true", "st")
    said = await docker(*deploy, fails=True)
    line = "networks: {default: {external: true, name: bridge}}"
    assert "overlay networks are not available yet" in said
    assert line in said
    file.write_text(text + line)
    await docker(*deploy)
    [service] = world.leader.store.view().services()
    assert [network.target for network in service.spec.task.networks] == ["bridge"]


async def test_services_by_the_docker_command(docker: Docker, world: World) -> None:
    """Create, list, inspect, scale, update, roll back, show tasks, remove."""
    create = "service create --name web --replicas 2 -p 8080:80 -e A=1 --label tier=front --no-resolve-image -d"
    service_id = await docker(*create.split(), "busybox", "sleep", "1")
    service = world.leader.store.view().service(service_id)
    assert service is not None
    await world.task(service)
    row = await docker("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}")
    assert row == "web replicated 1/2 busybox:latest *:8080->80/tcp"
    assert await docker("service", "ls", "-q", "--filter", "label=tier=front") == service_id[:12]
    row = await docker("service", "ps", "web", "--format", "{{.Name}} {{.Node}} {{.DesiredState}}")
    assert row == "web.1 host-w1 Running"
    await docker("service", "scale", "-d", "web=3")
    await docker("service", "update", "-d", "--env-add", "B=2", "--no-resolve-image", "web")
    spec = json.loads(await docker("service", "inspect", "web"))[0]["Spec"]
    assert sorted(spec["TaskTemplate"]["ContainerSpec"]["Env"]) == ["A=1", "B=2"]
    assert spec["Mode"] == {"Replicated": {"Replicas": 3}}
    await docker("service", "rollback", "-d", "web")
    assert "State:\t\trollback_started" in await docker("service", "inspect", "--pretty", "web")
    again = await docker("service", "create", "--name", "web", "--no-resolve-image", "-d", "busybox", fails=True)
    assert "service web already exists" in again
    assert await docker("service", "rm", "web") == "web"
    assert "no such service: web" in await docker("service", "inspect", "web", fails=True)
    await docker(*create.split(), "busybox")


async def test_jobs_by_the_docker_command(docker: Docker, world: World) -> None:
    """Both modes: made, listed with what has completed, shown, executed again; not rolled back."""
    create = "service create --name work --mode replicated-job --replicas 5 --max-concurrent 2 --no-resolve-image -d"
    service_id = await docker(*create.split(), "busybox", "true")
    service = world.leader.store.view().service(service_id)
    assert service is not None
    assert service.spec.desired_completions == 5
    complete = TaskStatus(state=TaskState.COMPLETE, message="finished", timestamp_ns=service.meta.created_at_ns)
    job = {"iteration": 0, "desired_state": TaskState.COMPLETE}
    await world.task(service, 1, status=complete, **job)
    await world.task(service, 2, **job)
    rows = await docker("service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}")
    assert rows == "work replicated job 1/2 (1/5 completed)"
    rows = await docker("service", "ps", "work", "--format", "{{.Name}} {{.DesiredState}} {{.CurrentState}}")
    assert [row.split(" ")[:3] for row in sorted(rows.splitlines())] == [
        ["work.1", "Complete", "Running"],
        ["work.w1", "Complete", "Complete"],
    ]
    assert await docker("service", "ls", "-q", "--filter", "mode=replicated-job") == service_id[:12]
    seen = json.loads(await docker("service", "inspect", "work"))[0]
    assert seen["Spec"]["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 5}}
    assert seen["JobStatus"]["JobIteration"] == {}
    assert "UpdateConfig" not in seen["Spec"]
    await docker("service", "update", "-d", "--force", "--no-resolve-image", "work")
    seen = json.loads(await docker("service", "inspect", "work"))[0]
    assert seen["JobStatus"]["JobIteration"] == {"Index": 1}
    assert "is a job" in await docker("service", "rollback", "-d", "work", fails=True)
    create = "service create --name each --mode global-job --no-resolve-image -d"
    await docker(*create.split(), "busybox", "true")
    row = await docker("service", "ls", "--filter", "name=each", "--format", "{{.Mode}} {{.Replicas}}")
    assert row == "global job 0/2 (0/2 completed)"


async def test_nodes_and_the_swarm_by_the_docker_command(docker: Docker, world: World) -> None:
    """List, label, drain, refuse to demote the last manager; tokens and settings."""
    rows = await docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.ManagerStatus}} {{.TLSStatus}}")
    assert rows.splitlines() == ["host-m1 Ready Leader Ready", "host-w1 Ready  Ready"]
    await docker("node", "update", "--label-add", "zone=a", "--availability", "drain", "host-w1")
    node = json.loads(await docker("node", "inspect", "w1"))[0]
    assert (node["Spec"]["Labels"], node["Spec"]["Availability"]) == ({"zone": "a"}, "drain")
    assert "attempting to demote the last manager" in await docker("node", "demote", "m1", fails=True)
    assert "not down" in await docker("node", "rm", "w1", fails=True)
    token = await docker("swarm", "join-token", "-q", "worker")
    assert await docker("swarm", "join-token", "--rotate", "-q", "worker") != token
    await docker("swarm", "update", "--task-history-limit", "3")
    assert world.leader.store.view().cluster().spec.task_history_limit == 3
    assert await docker("info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}") == "active true"
    assert await docker("node", "rm", "--force", "w1") == "w1"


async def test_lists_of_what_is_not_managed(docker: Docker) -> None:
    """The commands that look at everything find nothing instead of failing."""
    for command in (
        "network ls -q",
        "secret ls -q",
        "config ls -q",
        "volume ls -q",
        "ps -q",
        "image ls -q",
        "stack ls",
    ):
        out = await docker(*command.split())
        assert out == "" or command == "stack ls"

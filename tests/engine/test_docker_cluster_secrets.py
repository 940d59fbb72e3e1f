"""Secrets and credentials in clusters of real daemons on a real engine."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import aiohttp
from docker_clusters import ClusterMaker, DockerCluster, DockerCommand, ask, until
from images import PRIVATE_TAG, SOCKET
from needs import needs_docker_cli
from registries import auth, forget, forget_all, header, login_at, private_registry, push

from swarmpy.cli.local_cluster import LocalNode
from swarmpy.runtime.memory_files import usual_bases

SECOND = 1_000_000_000
PORT = 8091
SERVE = ["sh", "-c", "exec httpd -f -p 80 -h /run/secrets"]
PLANTED = "hunter2-planted"


def tasks_with_files(node_id: str) -> set[str]:
    """The tasks that have files in memory of a node."""
    roots = [base.path / node_id for base in usual_bases(os.geteuid(), os.environ)]
    return {path.name for root in roots if root.exists() for path in root.iterdir()}


async def files_of(node_id: str, tasks: set[str]) -> None:
    """Wait until exactly these tasks have some."""

    async def there() -> bool:
        return tasks_with_files(node_id) == tasks

    await until(there, f"files of {len(tasks)} tasks on {node_id}")


async def create_secret(node: LocalNode, name: str, data: str) -> dict[str, Any]:
    """A template; the reference to it, as a page of a web server."""
    body = {"Name": name, "Data": base64.b64encode(data.encode()).decode(), "Templating": {"Name": "golang"}}
    made = await node.client.post("/secrets/create", body)
    file = {"Name": "index.html", "UID": "0", "GID": "0", "Mode": 0o444}
    return {"SecretID": made["ID"], "SecretName": name, "File": file}


def service(replicas: int, image: str = PRIVATE_TAG, **container: Any) -> dict[str, Any]:
    """Web servers on the workers."""
    spec = {"Image": image, "Command": SERVE, "StopGracePeriod": SECOND, **container}
    return {
        "Name": "web",
        "TaskTemplate": {
            "ContainerSpec": spec,
            "RestartPolicy": {"Condition": "any", "Delay": 0},
            "Placement": {"Constraints": ["node.role==worker"]},
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": PORT}]},
    }


async def answers(cluster: DockerCluster, count: int) -> set[str]:
    """What the tasks answer, once so many different ones do."""
    found: set[str] = set()

    async def all_there() -> bool:
        found.add(await ask(cluster.manager.address, PORT))
        return len(found) == count

    await until(all_there, f"{count} tasks answer")
    return found


async def test_containers_keep_their_secrets_without_their_daemon(make_docker_cluster: ClusterMaker) -> None:
    """They are served on while it is away and when it is back, by the same containers; they go with the service."""
    cluster = await make_docker_cluster(1, 1, ports=(PORT,))
    manager, worker = cluster.nodes
    mine = cluster.ids[worker.name]
    page = await create_secret(manager, "page", f"{{{{.Task.ID}}}} {PLANTED}")
    made = await manager.client.post("/services/create", service(2, Secrets=[page]))
    tasks = set(await cluster.running("web", 2))
    served = {f"{task} {PLANTED}" for task in tasks}
    assert await answers(cluster, 2) == served
    containers = await cluster.containers_by_task("web")
    await files_of(mine, tasks)
    await worker.kill()
    assert tasks_with_files(mine) == tasks
    assert await answers(cluster, 2) == served
    await worker.start()
    assert set(await cluster.running("web", 2)) == tasks
    assert await answers(cluster, 2) == served
    assert await cluster.containers_by_task("web") == containers
    assert tasks_with_files(mine) == tasks
    # One that is killed is replaced by one with files of its own.
    gone = next(iter(tasks))
    await cluster.docker("POST", f"containers/{containers[gone]}/kill")
    await until(lambda: _other(cluster, tasks), "another task runs")
    now = set(await cluster.running("web", 2))
    await files_of(mine, now)
    assert await answers(cluster, 2) == {f"{task} {PLANTED}" for task in now}
    await manager.client.remove_service(made["ID"])
    await cluster.no_containers()
    await files_of(mine, set())
    await worker.client.post("/swarm/leave", None, query={"force": "1"}, timeout=30)
    assert not any((base.path / mine).exists() for base in usual_bases(os.geteuid(), os.environ))


async def _other(cluster: DockerCluster, tasks: set[str]) -> bool:
    now = {task["ID"] for task in await cluster.tasks("web")}
    return len(now) == 2 and now != tasks


async def test_an_image_of_a_private_registry(
    make_docker_cluster: ClusterMaker, engine_api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A service that was created with credentials runs; one without says why not; nothing shows what they are."""
    async with private_registry(tmp_path) as address:
        image = f"{address}/team/app:1"
        await push(engine_api, PRIVATE_TAG, image)
        cluster = await make_docker_cluster(1, 1, ports=(PORT,))
        manager, worker = cluster.nodes
        plain = await manager.client.post("/services/create", service(1, image))
        reasons: list[str] = []

        async def refused() -> bool:
            reasons[:] = [task["Status"].get("Err", "") for task in await manager.client.get("/tasks")]
            return any(reason.startswith("No such image") for reason in reasons)

        await until(refused, "the registry refuses")
        await manager.client.remove_service(plain["ID"])
        try:
            connector = aiohttp.UnixConnector(str(manager.data_dir / "swarmpy.sock"))
            async with (
                aiohttp.ClientSession("http://docker/v1.41/", connector=connector) as session,
                session.post("services/create", json=service(1, image), headers=header(auth())) as response,
            ):
                assert response.status == 201, await response.text()
            [task] = (await cluster.running("web", 1)).values()
            shown = [await manager.client.get(path) for path in ("/tasks", "/services", "/secrets", "/info")]
            async with engine_api.get(
                f"containers/{task['Status']['ContainerStatus']['ContainerID']}/json"
            ) as inspected:
                shown.append(await inspected.json())
            logs = await asyncio.to_thread(lambda: "".join(node.log_file.read_text() for node in (manager, worker)))
            assert PLANTED not in str((shown, reasons, logs))
            assert header(auth())["X-Registry-Auth"] not in str((shown, reasons, logs))
        finally:
            await forget(engine_api, image)


# -- Docker's own command line ----------------------------------------------------------------------------------------


@needs_docker_cli
async def test_as_dockers_users_do_it(
    make_docker_cluster: ClusterMaker, engine_api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Secrets, templates, owners, modes and a private image, with the unchanged command; an update gives others."""
    async with private_registry(tmp_path) as address:
        image = f"{address}/team/app:1"
        await push(engine_api, PRIVATE_TAG, image)
        cluster = await make_docker_cluster(1, 1)
        docker = DockerCommand(cluster.manager, tmp_path / "docker", login_at(address))
        try:
            await docker("secret", "create", "password", "-", given=PLANTED)
            await docker("secret", "create", "next", "-", given=f"{PLANTED}-2")
            template = '{{.Service.Name}}.{{.Task.Slot}} {{env "WORD"}} {{secret "password"}}'
            await docker("config", "create", "--template-driver", "golang", "app", "-", given=template)
            await docker(
                "service", "create", "--detach", "--name", "web", "--with-registry-auth", "--env", "WORD=hello",
                "--constraint", "node.role==worker", "--stop-grace-period", "1s",
                "--secret", "source=password,target=password,uid=1000,gid=50,mode=0400",
                "--config", "source=app,target=/etc/app.conf",
                image, "sleep", "1000",
            )  # fmt: skip
            look = 'stat -c "%u:%g %a" /run/secrets/password; cat /run/secrets/password; echo; cat /etc/app.conf'
            assert await said_inside(cluster, look) == f"1000:50 400\n{PLANTED}\nweb.1 hello {PLANTED}"
            # Another secret in the place of the first: the template is expanded with it.
            before = set(await cluster.running("web", 1))
            await docker(
                "service", "update", "--detach", "--secret-rm", "password",
                "--secret-add", "source=next,target=password", "web",
            )  # fmt: skip

            async def replaced() -> bool:
                now = {task["ID"] for task in await cluster.tasks("web")}
                return len(now) == 1 and now != before

            await until(replaced, "the task with the other secret")
            assert await said_inside(cluster, look) == f"0:0 444\n{PLANTED}-2\nweb.1 hello {PLANTED}-2"
            inspected = await docker("service", "inspect", "web") + await docker("secret", "inspect", "password")
            shown = inspected + await docker("service", "ps", "--no-trunc", "web")
            assert PLANTED not in shown
            await docker("service", "rm", "web")
            await cluster.no_containers()
            await docker("secret", "rm", "password", "next")
        finally:
            await forget_all(engine_api, address)


async def said_inside(cluster: DockerCluster, script: str) -> str:
    """What a script says in the only container of the service."""
    [task] = (await cluster.running("web", 1)).values()
    container = task["Status"]["ContainerStatus"]["ContainerID"]
    process = await asyncio.create_subprocess_exec(
        "docker", "exec", container, "sh", "-c", script,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "DOCKER_HOST": f"unix://{SOCKET}"},
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode().strip()

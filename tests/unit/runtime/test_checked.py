"""No task, whatever a manager says of it, makes a name, a path or a command other than what was meant."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from swarmpy.errors import TaskRejected
from swarmpy.model.grammar import is_image
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, Mount, TaskSpec
from swarmpy.model.template import NodeFacts
from swarmpy.runtime.container_config import container_name, create_config
from swarmpy.runtime.docker import DockerRuntime
from swarmpy.runtime.process import ProcessRuntime
from swarmpy.runtime.process_config import command_line, environment

NODE = NodeFacts(id=NodeId("node1"), hostname="host1", address="127.0.0.1")
TRAVERSALS = (
    "../../etc",
    "..",
    ".",
    "/etc",
    "a/../../b",
    "a\0b",
    "a\n",
    "",
    "a/b",
    "x?y",
    "x#y",
    "%2e%2e",
    "-v",
    "warden.log",
)

signs = st.text("ab./-_:@{}=,;$`'\"\\ \n\0\x1b%?#é", max_size=20)
words = signs | st.sampled_from(
    [*TRAVERSALS, "{{.Node.Hostname}}", "{{.Service.Labels.x}}", "/data/{{.Service.Labels.x}}"]
)


def make_task(task_id: str = "t1", name: str = "web", labels: dict[str, str] | None = None, **fields: Any) -> Task:
    container = attrs.evolve(ContainerSpec(image="busybox", command=("true",)), **fields)
    return Task(
        id=TaskId(task_id),
        spec=TaskSpec(container=container),
        service_id=ServiceId("s1"),
        service_name=name,
        service_labels=labels or {},
        slot=1,
    )


tasks = st.builds(
    make_task,
    task_id=st.just("t1") | words,
    name=st.just("web") | words,
    labels=st.dictionaries(st.just("x"), words),
    image=st.just("busybox") | words,
    args=st.lists(words, max_size=2).map(tuple),
    env=st.lists(words.map(lambda word: f"A={word}") | words, max_size=2).map(tuple),
    hostname=st.just("") | words,
    mounts=st.lists(
        st.builds(Mount, type=st.sampled_from(["bind", "volume"]), source=words, target=words), max_size=2
    ).map(tuple),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(tasks)
@example(
    make_task(labels={"x": "../../etc"}, mounts=(Mount(type="bind", source="/d/{{.Service.Labels.x}}", target="/d"),))
)
@example(make_task(labels={"x": "a\0b"}, args=("{{.Service.Labels.x}}",)))
@example(make_task(name="../../images/x"))
def test_what_the_engine_is_asked_for(task: Task) -> None:
    """Either the task is rejected with one line, or each text means what it says, also after its placeholders."""
    try:
        config = create_config(task, NODE)
    except TaskRejected as error:
        message = str(error)
    else:
        message = ""
        url = URL(f"http://docker/v1.41/containers/{container_name(task)}/start")
        assert url.parts == ("/", "v1.41", "containers", container_name(task), "start")
        assert url.query_string == ""
        assert is_image(config["Image"])
        assert set(config["HostConfig"]) <= {"Privileged", "RestartPolicy", "Mounts"}
        assert not config["HostConfig"]["Privileged"]
        assert not any("\0" in word for word in (*config["Env"], *config.get("Cmd", ())))
        for mount in config["HostConfig"].get("Mounts", ()):
            assert mount["Target"].startswith("/")
            assert ".." not in mount["Target"].split("/")
            assert "/" not in mount.get("Source", "") or ".." not in mount["Source"].split("/")
    assert message.isprintable()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(tasks)
def test_what_a_process_is_given(task: Task) -> None:
    """The words of the command are those of the spec, one for one; the environment is what can be passed on."""
    try:
        argv = command_line(task, NODE)
        env = environment(task, NODE, path="/bin", home="/h", ports=())
    except TaskRejected as error:
        message = str(error)
    else:
        message = ""
        assert len(argv) == 1 + len(task.spec.container.args)
        assert all(name and "=" not in name and "\0" not in name + value for name, value in env.items())
    assert message.isprintable()


def files_below(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


@pytest.mark.parametrize("task_id", TRAVERSALS)
async def test_a_task_never_leaves_its_place(tmp_path: Path, task_id: str) -> None:
    """An id that is a path makes no directory, and removes none."""
    runtime = ProcessRuntime(
        node_id=NodeId("node1"), node_address="127.0.0.1", hostname="host1", directory=tmp_path / "a" / "tasks"
    )
    for directory in ("b", "etc", "a/tasks/b"):
        (tmp_path / directory).mkdir(parents=True)
    await runtime.open()
    try:
        before = files_below(tmp_path)
        with pytest.raises(TaskRejected, match="is not the id of a task"):
            await runtime.start(make_task(task_id))
        await runtime.remove(TaskId(task_id))
        assert files_below(tmp_path) == before
    finally:
        await runtime.close()


async def test_a_name_that_is_a_path_is_asked_of_nobody() -> None:
    """A container whose name could not be is not there; the engine is not asked for something else in its stead."""
    runtime = DockerRuntime(node_id=NodeId("n"), node_address="127.0.0.1", hostname="h", url="unix:///nonexistent")
    task = make_task(name="../images/busybox")
    async with asyncio.timeout(10):
        assert await runtime._own(task) is None
        await runtime.stop(task)
        with pytest.raises(TaskRejected, match=r"'\.\./images/busybox\.1\.t1' is not a name"):
            await runtime.prepare(task)

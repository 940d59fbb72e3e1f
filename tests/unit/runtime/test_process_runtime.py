"""The process runtime with real processes."""

from __future__ import annotations

import ast
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest

from swarmpy.errors import RuntimeUnavailable, TaskFailed, TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, Healthcheck, PortConfig, TaskSpec
from swarmpy.runtime.process import ProcessRuntime
from swarmpy.runtime.warden import environment_has, process_table

SECOND = 1_000_000_000
LISTEN = """
import os, socket
server = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
while True:
    connection, _ = server.accept()
    connection.sendall(os.environ["SWARMPY_NODE_ADDRESS"].encode())
    connection.close()
"""
HANDED = """
import os
files = [os.readlink(f"/proc/self/fd/{n}") for n in range(256) if os.path.exists(f"/proc/self/fd/{n}")]
print(dict(os.environ))
print(files)
"""
DAEMONISE = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("daemon.pid", "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists("daemon.pid") or not open("daemon.pid").read():
    time.sleep(0.01)
print("daemon is up", flush=True)
time.sleep(600)
"""
AGENT = """
import asyncio, sys
from pathlib import Path
import test_process_runtime as helpers

async def main():
    runtime = helpers.make_runtime(Path(sys.argv[1]))
    await runtime.open()
    task = helpers.python_task("daemonises", helpers.DAEMONISE)
    await runtime.start(task)
    await helpers.eventually(lambda: "daemon is up" in helpers.output(runtime, task))
    print(runtime._wardens.link.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def make_task(name: str, *command: str, ports: tuple[PortConfig, ...] = (), **fields: object) -> Task:
    container = attrs.evolve(ContainerSpec(image="anything:1", command=command), **fields)
    return Task(
        id=TaskId(name.ljust(25, "x")),
        spec=TaskSpec(container=container),
        service_id=ServiceId("service"),
        service_name="web",
        slot=1,
        ports=ports,
    )


def python_task(name: str, source: str, ports: tuple[PortConfig, ...] = (), **fields: object) -> Task:
    return make_task(name, sys.executable, "-S", "-c", source, ports=ports, **fields)


def make_runtime(directory: Path, address: str = "127.0.0.1", **options: object) -> ProcessRuntime:
    return ProcessRuntime(
        node_id=NodeId("node1"),
        node_address=address,
        hostname="host1",
        directory=directory / "tasks",
        **options,  # type: ignore[arg-type]
    )


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def output(runtime: ProcessRuntime, task: Task) -> str:
    path = runtime.log_path(task.id)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return "".join(line.split(" ", 3)[3] for line in lines)


def alive(directory: Path) -> list[int]:
    """The processes of the runtime in ``directory``."""
    mark = f"SWARMPY_RUNTIME={directory / 'tasks'}"
    return [p.pid for p in process_table().values() if p.state not in "ZX" and environment_has(p.pid, mark)]


def is_alive(pid: int) -> bool:
    info = process_table().get(pid)
    return info is not None and info.state not in "ZX"


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[ProcessRuntime]:
    runtime = make_runtime(tmp_path)
    await runtime.open()
    yield runtime
    await runtime.close()
    assert alive(tmp_path) == []


async def test_a_task_runs_and_its_exit_code_is_reported(runtime: ProcessRuntime) -> None:
    """A command's output is logged and its exit code comes out of wait."""
    task = make_task("code", "/bin/sh", "-c", "echo hello from $0; exit 7", "{{.Task.Name}}")
    await runtime.prepare(task)
    running = await runtime.start(task)
    assert running.container.pid > 0
    ended = await runtime.wait(task)
    assert (ended.exit_code, ended.error) == (7, "")
    assert output(runtime, task) == f"hello from {task.name}\n"
    assert await runtime.list_tasks() == {task.id: None}


async def test_environment_is_small_and_templated(runtime: ProcessRuntime) -> None:
    """A task sees the base environment, its own variables expanded, and nothing of the node's."""
    task = make_task("env", "/usr/bin/env", env=("SLOT={{.Task.Slot}}", "NAME={{ .Service.Name }}", "LANG"))
    await runtime.start(task)
    await runtime.wait(task)
    names = dict(line.split("=", 1) for line in output(runtime, task).splitlines())
    assert names["SLOT"] == "1"
    assert names["NAME"] == "web"
    assert names["HOST"] == names["SWARMPY_NODE_ADDRESS"] == "127.0.0.1"
    assert names["HOME"] == names["TMPDIR"] == str(runtime.log_path(task.id).parent)
    assert set(names) == {
        "PATH", "HOME", "TMPDIR", "HOST", "SWARMPY_NODE_ADDRESS", "SWARMPY_RUNTIME", "SWARMPY_UNIT", "SLOT", "NAME",
    }  # fmt: skip


async def test_nothing_of_the_daemon_is_handed_on(runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a variable of the daemon's nor an open file: not its sockets, not its key."""
    for name in ("HTTP_PROXY", "SWARMPY_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret-of-the-daemon")
    task = python_task("handed", HANDED)
    await runtime.start(task)
    await runtime.wait(task)
    environment, files = output(runtime, task).splitlines()
    assert "secret-of-the-daemon" not in environment
    null, out, err = ast.literal_eval(files)
    assert null == "/dev/null"
    assert out.startswith("pipe:")
    assert err.startswith("pipe:")
    assert out != err


async def test_no_shell_looks_at_a_command(runtime: ProcessRuntime) -> None:
    """The words of a command reach the program as they are, whatever a shell would make of them."""
    words = ("$(id)", "`id`", "a;id", "a && id", "| id", "> x", "*", "~", "$HOME", "a\nb", "'", '"', "\\", "", "-x")
    task = make_task("words", sys.executable, "-S", "-c", "import sys; print(sys.argv[1:])", args=words)
    await runtime.start(task)
    await runtime.wait(task)
    assert output(runtime, task) == f"{list(words)}\n"


async def test_a_task_with_a_port_is_running_when_it_listens(runtime: ProcessRuntime) -> None:
    """After start, the reported address answers at once."""
    ports = (PortConfig(target_port=80, published_port=8080), PortConfig(target_port=81, published_port=8081))
    task = python_task("port", LISTEN, ports)
    running = await runtime.start(task)
    first, second = running.ports
    assert (first.target_port, first.published_port, first.host_address) == (80, 8080, "127.0.0.1")
    assert first.host_port != second.host_port
    reader, writer = await asyncio.open_connection(first.host_address, first.host_port)
    assert await reader.read() == b"127.0.0.1"
    writer.close()
    assert await runtime.list_tasks() == {task.id: running}
    assert await runtime.start(task) == running
    await runtime.stop(task)


async def test_replicas_get_different_ports_and_a_host_port_only_one_holder(runtime: ProcessRuntime) -> None:
    """Each replica listens on its own port; a second task on the same host port fails with the port's number."""
    port = PortConfig(target_port=80, published_port=8080)
    tasks = [python_task(f"replica{n}", LISTEN, (port,)) for n in range(4)]
    running = await asyncio.gather(*(runtime.start(task) for task in tasks))
    chosen = {status.ports[0].host_port for status in running}
    assert len(chosen) == 4
    fixed = PortConfig(target_port=80, published_port=min(chosen), publish_mode="host")
    with pytest.raises(TaskFailed, match=f"port {min(chosen)}/tcp is already in use"):
        await runtime.start(python_task("second", LISTEN, (fixed,)))


async def test_a_task_that_dies_before_it_listens_has_failed(runtime: ProcessRuntime) -> None:
    """Start raises TaskFailed with the exit code when the process ends before it accepts connections."""
    task = make_task("dies", "/bin/false", ports=(PortConfig(target_port=80, published_port=80),))
    with pytest.raises(TaskFailed, match=r"non-zero exit \(1\)"):
        await runtime.start(task)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (make_task("none", "no-such-command-here"), "command not found: no-such-command-here; .*image 'anything:1'"),
        (make_task("image"), "service web has no command"),
        (make_task("user", "/bin/true", user="nobody-else"), "user 'nobody-else'"),
        (make_task("signal", "/bin/true", stop_signal="SIGFOO"), "stop signal 'SIGFOO'"),
        (make_task("template", "/bin/true", env=("A={{.Task.Slto}}",)), r"unknown placeholder \{\{.Task.Slto\}\}"),
    ],
)
async def test_what_cannot_run_is_rejected(runtime: ProcessRuntime, task: Task, reason: str) -> None:
    """Prepare says in one line why a task cannot run here."""
    with pytest.raises(TaskRejected, match=reason) as caught:
        await runtime.prepare(task)
    assert "\n" not in str(caught.value)


async def test_a_file_that_cannot_be_executed_is_rejected(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """A script whose interpreter is missing is rejected at start."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    task = make_task("script", str(script))
    await runtime.prepare(task)
    with pytest.raises(TaskRejected, match="cannot be executed: No such file"):
        await runtime.start(task)


async def test_stop_asks_with_term_first(runtime: ProcessRuntime) -> None:
    """A task that handles TERM ends with its own exit code."""
    task = make_task("term", "/bin/sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    await runtime.start(task)
    await eventually(lambda: "up" in output(runtime, task))
    await runtime.stop(task)
    assert (await runtime.wait(task)).exit_code == 3
    assert "bye" in output(runtime, task)


async def test_stop_kills_after_the_grace_period(runtime: ProcessRuntime) -> None:
    """A task that ignores TERM is killed when its grace period is over, and reports 137."""
    task = make_task(
        "stubborn", "/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done",
        stop_grace_period_ns=SECOND // 5,
    )  # fmt: skip
    await runtime.start(task)
    await eventually(lambda: "up" in output(runtime, task))
    started = asyncio.get_running_loop().time()
    await runtime.stop(task)
    assert asyncio.get_running_loop().time() - started >= 0.2
    assert (await runtime.wait(task)).exit_code == 137


async def test_stop_leaves_nothing_of_a_task_that_daemonised(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """A double-forked daemon in a session of its own goes with its task."""
    task = python_task("daemon", DAEMONISE)
    await runtime.start(task)
    await eventually(lambda: "daemon is up" in output(runtime, task))
    assert len(alive(tmp_path)) == 2
    await runtime.stop(task)
    assert alive(tmp_path) == []


async def test_the_end_of_a_command_ends_what_it_left_behind(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """As in a container, the first process's exit takes the background processes along."""
    task = make_task("leaves", "/bin/sh", "-c", "sleep 600 & sleep 600 & exit 4")
    await runtime.start(task)
    assert (await runtime.wait(task)).exit_code == 4
    assert alive(tmp_path) == []


async def test_remove_kills_and_deletes(runtime: ProcessRuntime) -> None:
    """Remove ends a running task and deletes its directory; removing and stopping what is not there is fine."""
    task = make_task("remove", "/bin/sleep", "600")
    await runtime.start(task)
    await runtime.remove(task.id)
    assert await runtime.list_tasks() == {}
    assert not runtime.log_path(task.id).parent.exists()
    await runtime.remove(task.id)
    await runtime.stop(task)
    assert "node was restarted" in (await runtime.wait(task)).error


async def test_a_healthcheck_holds_start_back(runtime: ProcessRuntime) -> None:
    """Start returns only when the probe has succeeded once."""
    check = Healthcheck(test=("CMD-SHELL", "test -e ready"), interval_ns=SECOND // 20, start_period_ns=30 * SECOND)
    task = make_task("healthy", "/bin/sh", "-c", "sleep 0.3; touch ready; exec sleep 600", healthcheck=check)
    await runtime.start(task)
    assert (runtime.log_path(task.id).parent / "ready").exists()


async def test_a_task_that_turns_unhealthy_is_ended(runtime: ProcessRuntime) -> None:
    """Three failed probes end the task, and wait says why."""
    check = Healthcheck(test=("CMD", "test", "!", "-e", "ill"), interval_ns=SECOND // 20)
    task = make_task("ill", "/bin/sleep", "600", healthcheck=check)
    await runtime.start(task)
    (runtime.log_path(task.id).parent / "ill").touch()
    ended = await runtime.wait(task)
    assert ended.error == "unhealthy container"


async def test_a_task_that_never_gets_healthy_fails_to_start(runtime: ProcessRuntime) -> None:
    """Start raises TaskFailed when the probes, also those that hang, use up their retries."""
    check = Healthcheck(test=("CMD-SHELL", "sleep 600"), interval_ns=SECOND // 20, timeout_ns=SECOND // 20, retries=2)
    task = make_task("never", "/bin/sleep", "600", healthcheck=check)
    with pytest.raises(TaskFailed, match="unhealthy container"):
        await runtime.start(task)


async def test_the_log_is_bounded(tmp_path: Path) -> None:
    """A task that writes without end does not fill the disk: its log is started anew."""
    runtime = make_runtime(tmp_path, log_limit_bytes=10_000)
    await runtime.open()
    task = make_task("writes", "/bin/sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done")
    await runtime.start(task)
    rotated = runtime.log_path(task.id).with_name("output.log.1")
    await eventually(rotated.exists)
    assert rotated.stat().st_size <= 10_000
    await runtime.close()


async def test_a_dead_warden_fails_its_tasks_and_is_replaced(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """When somebody kills the warden, its tasks end, are reported, and the next one runs under a new warden."""
    task = python_task("orphan", DAEMONISE)
    await runtime.start(task)
    await eventually(lambda: "daemon is up" in output(runtime, task))
    assert runtime._wardens.link is not None
    os.kill(runtime._wardens.link.pid, signal.SIGKILL)
    ended = await runtime.wait(task)
    assert (ended.exit_code, "warden" in ended.error) == (137, True)
    assert alive(tmp_path) == []
    again = make_task("again", "/bin/sh", "-c", "exit 5")
    await runtime.start(again)
    assert (await runtime.wait(again)).exit_code == 5


async def test_nothing_survives_the_kill_of_the_agent(tmp_path: Path) -> None:
    """kill -9 of the agent's process ends its warden, its tasks and their daemons."""
    environment = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path(__file__).parent}"}
    agent = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", AGENT, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True
    )
    with agent:
        assert agent.stdout is not None
        warden = int(await asyncio.to_thread(agent.stdout.readline))
        assert is_alive(warden)
        assert len(alive(tmp_path)) == 2
        agent.kill()
    await eventually(lambda: alive(tmp_path) == [] and not is_alive(warden))


async def test_an_exit_with_agent_and_warden_killed_is_cleared_by_the_next_run(tmp_path: Path) -> None:
    """When both are killed at once, a daemon may live on; the next open of the same directory ends it."""
    runtime = make_runtime(tmp_path)
    await runtime.open()
    task = python_task("both", DAEMONISE)
    await runtime.start(task)
    await eventually(lambda: "daemon is up" in output(runtime, task))
    leftover = runtime.log_path(task.id).parent
    stray = subprocess.Popen(  # noqa: ASYNC220
        ["/bin/sleep", "600"], env={"SWARMPY_RUNTIME": str(tmp_path / "tasks")}
    )
    await runtime.close()
    assert is_alive(stray.pid)
    runtime = make_runtime(tmp_path)
    await runtime.open()
    assert stray.wait(10) == -signal.SIGKILL
    assert not leftover.exists()
    assert await runtime.list_tasks() == {}
    await runtime.close()


async def test_a_closed_runtime_is_unavailable(tmp_path: Path) -> None:
    """Starting on a closed runtime raises RuntimeUnavailable, and closing twice is fine."""
    runtime = make_runtime(tmp_path)
    await runtime.open()
    await runtime.close()
    await runtime.close()
    with pytest.raises(RuntimeUnavailable):
        await runtime.start(make_task("late", "/bin/true"))


async def test_describe_tells_of_this_machine(runtime: ProcessRuntime) -> None:
    """The description offers the processors and the memory of the machine."""
    description = await runtime.describe()
    assert description.hostname == "host1"
    assert description.runtime == "process"
    assert description.resources.nano_cpus >= SECOND
    assert description.resources.memory_bytes > 1 << 20
    assert description.platform.architecture == os.uname().machine


async def test_many_nodes_live_in_one_process(tmp_path: Path) -> None:
    """Several runtimes with several tasks each start and end side by side, and end only their own."""
    runtimes = [make_runtime(tmp_path / str(n), f"127.0.0.{n + 2}") for n in range(3)]
    await asyncio.gather(*(runtime.open() for runtime in runtimes))
    port = PortConfig(target_port=80, published_port=8080)
    tasks = [[python_task(f"node{n}task{m}", LISTEN, (port,)) for m in range(5)] for n in range(3)]
    started = await asyncio.gather(
        *(runtime.start(task) for runtime, mine in zip(runtimes, tasks, strict=True) for task in mine)
    )
    assert len({running.ports[0].host_port for running in started}) == 15
    waits = [asyncio.create_task(runtimes[2].wait(task)) for task in tasks[2]]
    await asyncio.gather(*(runtime.close() for runtime in runtimes[:2]))
    assert [alive(tmp_path / str(n)) for n in range(2)] == [[], []]
    assert len(alive(tmp_path / "2")) == 5
    await runtimes[2].close()
    assert {(await wait).exit_code for wait in waits} == {143}


async def test_a_start_that_is_given_up_leaves_nothing_behind(runtime: ProcessRuntime, tmp_path: Path) -> None:
    """A start cancelled at any moment can be removed, and nothing of it runs on."""
    for number in range(5):
        task = python_task(f"cancelled{number}", LISTEN, (PortConfig(target_port=80, published_port=8080),))
        await runtime.prepare(task)
        starting = asyncio.create_task(runtime.start(task))
        for _ in range(number):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await runtime.remove(task.id)
    await eventually(lambda: alive(tmp_path) == [])

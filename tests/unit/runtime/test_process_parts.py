"""The pure parts of the process runtime: configuration, healthchecks, ports."""

from __future__ import annotations

import random
import signal
import socket
from typing import Any

import attrs
import pytest

from swarmpy.errors import TaskFailed, TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import PortStatus, Task
from swarmpy.model.specs import (
    ContainerSpec,
    GenericResource,
    Healthcheck,
    Mount,
    NetworkAttachment,
    PortConfig,
    TaskSpec,
)
from swarmpy.model.template import NodeFacts
from swarmpy.runtime.free_ports import FreePorts
from swarmpy.runtime.healthcheck import Health, HealthTracker, probe_command
from swarmpy.runtime.process_config import check_user, command_line, environment, ignored_fields, stop_signal

NODE = NodeFacts(id=NodeId("n1"), hostname="host1", address="10.0.0.7")
SECOND = 1_000_000_000


def make_task(**fields: Any) -> Task:
    container = attrs.evolve(ContainerSpec(image="app:1", command=("app",)), **fields)
    return Task(
        id=TaskId("t1"), spec=TaskSpec(container=container), service_id=ServiceId("s1"), service_name="web", slot=2
    )


def port_status(target: int, host_port: int) -> PortStatus:
    return PortStatus(target_port=target, host_address="10.0.0.7", host_port=host_port)


def test_command_and_arguments_are_joined() -> None:
    """The command line is Docker's entrypoint followed by its command, with known placeholders expanded."""
    task = make_task(args=("-n", "{{.Task.Slot}}", "{{.Other}}"))
    assert command_line(task, NODE) == ("app", "-n", "2", "{{.Other}}")
    with pytest.raises(TaskRejected, match=r"service web has no command.*'app:1'"):
        command_line(make_task(command=()), NODE)


def test_the_runtimes_ports_win_over_the_specs() -> None:
    """PORT is what the cluster routes to, whatever the spec says; other variables of the spec win over the base."""
    task = make_task(env=("PORT=1", "PORT_80=2", "PATH=/opt", "EMPTY=", "TMPDIR"))
    env = environment(task, NODE, path="/bin", home="/h", ports=(port_status(80, 20001), port_status(81, 20002)))
    assert env == {
        "PATH": "/opt", "HOME": "/h", "LANG": "C.UTF-8", "EMPTY": "", "HOST": "10.0.0.7",
        "SWARMPY_NODE_ADDRESS": "10.0.0.7", "PORT": "20001", "PORT_80": "20001", "PORT_81": "20002",
    }  # fmt: skip
    assert environment(task, NODE, path="/bin", home="/h", ports=())["PORT"] == "1"


def test_a_task_learns_what_it_got_of_its_node() -> None:
    """As a container does."""
    task = attrs.evolve(make_task(), generic=(GenericResource(kind="gpu", names=("a", "b")),))
    env = environment(task, NODE, path="/bin", home="/h", ports=())
    assert env["DOCKER_RESOURCE_GPU"] == "a,b"


@pytest.mark.parametrize("line", ["A=\0", "=x"])
def test_an_impossible_variable_is_rejected(line: str) -> None:
    """What no process can be given is refused, not passed to the system."""
    with pytest.raises(TaskRejected, match="environment variable"):
        environment(make_task(env=(line,)), NODE, path="/bin", home="/h", ports=())


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", signal.SIGTERM), ("SIGINT", signal.SIGINT), ("quit", signal.SIGQUIT), ("9", signal.SIGKILL)],
)
def test_stop_signals(given: str, expected: int) -> None:
    """By name, with or without SIG, or number; TERM otherwise."""
    assert stop_signal(make_task(stop_signal=given)) == expected


@pytest.mark.parametrize("given", ["SIGFOO", "0", "99", "-1"])
def test_unknown_stop_signals_are_rejected(given: str) -> None:
    """A signal that this machine does not have is named."""
    with pytest.raises(TaskRejected, match="stop signal"):
        stop_signal(make_task(stop_signal=given))


def test_only_the_nodes_own_user_is_accepted() -> None:
    """A task of another user is refused rather than run with the node's rights."""
    for user in ("", "me", "1000", "me:staff"):
        check_user(make_task(user=user), user="me", uid=1000)
    with pytest.raises(TaskRejected, match="user 'root'"):
        check_user(make_task(user="root"), user="me", uid=1000)


def test_ignored_fields_are_named() -> None:
    """What needs a container is listed by Docker's names."""
    assert ignored_fields(make_task()) == ()
    task = make_task(mounts=(Mount(target="/a"),), read_only=True)
    assert ignored_fields(task) == ("Mounts", "ReadOnly")


@pytest.mark.parametrize(("network", "ignored"), [("host", ()), ("bridge", ("Networks",)), ("back", ("Networks",))])
def test_a_process_is_in_the_hosts_network(network: str, ignored: tuple[str, ...]) -> None:
    """As it was asked to be, then."""
    task = make_task()
    spec = attrs.evolve(task.spec, networks=(NetworkAttachment(target=network),))
    assert ignored_fields(attrs.evolve(task, spec=spec)) == ignored


DONE = {
    "image", "labels", "command", "args", "env", "dir", "user", "stop_signal", "stop_grace_period_ns", "healthcheck",
    "secrets", "configs", "pull_secret_id",
}  # fmt: skip
"""What a plain process gets of a container's spec; the image and what it is pulled with are said not to be used."""


def test_whatever_is_not_done_is_named() -> None:
    """Each field of a container's spec is done or in the list: a new one cannot be forgotten."""
    some: dict[type, Any] = {tuple: ("x",), dict: {"a": "b"}, str: "x", bool: True, int: 1}
    for field in attrs.fields(ContainerSpec):
        default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default
        task = make_task(**{field.name: some.get(type(default), True)})
        assert bool(ignored_fields(task)) == (field.name not in DONE), field.name


def test_probe_commands() -> None:
    """CMD is run as it is, CMD-SHELL by the shell, NONE and nothing not at all."""
    assert probe_command(Healthcheck(test=("CMD", "a", "b"))) == ("a", "b")
    assert probe_command(Healthcheck(test=("CMD-SHELL", "a | b"))) == ("/bin/sh", "-c", "a | b")
    assert probe_command(Healthcheck(test=("NONE",))) == probe_command(Healthcheck()) == probe_command(None) == ()


def test_a_healthy_task_is_given_up_after_retries_in_a_row() -> None:
    """One success in between starts the count anew."""
    tracker = HealthTracker(Healthcheck(test=("CMD", "x"), interval_ns=10 * SECOND, retries=2), 0.0)
    assert tracker.pause == 1.0
    assert tracker.record(True, 1.0) is Health.HEALTHY
    assert tracker.pause == 10.0
    seen = [tracker.record(ok, 2.0) for ok in (False, True, False, False)]
    assert seen == [Health.HEALTHY, Health.HEALTHY, Health.HEALTHY, Health.UNHEALTHY]


def test_a_task_that_never_was_healthy_is_given_up_when_docker_would() -> None:
    """Start period and retries times the interval pass first, however often it is probed."""
    check = Healthcheck(test=("CMD", "x"), interval_ns=10 * SECOND, retries=3, start_period_ns=5 * SECOND)
    tracker = HealthTracker(check, 100.0)
    for second in range(35):
        assert tracker.record(False, 100.0 + second) is Health.STARTING
    assert tracker.record(False, 135.0) is Health.UNHEALTHY


def test_defaults_of_a_healthcheck_are_dockers() -> None:
    """Thirty seconds, thirty seconds, three times."""
    tracker = HealthTracker(Healthcheck(test=("CMD", "x")), 0.0)
    assert (tracker.interval, tracker.timeout, tracker.retries) == (30.0, 30.0, 3)


def test_a_port_is_given_to_one_only() -> None:
    """Two runtimes with the same random numbers still get different ports, and a released one is free again."""
    first, second = FreePorts(random.Random(7)), FreePorts(random.Random(7))
    port = first.take("tcp")
    assert second.take("tcp") != port
    with pytest.raises(TaskFailed, match=f"port {port}/tcp is already in use"):
        second.take_exactly(port, "tcp")
    first.release(port, "tcp")
    assert second.take_exactly(port, "tcp") == port
    first.close()
    second.close()


@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
def test_a_port_that_somebody_uses_is_not_given(kind: socket.SocketKind, protocol: str) -> None:
    """A listener on any address of the machine keeps its port."""
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.9", 0))
        if kind == socket.SOCK_STREAM:
            server.listen()
        port = server.getsockname()[1]
        ports = FreePorts(random.Random(1), first=port, last=port)
        with pytest.raises(TaskFailed, match="no free port is left"):
            ports.take(protocol)


def test_targets_share_their_port_and_a_failure_holds_none() -> None:
    """Ports of one target are one port of the machine; when one cannot be had, all are given back."""
    ports = FreePorts(random.Random(3))
    published = ports.take("tcp")
    ports.release(published, "tcp")
    a, b = PortConfig(target_port=80, published_port=8080), PortConfig(target_port=80, published_port=8081)
    host = PortConfig(target_port=80, published_port=published, publish_mode="host")
    statuses = ports.take_for((a, b, host), "10.0.0.7")
    assert {status.host_port for status in statuses} == {published}
    assert [status.published_port for status in statuses] == [8080, 8081, published]
    other = FreePorts(random.Random(3))
    wanted = PortConfig(target_port=81, published_port=published + 1, publish_mode="host")
    with pytest.raises(TaskFailed):
        other.take_for((wanted, host), "10.0.0.7")
    assert other.take_exactly(published + 1, "tcp")
    ports.give_back(statuses)
    assert other.take_exactly(published, "tcp")
    other.close()

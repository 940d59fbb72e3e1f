"""What an Engine says, in our words."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.errors import TaskError, TaskFailed, TaskRejected
from swarmpy.model.specs import GenericResource
from swarmpy.ports import TaskExit
from swarmpy.runtime.docker_state import create_refused, description, health, running_task, start_refused, task_exit

DRIVER = "driver failed programming external connectivity on endpoint x (c2): "
CREATE = "OCI runtime create failed: unable to start container process: "
TAKEN = TaskFailed("port 8080 is already in use on this node (0.0.0.0:8080)")
REFUSED_TO_START = [
    (DRIVER + "Bind for 0.0.0.0:8080 failed: port is already allocated", TAKEN),
    (DRIVER + "Error starting userland proxy: listen tcp4 0.0.0.0:8080: bind: address already in use", TAKEN),
    (
        DRIVER + "Error starting userland proxy: listen tcp4 10.9.9.9:0: bind: cannot assign requested address",
        TaskFailed("the node's address 10.9.9.9 is not an address of the engine's machine"),
    ),
    (
        CREATE + 'exec: "nope": executable file not found in $PATH: unknown',
        TaskFailed("command not found in image app:1: nope"),
    ),
    (
        "failed to create shim task: " + CREATE + 'exec: "/etc/passwd": permission denied: unknown',
        TaskFailed("command in image app:1 is not executable: /etc/passwd"),
    ),
    (
        CREATE + 'exec: "/no/app": stat /no/app: no such file or directory: unknown',
        TaskFailed("command not found in image app:1: /no/app"),
    ),
    ("something\nnew", TaskFailed("starting the container failed: something new")),
]


@pytest.mark.parametrize(("message", "expected"), REFUSED_TO_START)
def test_refusals_to_start(message: str, expected: TaskError) -> None:
    """The Engine's texts become one clear line; one that is not known is passed on."""
    error = start_refused(message, "app:1")
    assert (type(error), str(error)) == (type(expected), str(expected))


def test_refusals_to_create() -> None:
    """A missing bind source is named, anything else passed on, but not without end."""
    message = 'invalid mount config for type "bind": bind source path does not exist: /x'
    assert str(create_refused(message)) == "bind source path does not exist on this node: /x"
    error = create_refused("bad " * 1000)
    assert isinstance(error, TaskRejected)
    assert len(str(error)) < 500


def container(**state: Any) -> dict[str, Any]:
    return {"Id": "c1", "State": {"Status": "running", "Pid": 12, "ExitCode": 0, **state}, "Config": {"Labels": None}}


@pytest.mark.parametrize(
    ("inspected", "expected"),
    [
        (container(), None),
        (container(Status="created"), None),
        (container(Status="paused"), None),
        (container(Status="exited", ExitCode=3), TaskExit(exit_code=3)),
        (container(Status="exited", ExitCode=137, OOMKilled=True), TaskExit(exit_code=137, error="out of memory")),
        (container(Status="dead", ExitCode=1, Error="no\ndisk"), TaskExit(exit_code=1, error="no disk")),
        (None, TaskExit(exit_code=-1, error="the container was removed by somebody else")),
    ],
)
def test_how_containers_end(inspected: dict[str, Any] | None, expected: TaskExit | None) -> None:
    """An exit has a code, and a reason where there is one."""
    assert task_exit(inspected) == expected


def test_health_and_status_of_a_container() -> None:
    """A container without a healthcheck has no health; one without ports reports none."""
    assert health(container()) == health(container(Health={"Status": "none"})) == ""
    assert health(container(Health={"Status": "starting"})) == "starting"
    running = running_task(container(), "10.0.0.1")
    assert (running.container.container_id, running.container.pid, running.ports) == ("c1", 12, ())


def test_description_of_an_engine() -> None:
    """NCPU are whole cores, labels are pairs."""
    info = {"NCPU": 2, "MemTotal": 1024, "ServerVersion": "20.10", "Labels": ["a=b=c", "d"], "Architecture": "x86_64"}
    described = description(info, (), (), "host1")
    assert described.resources.nano_cpus == 2_000_000_000
    assert described.engine_labels == {"a": "b=c", "d": ""}
    assert (described.hostname, described.engine_version) == ("host1", "20.10")
    assert described.plugins == described.resources.generic == ()


def test_plugins_and_generic_resources_of_an_engine() -> None:
    """Drivers for logs that are plugins are in the list of plugins only; what the daemon was given comes first."""
    info = {
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge"],
            "Authorization": None,
            "Log": ["json-file"],
            "New": ["x"],
        },
        "GenericResources": [
            {"NamedResourceSpec": {"Kind": "gpu", "Value": "U2"}},
            {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 3}},
            {"NamedResourceSpec": {"Kind": "gpu", "Value": "U1"}},
            {"DiscreteResourceSpec": {"Kind": "fpga", "Value": 1}},
        ],
    }
    managed = [
        {"Name": "loki:latest", "Enabled": True, "Config": {"Interface": {"Types": ["docker.logdriver/1.0"]}}},
        {"Name": "off:latest", "Enabled": False, "Config": {"Interface": {"Types": ["docker.logdriver/1.0"]}}},
        {"Name": "ssh:1", "Enabled": True, "Config": {"Interface": {"Types": [{"Capability": "volumedriver"}]}}},
        {"Name": "odd:1", "Enabled": True, "Config": {"Interface": {"Types": ["docker.metricscollector/1.0"]}}},
    ]
    described = description(info, managed, (GenericResource(kind="ssd", count=1),), "host1")
    assert [(plugin.type, plugin.name) for plugin in described.plugins] == [
        ("log", "json-file"),
        ("log", "loki:latest"),
        ("network", "bridge"),
        ("volume", "local"),
        ("volume", "ssh:1"),
    ]
    unknown = description(info, None, (), "host1")
    assert [plugin.type for plugin in unknown.plugins] == ["network", "volume"]
    assert described.resources.generic == (
        GenericResource(kind="fpga", count=1),
        GenericResource(kind="gpu", names=("U2", "U1")),
        GenericResource(kind="ssd", count=1),
    )

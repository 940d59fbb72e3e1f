"""What is refused at the door: every text that would reach an engine, a path or a command line on some node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from api_world import World, ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmpy.api.api import Api
from swarmpy.errors import InvalidArgument
from swarmpy.node.restoring import read_backup


async def new_api() -> Api:
    """Of one manager that leads, and holds no service."""
    world = World("m1")
    world.elect("m1")
    await world.found()
    return world.apis["m1"]


@pytest.fixture
async def api() -> Api:
    """A manager's API."""
    return await new_api()


def spec(container: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox", **(container or {})}}, **fields}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (spec({"Image": "../../containers/x"}), 'ContainerSpec: "../../containers/x" is not a valid repository/tag'),
        (spec({"Image": "busybox; reboot"}), 'ContainerSpec: "busybox; reboot" is not a valid repository/tag'),
        (spec({"Image": "a" * 5000}), 'ContainerSpec: "aaa'),
        (spec({"Command": ["a\0"]}), "ContainerSpec: Command: 'a\\x00' has a NUL character"),
        (spec({"Env": ["=x"]}), "ContainerSpec: invalid environment variable '=x': it has no name"),
        (spec({"Hostname": "a b"}), "ContainerSpec: Hostname: 'a b' is not a host name"),
        (spec({"User": "a b"}), "ContainerSpec: User: 'a b' is not a user"),
        (spec({"Dir": "x"}), "ContainerSpec: Dir: 'x' is not a working directory"),
        (spec({"Mounts": [{"Type": "bind", "Source": "/a/../etc", "Target": "/x"}]}), "invalid mount config for type"),
        (spec({"Mounts": [{"Type": "volume", "Source": "../x", "Target": "/x"}]}), "invalid mount config for type"),
        (spec({"DNSConfig": {"Nameservers": ["a\nb"]}}), "ContainerSpec: DNSConfig.Nameservers: 'a\\nb' is not an IP"),
        (spec({"CapabilityAdd": ["a b"]}), "ContainerSpec: CapabilityAdd: 'a b' is not a capability"),
        (spec({"Sysctls": {"../x": "1"}}), "ContainerSpec: Sysctls: '../x' is not a kernel parameter"),
        (spec({"Ulimits": [{"Name": "x", "Soft": 1, "Hard": 1}]}), "ContainerSpec: Ulimits: 'x' is not a resource"),
        (spec({"Labels": {"": "x"}}), "ContainerSpec: Labels: a label has an empty name"),
        (spec(Labels={"a\nb": "x"}), "service labels: the name of the label 'a\\nb' has a control character"),
        (spec(Name="../x"), "name must be valid as a DNS name component"),
        (spec(EndpointSpec={"Ports": [{"Name": "a b", "TargetPort": 1}]}), "EndpointSpec: 'a b' is not the name of a"),
        (spec({"Env": [f"A{n}={'x' * 1000}" for n in range(200)]}), "the spec has "),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
async def test_one_line_names_the_field_and_the_reason(api: Api, body: dict[str, Any], message: str) -> None:
    """A service that no node should get is refused with 400, and nothing is stored; an update likewise."""
    status, answer = await ask(api, "POST", "/services/create", body)
    assert (status, answer["message"][: len(message)]) == (400, message)
    assert answer["message"].isprintable()
    assert len(answer["message"]) < 300
    assert await ask(api, "GET", "/services") == (200, [])
    await ask(api, "POST", "/services/create", spec())
    _, shown = await ask(api, "GET", "/services/web")
    version = str(shown["Version"]["Index"])
    status, answer = await ask(api, "POST", "/services/web/update", {**body, "Name": body["Name"]}, version=version)
    assert status == 400
    assert (await ask(api, "GET", "/services/web"))[1] == shown


@pytest.mark.parametrize(
    "container",
    [
        {"Privileges": {"CredentialSpec": {"File": "x"}}},
        {"Privileges": {"SELinuxContext": {"Disable": True, "User": "u"}}},
        {"Privileges": {"Seccomp": {"Mode": "custom"}}},
        {"Privileges": {"AppArmor": {"Mode": "sometimes"}}},
        {"OomScoreAdj": -1001},
        {"Isolation": "hyperv"},
        {"Mounts": [{"Type": "npipe", "Source": "a", "Target": "/x"}]},
        {"Mounts": [{"Type": "tmpfs", "Target": "/x", "BindOptions": {"CreateMountpoint": True}}]},
        {"Mounts": [{"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"Options": [["exec"]]}}]},
    ],
)
async def test_what_would_be_ignored_is_refused(api: Api, container: dict[str, Any]) -> None:
    """A restriction that is not kept, or a right that is not given, is not silently left out."""
    status, answer = await ask(api, "POST", "/services/create", spec(container))
    assert status == 400
    assert "schema version" not in answer["message"]


@pytest.mark.parametrize(
    "container",
    [
        {"Privileges": {"NoNewPrivileges": True}},
        {"OomScoreAdj": 5},
        {"Healthcheck": {"StartInterval": 10**9}},
        {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/x", "BindOptions": {"NonRecursive": True}}]},
    ],
)
async def test_what_older_managers_do_not_read_waits_for_them(api: Api, container: dict[str, Any]) -> None:
    """Nothing of it is stored before all managers are upgraded."""
    status, answer = await ask(api, "POST", "/services/create", spec(container))
    assert (status, "this needs schema version 8" in answer["message"]) == (400, True)
    assert await ask(api, "GET", "/services") == (200, [])


@pytest.mark.parametrize("path", ["/services/web/logs", "/tasks/t/logs"])
async def test_an_end_of_a_log_in_time_is_refused(api: Api, path: str) -> None:
    """Docker has it for containers only, and leaves it out here without a word; 0 is what its clients send for none."""
    await ask(api, "POST", "/services/create", spec())
    status, answer = await ask(api, "GET", path, stdout="1", until="1700000000")
    assert status == 400
    assert answer["message"] == "until is not supported for the logs of services and tasks: it is for containers"
    status, _ = await ask(api, "GET", "/tasks/nosuch/logs", stdout="1", until="0")
    assert status == 404


@pytest.mark.parametrize("ending", ["!", "_", "\n"])
async def test_a_long_name_takes_no_time(api: Api, ending: str) -> None:
    """A name that is almost one does not hold the leader's loop."""
    began = time.process_time()
    for body in (spec(Name="a" * 100_000 + ending), spec({"Image": "a-" * 100_000 + ending})):
        status, _ = await ask(api, "POST", "/services/create", body)
        assert status == 400
    for name in ("a" * 100_000 + ending, "a" * 40 + ending):
        node = {"Name": name, "Role": "worker", "Availability": "active"}
        assert (await ask(api, "POST", "/nodes/m1/update", node, version="1"))[0] == 400
    assert time.process_time() - began < 5


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["busybox", "/x", "bind", "a=b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["Image", "Labels", "Command", "Args", "Env", "Hostname", "Dir", "User", "Groups", "TTY", "ReadOnly", "Init",
     "StopSignal", "StopGracePeriod", "Healthcheck", "Mounts", "Hosts", "DNSConfig", "CapabilityAdd", "Sysctls",
     "Ulimits"]
)  # fmt: skip


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, values, max_size=4), st.just("web") | st.text(max_size=8))
async def test_any_body_is_answered(container: dict[str, Any], name: str) -> None:
    """Whatever is sent is done or refused with a line; there is no internal error."""
    status, answer = await ask(await new_api(), "POST", "/services/create", spec(container, Name=name))
    assert status in (201, 400)
    assert "ID" in answer or answer["message"].isprintable()


class _Clock:
    def time_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0


def test_a_backup_is_a_plain_file(tmp_path: Path) -> None:
    """A restore from a pipe, a device, a directory or a path that cannot be is refused; nothing waits."""
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, Path("/a\0b"), Path("/" + "a" * 5000)):
        with pytest.raises(InvalidArgument, match="cannot read ") as caught:
            read_backup(path, _Clock())
        assert str(caught.value).isprintable()

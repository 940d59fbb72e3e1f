"""Specs that no service can have: each is refused in one line that names the field, and nothing is stored of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from api_world import World, ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmpy.model import codec

GOOD: dict[str, Any] = {
    "Name": "web",
    "Labels": {"tier": "front"},
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:1",
            "Labels": {"a": "b"},
            "Command": ["/bin/sh"],
            "Args": ["-c", "sleep 1"],
            "Env": ["A=1", "B"],
            "Hostname": "h-{{.Task.Slot}}",
            "Dir": "/srv",
            "User": "1000:1000",
            "Groups": ["5"],
            "TTY": True,
            "OpenStdin": False,
            "ReadOnly": True,
            "Init": True,
            "StopSignal": "SIGTERM",
            "StopGracePeriod": 10**9,
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "StartPeriod": 0, "Retries": 3},
            "Mounts": [
                {"Type": "bind", "Source": "/s", "Target": "/t", "BindOptions": {"Propagation": "rslave"}},
                {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"DriverConfig": {"Name": "local"}}},
                {"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"SizeBytes": 2**20, "Mode": 0o700}},
            ],
            "Hosts": ["10.0.0.1 db"],
            "DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["example.org"], "Options": ["ndots:2"]},
            "CapabilityAdd": ["CAP_NET_ADMIN"],
            "CapabilityDrop": ["CAP_CHOWN"],
            "Sysctls": {"net.core.somaxconn": "9"},
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 9}],
        },
        "Resources": {
            "Limits": {"NanoCPUs": 10**9, "MemoryBytes": 2**26, "Pids": 100},
            "Reservations": {"NanoCPUs": 10**8, "MemoryBytes": 2**24},
        },
        "RestartPolicy": {"Condition": "on-failure", "Delay": 10**9, "MaxAttempts": 3, "Window": 10**9},
        "Placement": {
            "Constraints": ["node.role==worker"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}],
            "MaxReplicas": 2,
        },
        "LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}},
        "Networks": [{"Target": "back", "Aliases": ["web"]}],
        "ForceUpdate": 1,
        "Runtime": "container",
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {"Parallelism": 2, "Delay": 10**9, "Monitor": 10**9, "MaxFailureRatio": 0.5, "Order": "stop-first",
                     "FailureAction": "rollback", "ProgressDeadline": 10**9},
    "RollbackConfig": {"Parallelism": 1, "FailureAction": "pause"},
    "EndpointSpec": {
        "Mode": "vip",
        "Ports": [{"Name": "p", "Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}],
    },
}  # fmt: skip

HUGE = 2**63
CONTAINER, RESOURCES, RESTART = "TaskTemplate.ContainerSpec", "TaskTemplate.Resources", "TaskTemplate.RestartPolicy"
PLACEMENT, PORTS = "TaskTemplate.Placement", "EndpointSpec.Ports"

BAD: list[tuple[str, Any, str]] = [
    ("Name", "a" * 64, "name must be 63 characters or fewer"),
    ("Name", "a b", "name must be valid as a DNS name component"),
    ("Name", "a\0", "name must be valid as a DNS name component"),
    ("Name", 5, "Name: expected string, got number"),
    ("Labels", [], "Labels: expected object, got array"),
    ("Labels", {"": "x"}, "service labels: a label has an empty name"),
    ("Labels", {"a\n": "x"}, "service labels: the name of the label 'a\\n' has a control character"),
    ("Labels", {"a": "\0"}, "service labels: '\\x00' has a NUL character"),
    ("Labels", {"a": 5}, "Labels.a: expected string, got number"),
    ("Mode", "global", "Mode: expected object, got string"),
    ("Mode", {"Replicatd": {}}, "Mode: unknown service mode 'Replicatd', use Replicated, Global"),
    ("Mode.Global", {}, "Mode: must specify only one service mode"),
    ("Mode.Replicated.Replicas", -1, "Mode.Replicated.Replicas cannot be negative: -1"),
    ("Mode.Replicated.Replicas", HUGE, "Mode.Replicated.Replicas: 9223372036854775808 is not between"),
    ("Mode.Replicated.Replicas", 100_001, "Number of replicas must be 100000 or fewer: 100001"),
    ("Mode.Replicated.Replicas", 1.5, "Mode.Replicated.Replicas: expected integer, got number"),
    ("Mode.Replicated.Replicas", True, "Mode.Replicated.Replicas: expected integer, got boolean"),
    ("TaskTemplate", 5, "TaskTemplate: expected object, got number"),
    (CONTAINER, [], "TaskTemplate.ContainerSpec: expected object, got array"),
    (f"{CONTAINER}.Image", "", "ContainerSpec: image reference must be provided"),
    (f"{CONTAINER}.Image", "UP", 'ContainerSpec: "UP" is not a valid repository/tag'),
    (f"{CONTAINER}.Command", "sh", "TaskTemplate.ContainerSpec.Command: expected array, got string"),
    (f"{CONTAINER}.Args", ["a\0"], "ContainerSpec: Args: 'a\\x00' has a NUL character"),
    (f"{CONTAINER}.Env", ["=x"], "ContainerSpec: invalid environment variable '=x'"),
    (f"{CONTAINER}.Env", ["A=" + "x" * 200_000], "the spec has "),
    (f"{CONTAINER}.TTY", "yes", "TaskTemplate.ContainerSpec.TTY: expected boolean, got string"),
    (f"{CONTAINER}.Hostname", "a b", "ContainerSpec: Hostname: 'a b' is not a host name"),
    (f"{CONTAINER}.Dir", "rel", "ContainerSpec: Dir: 'rel' is not a working directory"),
    (f"{CONTAINER}.StopGracePeriod", -1, "TaskTemplate.ContainerSpec.StopGracePeriod cannot be negative: -1"),
    (f"{CONTAINER}.StopGracePeriod", "10s", "TaskTemplate.ContainerSpec.StopGracePeriod: expected integer, got string"),
    (f"{CONTAINER}.Healthcheck.Test", ["RUN"], "Healthcheck: test must start with NONE, CMD or CMD-SHELL"),
    (f"{CONTAINER}.Healthcheck.Interval", 5, "ContainerSpec: Interval in Healthcheck cannot be less than 1ms"),
    (f"{CONTAINER}.Healthcheck.Retries", -1, "TaskTemplate.ContainerSpec.Healthcheck.Retries cannot be neg"),
    (f"{CONTAINER}.Mounts", [{}], 'invalid mount config for type "volume": field Target must not be'),
    (f"{CONTAINER}.Mounts", [{"Target": "/a"}, {"Target": "/a/"}], "ContainerSpec: duplicate mount point: /a/"),
    (f"{CONTAINER}.Mounts", [{"Type": "bind", "Target": "/a"}], 'invalid mount config for type "bind": field So'),
    (f"{CONTAINER}.Mounts", [{"Type": "x", "Target": "/a"}], "mount type unknown: 'x', use bind, volume or tmpfs (Con"),
    (f"{CONTAINER}.Mounts", [{"Target": "/a", "TmpfsOptions": {"Mode": 1}}],
     'invalid mount config for type "volume": field TmpfsOptions must not be specified (ContainerSpec.Mounts[0])'),
    (f"{CONTAINER}.Mounts", [{"Type": "tmpfs", "Target": "/a", "BindOptions": {"Propagation": "shared"}}],
     'invalid mount config for type "tmpfs": field BindOptions must not be specified (ContainerSpec.Mounts[0])'),
    (f"{CONTAINER}.Mounts", ["/a"], "TaskTemplate.ContainerSpec.Mounts[0]: expected object, got string"),
    (f"{CONTAINER}.Hosts", ["x y"], "ContainerSpec: Hosts: 'x' is not an IP address"),
    (f"{CONTAINER}.Sysctls", {"x": "1"}, "ContainerSpec: Sysctls: 'x' is not a kernel parameter"),
    (f"{CONTAINER}.Ulimits", [{"Name": "nofile", "Soft": 2, "Hard": 1}], "ContainerSpec: Ulimits: nofile: the soft"),
    (f"{CONTAINER}.Ulimits", [{"Name": "core"}, {"Name": "core"}], "ContainerSpec: Ulimits: core is given twice"),
    (f"{CONTAINER}.Secrets", [{"SecretID": "x", "SecretName": "y", "File": {"Name": "z"}}], "secret not found: y"),
    (f"{CONTAINER}.Configs", [{"ConfigID": "x"}], "malformed config reference, no target provided"),
    (f"{RESOURCES}.Limits.NanoCPUs", 5, "invalid cpu value 5e-09: Must be at least 0.001 (Limits.NanoCPUs)"),
    (f"{RESOURCES}.Limits.NanoCPUs", -1, "TaskTemplate.Resources.Limits.NanoCPUs cannot be negative: -1"),
    (f"{RESOURCES}.Limits.MemoryBytes", 9, "invalid memory value 9: Must be at least 4MiB (Limits.MemoryBytes)"),
    (f"{RESOURCES}.Limits.Pids", -2, "TaskTemplate.Resources.Limits.Pids: -2 is not between -1 and"),
    (f"{RESOURCES}.Reservations.MemoryBytes", 2**30,
     "invalid memory value 1073741824: more is reserved than the limit of 67108864 allows (Reservations.MemoryBytes)"),
    (f"{RESOURCES}.Reservations.NanoCPUs", 2 * 10**9,
     "invalid cpu value 2: more is reserved than the limit of 1 allows (Reservations.NanoCPUs)"),
    (f"{RESTART}.Condition", "sometimes", 'invalid RestartCondition: "sometimes"'),
    (f"{RESTART}.Delay", -1, "TaskTemplate.RestartPolicy.Delay cannot be negative: -1"),
    (f"{RESTART}.MaxAttempts", 1.0, "TaskTemplate.RestartPolicy.MaxAttempts: expected integer, got number"),
    (f"{PLACEMENT}.Constraints", ["a=b"], "constraint expected one operator from ==, != (in 'a=b') (Placement.Cons"),
    (f"{PLACEMENT}.Constraints", ["==b"], "key '' is invalid (Placement.Constraints: '==b')"),
    (f"{PLACEMENT}.Constraints", ["node.id==\0"], "value '\\x00' is invalid (Placement.Constraints: "),
    (f"{PLACEMENT}.Preferences", [{}], "invalid spread preference '': use node.labels.NAME or engine.labels.NAME (Pla"),
    (f"{PLACEMENT}.MaxReplicas", -1, "TaskTemplate.Placement.MaxReplicas cannot be negative: -1"),
    ("TaskTemplate.LogDriver.Name", "a b", "TaskSpec: LogDriver: 'a b' is not the name of a driver"),
    ("TaskTemplate.Networks", [{"Target": "a b"}], "TaskSpec: Networks: 'a b' is not a name"),
    ("TaskTemplate.Networks", [{"Target": "x", "DriverOpts": {"a": "b"}}],
     "TaskTemplate.Networks[0].DriverOpts is not supported: it is for the drivers of overlay networks"),
    ("TaskTemplate.ForceUpdate", -1, "TaskTemplate.ForceUpdate cannot be negative: -1"),
    ("TaskTemplate.Runtime", "plugin", "TaskTemplate.Runtime 'plugin' is not supported yet"),
    ("UpdateConfig.Parallelism", -1, "UpdateConfig.Parallelism cannot be negative: -1"),
    ("UpdateConfig.Delay", "5s", "UpdateConfig.Delay: expected integer, got string"),
    ("UpdateConfig.MaxFailureRatio", 1.1, "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"),
    ("UpdateConfig.MaxFailureRatio", -0.1, "UpdateConfig.MaxFailureRatio: -0.1 is out of range"),
    ("UpdateConfig.MaxFailureRatio", float("nan"), "invalid JSON in request body: NaN is no JSON number"),
    ("UpdateConfig.MaxFailureRatio", 10**400, "UpdateConfig.MaxFailureRatio: 1000000000000000000000... is out"),
    ("UpdateConfig.FailureAction", "explode", "unrecognized update failure action explode"),
    ("UpdateConfig.Order", "sideways", "unrecognized update order sideways"),
    ("UpdateConfig.ProgressDeadline", -1, "UpdateConfig.ProgressDeadline cannot be negative: -1"),
    ("RollbackConfig.FailureAction", "rollback", "unrecognized rollback failure action rollback"),
    ("EndpointSpec.Mode", "magic", "EndpointSpec: invalid mode 'magic', use vip or dnsrr"),
    ("EndpointSpec.Mode", "dnsrr", "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"),
    (PORTS, [{"TargetPort": 0}], "EndpointSpec: invalid target port 0: must be 1-65535"),
    (PORTS, [{"TargetPort": 70000}], "EndpointSpec.Ports[0].TargetPort: 70000 is not between 0 and 65535"),
    (PORTS, [{"TargetPort": 1, "PublishedPort": 9}, {"TargetPort": 2, "PublishedPort": 9}],
     "EndpointSpec: duplicate published ports provided: 9/tcp"),
    (PORTS, [{"TargetPort": 80, "Protocol": "icmp"}], "EndpointSpec: invalid protocol 'icmp', use tcp, udp or sctp"),
    (PORTS, [{"TargetPort": 80, "PublishMode": "all"}], "EndpointSpec: invalid publish mode 'all', use"),
]  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good spec with one bad value."""
    spec = copy.deepcopy(GOOD)
    inner = spec
    *outer, last = path.split(".")
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return spec


@pytest.fixture
async def world() -> World:
    """One manager that leads."""
    world = World("m1")
    world.elect("m1")
    await world.found(schema=codec.SCHEMA_VERSION)
    return world


async def test_each_bad_field_is_named(world: World) -> None:
    """400, one line; whoever creates a service so and whoever updates one hears the same, and nothing is stored."""
    api, store = world.apis["m1"], world.leader.store
    assert (await ask(api, "POST", "/services/create", {**GOOD, "Name": "own"}))[0] == 201
    stored = store.view().services()
    version = {"version": str(store.view().services()[0].meta.version)}
    for path, value, words in BAD:
        body = json.dumps(changed(path, value)).encode()
        status, answer = await ask(api, "POST", "/services/create", body)
        assert (status, answer["message"][: len(words)]) == (400, words)
        assert answer["message"].isprintable()
        if path not in ("Name", "EndpointSpec.Mode") and not path.startswith("Mode"):
            body = json.dumps({**changed(path, value), "Name": "own"}).encode()
            assert await ask(api, "POST", "/services/own/update", body, **version) == (400, answer)
    assert store.view().services() == stored


async def test_what_cannot_be_placed_is_no_mistake(world: World) -> None:
    """More than any node has, and constraints that exclude each other: nodes may come that the tasks fit on."""
    spec = changed(f"{PLACEMENT}.Constraints", ["node.role==worker", "node.role==manager"])
    spec["TaskTemplate"]["Resources"] = {"Reservations": {"MemoryBytes": 2**50, "NanoCPUs": 10**15}}
    assert (await ask(world.apis["m1"], "POST", "/services/create", spec))[0] == 201


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/secrets/create", {"Name": "a b", "Data": "eA=="}, "invalid name 'a b', only 64 [a-zA-Z0-9-_.] characters"),
        ("/secrets/create", {"Name": "a", "Data": "x"}, "illegal base64 data at input byte 0"),
        ("/secrets/create", {"Name": "a", "Data": ""}, "secret data must be larger than 0 and less than"),
        ("/secrets/create", {"Name": "a", "Data": "eA==", "Labels": {"": ""}}, "secret labels: a label has an empty"),
        ("/configs/create", {"Name": "a", "Data": 5}, "Data: expected string, got number"),
        ("/configs/create", {"Name": "a", "Data": "eA==", "Templating": {"Name": "jinja"}}, "config a: unknown te"),
        ("/nodes/w1/update", {"Role": "boss"}, 'invalid Role: "boss"'),
        ("/nodes/w1/update", {"Role": "worker", "Availability": "x"}, 'invalid Availability: "x"'),
        ("/nodes/w1/update", {"Role": "worker", "Labels": {"a\0": ""}}, "node labels: the name of the label"),
        ("/swarm/update", {"Dispatcher": {"HeartbeatPeriod": 1}}, "Dispatcher.HeartbeatPeriod is 1e-09 s: it must be"),
        ("/swarm/update", {"Raft": {"ElectionTick": 1}}, "the election timeout of 100 ms is too short"),
        ("/swarm/update", {"CAConfig": {"NodeCertExpiry": 5}}, "node certificates must be val"),
        ("/swarm/update", {"Orchestration": {"TaskHistoryRetentionLimit": 1.5}}, "Orchestration.TaskHistory"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_other_objects_is_named(world: World, path: str, body: Any, words: str) -> None:
    """Secrets, configs, nodes and the cluster are as strict."""
    version = world.leader.store.version
    index = {} if path.endswith("create") else {"version": str(version)}
    status, answer = await ask(world.apis["m1"], "POST", path, body, **index)
    assert (status, answer["message"][: len(words)]) == (400, words)
    assert world.leader.store.version == version


# -- any change at all ------------------------------------------------------------------------------------------------


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all that is in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, item in inner for place in paths(item, (*here, key)))]


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(2**62, 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["\0", "\x1b[31m", "{{.Task.ID}}", "{{", "/", "..", "a" * 300, -1, 0, 1e308, "none", "any"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner), max_leaves=5
)


def mutated(spec: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """``spec`` with some of its places replaced, as far as they are still there."""
    out = copy.deepcopy(spec)
    for place, value in changes:
        if not place:
            return value
        inner = out
        try:
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue
    return out


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.lists(st.tuples(st.sampled_from(paths(GOOD)), VALUES), min_size=1, max_size=3))
async def test_no_change_of_a_spec_is_a_defect(world: World, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """Whatever is put where, the service is made or refused by one line; what was refused is not there."""
    api, store = world.apis["m1"], world.leader.store
    body = json.dumps(mutated(GOOD, changes)).encode()
    before = store.version
    status, answer = await ask(api, "POST", "/services/create", body)
    assert status in (201, 400), answer
    if status == 400:
        assert answer["message"]
        assert answer["message"].isprintable(), answer
        assert store.version == before
    else:
        assert (await ask(api, "GET", f"/services/{answer['ID']}"))[0] == 200
        assert (await ask(api, "DELETE", f"/services/{answer['ID']}"))[0] == 200

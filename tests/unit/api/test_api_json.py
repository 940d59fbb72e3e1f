"""Docker's JSON, both ways."""

from __future__ import annotations

import json
import re
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_spec import WHOLE

from swarmpy.api.docker_json import (
    node_spec_from_json,
    node_spec_to_json,
    parse_json,
    rfc3339_nano,
    service_spec_from_json,
    service_spec_to_json,
    service_to_json,
    task_to_json,
)
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import ContainerStatus, Meta, PortStatus, Service, Task, TaskStatus, UpdateStatus
from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext
from swarmpy.model.specs import (
    ConfigReference,
    ContainerSpec,
    EndpointSpec,
    FileTarget,
    GenericResource,
    Healthcheck,
    LogDriver,
    MaxUnavailable,
    Mount,
    NetworkAttachment,
    NodeSpec,
    Placement,
    Platform,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    SecretReference,
    ServiceSpec,
    TaskSpec,
    Ulimit,
    UpdateConfig,
)
from swarmpy.model.states import Availability, Role, ServiceMode, TaskState, UpdateState

# What docker service create of CLI 28 sends for
#   --name web --replicas 2 -p 8080:80 -e A=1 --init --mount type=tmpfs,dst=/t,tmpfs-size=1m busybox sleep 1
SENT = {
    "Name": "web",
    "TaskTemplate": {
        "ContainerSpec": {
            "Image": "busybox:latest",
            "Args": ["sleep", "1"],
            "Env": ["A=1"],
            "Privileges": None,
            "Init": True,
            "StopGracePeriod": 10_000_000_000,
            "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1_048_576}}],
            "DNSConfig": {},
        },
        "Resources": {"Limits": {}, "Reservations": {}},
        "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0},
        "Placement": {},
        "ForceUpdate": 0,
    },
    "Mode": {"Replicated": {"Replicas": 2}},
    "UpdateConfig": {
        "Parallelism": 1,
        "FailureAction": "pause",
        "Monitor": 5_000_000_000,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
    },
    "EndpointSpec": {"Mode": "vip", "Ports": [{"TargetPort": 80, "PublishedPort": 8080}]},
}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
LABELS = st.dictionaries(TEXT, st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=2)
COUNT = st.integers(0, 2**63 - 1)
MAYBE_COUNT = st.none() | COUNT
LIMITS = st.builds(Resources, nano_cpus=COUNT, memory_bytes=COUNT, pids=COUNT)
GENERIC = st.lists(st.builds(GenericResource, kind=TEXT, count=COUNT), max_size=2).map(tuple)
RESERVATIONS = st.builds(Resources, nano_cpus=COUNT, memory_bytes=COUNT, generic=GENERIC)
PLATFORMS = st.lists(st.builds(Platform, architecture=st.just("") | TEXT, os=st.just("") | TEXT), max_size=2).map(tuple)
WORD = st.just("") | TEXT
PRIVILEGES = st.builds(
    Privileges,
    selinux=st.none() | st.builds(SELinuxContext, disable=st.booleans(), user=WORD, role=WORD, type=WORD, level=WORD),
    seccomp=st.none() | st.builds(Seccomp, mode=TEXT, profile=st.binary(max_size=5)),
    apparmor=st.none() | TEXT,
    no_new_privileges=st.booleans(),
).filter(lambda privileges: privileges != Privileges())

NUMBERS = st.integers(0, 2**32).map(str)
FILES = st.builds(FileTarget, name=TEXT, uid=NUMBERS, gid=NUMBERS, mode=st.integers(0, 2**32 - 1))
CONTAINERS = st.builds(
    ContainerSpec,
    image=TEXT,
    labels=LABELS,
    command=TEXTS,
    args=TEXTS,
    env=TEXTS,
    hostname=TEXT,
    dir=TEXT,
    user=TEXT,
    groups=TEXTS,
    tty=st.booleans(),
    open_stdin=st.booleans(),
    read_only=st.booleans(),
    init=st.none() | st.booleans(),
    stop_signal=TEXT,
    stop_grace_period_ns=MAYBE_COUNT,
    healthcheck=st.none()
    | st.builds(
        Healthcheck,
        test=TEXTS,
        interval_ns=COUNT,
        timeout_ns=COUNT,
        start_period_ns=COUNT,
        retries=COUNT,
        start_interval_ns=COUNT,
    ),
    mounts=st.lists(
        st.builds(
            Mount,
            type=TEXT,
            source=TEXT,
            target=TEXT,
            read_only=st.booleans(),
            bind_propagation=TEXT,
            volume_no_copy=st.booleans(),
            volume_labels=LABELS,
            volume_driver=TEXT,
            volume_driver_opts=LABELS,
            tmpfs_size_bytes=COUNT,
            tmpfs_mode=st.integers(0, 0o7777),
            consistency=TEXT,
            bind_non_recursive=st.booleans(),
            bind_create_mountpoint=st.booleans(),
            bind_read_only_non_recursive=st.booleans(),
            bind_read_only_force_recursive=st.booleans(),
            volume_subpath=TEXT,
        ),
        max_size=2,
    ).map(tuple),
    hosts=TEXTS,
    dns_nameservers=TEXTS,
    dns_search=TEXTS,
    dns_options=TEXTS,
    capability_add=TEXTS,
    capability_drop=TEXTS,
    sysctls=LABELS,
    ulimits=st.lists(st.builds(Ulimit, name=TEXT, soft=COUNT, hard=COUNT), max_size=2).map(tuple),
    privileges=st.none() | PRIVILEGES,
    oom_score_adj=st.integers(-1000, 1000),
    secrets=st.lists(st.builds(SecretReference, secret_id=TEXT, secret_name=TEXT, file=FILES), max_size=2).map(tuple),
    configs=st.lists(st.builds(ConfigReference, config_id=TEXT, config_name=TEXT, file=FILES), max_size=2).map(tuple),
)
TASKS = st.builds(
    TaskSpec,
    container=CONTAINERS,
    resources=st.none()
    | st.builds(ResourceRequirements, limits=st.none() | LIMITS, reservations=st.none() | RESERVATIONS),
    restart=st.none()
    | st.builds(
        RestartPolicy,
        condition=st.none() | TEXT,
        delay_ns=MAYBE_COUNT,
        max_attempts=MAYBE_COUNT,
        window_ns=MAYBE_COUNT,
    ),
    placement=st.none()
    | st.builds(Placement, constraints=TEXTS, spread=TEXTS, max_replicas=COUNT, platforms=PLATFORMS),
    log_driver=st.none() | st.builds(LogDriver, name=TEXT, options=LABELS),
    networks=st.lists(st.builds(NetworkAttachment, target=TEXT, aliases=TEXTS), max_size=2).map(tuple),
    force_update=COUNT,
)
UPDATES = st.none() | st.builds(
    UpdateConfig,
    parallelism=COUNT,
    delay_ns=MAYBE_COUNT,
    failure_action=st.none() | TEXT,
    monitor_ns=st.none() | st.integers(1, 2**63 - 1),
    max_failure_ratio=st.none() | st.floats(0, 1),
    order=st.none() | TEXT,
)
PORT = st.integers(0, 65_535)
PORTS = st.builds(PortConfig, name=TEXT, protocol=TEXT, target_port=PORT, published_port=PORT, publish_mode=TEXT)
SERVICES = st.builds(
    ServiceSpec,
    name=TEXT,
    labels=LABELS,
    task=TASKS,
    mode=st.just(ServiceMode.REPLICATED),
    replicas=COUNT,
    update=UPDATES,
    rollback=UPDATES,
    endpoint=st.none() | st.builds(EndpointSpec, mode=TEXT, ports=st.lists(PORTS, max_size=2).map(tuple)),
)


@given(SERVICES)
def test_a_service_spec_survives_its_way_as_json(spec: ServiceSpec) -> None:
    """A spec that is sent as JSON arrives as it was."""
    assert service_spec_from_json(json.loads(json.dumps(service_spec_to_json(spec)))) == spec


ELSEWHERE = {"names", "pull_secret_id", "max_concurrent", "total_completions", "mode"}
"""Of nodes; of the credentials, which come with a header; of jobs."""


def test_every_field_comes_back_as_it_was_sent() -> None:
    """Whatever Docker's API has of a service is read, kept and shown; no new field of the spec can be forgotten."""
    spec = service_spec_from_json(WHOLE)
    assert service_spec_to_json(spec) == WHOLE
    given: dict[str, set[Any]] = {}
    _collect(spec, given)
    left_out = {name for name, values in given.items() if values == {True}}
    assert {name.partition(".")[2] for name in left_out} == ELSEWHERE


def _collect(value: Any, given: dict[str, set[Any]]) -> None:
    """By class and field: whether it is at its default, in each object there is."""
    if isinstance(value, tuple):
        for item in value:
            _collect(item, given)
    if attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            inner = getattr(value, field.name)
            default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default
            given.setdefault(f"{type(value).__name__}.{field.name}", set()).add(inner == default)
            _collect(inner, given)


NAMES = (
    *("Name", "Labels", "TaskTemplate", "Mode", "UpdateConfig", "EndpointSpec", "ContainerSpec", "Image", "Env"),
    *("Mounts", "Replicated", "Replicas", "Global", "Ports", "TargetPort", "Resources", "Limits", "MemoryBytes"),
    *("Networks", "Target", "Healthcheck", "Test", "Ulimits", "Secrets", "Preferences"),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=25,
)


@given(ANYTHING)
def test_nonsense_is_refused_and_never_a_defect(data: Any) -> None:
    """Whatever JSON comes in, the outcome is a spec or InvalidArgument, and a spec can be shown again."""
    try:
        spec = service_spec_from_json(data)
    except InvalidArgument:
        return
    assert service_spec_from_json(service_spec_to_json(spec)) == spec


def test_the_spec_comes_back_as_it_was_sent_with_dockers_additions() -> None:
    """Inspect shows what the CLI sent, plus only what Docker adds."""
    shown = service_spec_to_json(service_spec_from_json(SENT))
    expected = json.loads(json.dumps(SENT))
    container = expected["TaskTemplate"]["ContainerSpec"]
    del container["Privileges"], container["DNSConfig"]
    container["Isolation"] = "default"
    expected["Labels"] = {}
    expected["TaskTemplate"]["Runtime"] = "container"
    port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
    expected["EndpointSpec"]["Ports"] = [port]
    assert shown == expected


def test_what_was_not_given_stays_absent_unless_defaults_are_asked_for() -> None:
    """insertDefaults fills in what an empty spec means."""
    spec = service_spec_from_json({"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}})
    plain = service_spec_to_json(spec)
    assert plain.keys() == {"Name", "Labels", "TaskTemplate", "Mode"}
    assert plain["TaskTemplate"].keys() == {"ContainerSpec", "ForceUpdate", "Runtime"}
    assert plain["Mode"] == {"Replicated": {"Replicas": 1}}
    full = service_spec_to_json(spec, insert_defaults=True)
    update = {
        "Parallelism": 1,
        "Delay": 0,
        "FailureAction": "pause",
        "Monitor": 5_000_000_000,
        "MaxFailureRatio": 0,
        "Order": "stop-first",
        "ProgressDeadline": 600_000_000_000,
    }
    assert full["UpdateConfig"] == full["RollbackConfig"] == update
    assert full["TaskTemplate"]["RestartPolicy"] == {"Condition": "any", "Delay": 5_000_000_000, "MaxAttempts": 0}
    assert full["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] == 10_000_000_000
    assert full["TaskTemplate"]["Placement"] == full["TaskTemplate"]["Resources"] == {}


def test_how_many_tasks_may_be_missing() -> None:
    """A number or a percentage, as it was sent."""
    for sent in (2, "25%"):
        spec = service_spec_from_json({"Name": "web", "MaxUnavailable": sent})
        assert service_spec_to_json(spec)["MaxUnavailable"] == sent
    assert service_spec_from_json({"MaxUnavailable": "2"}).max_unavailable == MaxUnavailable(amount=2)
    assert service_spec_from_json({"MaxUnavailable": None}).max_unavailable is None
    for wrong in (0, "0%", "101%", -1, 1.5, True, [], "many", "1e3", "٣"):
        with pytest.raises(InvalidArgument, match="MaxUnavailable"):
            service_spec_from_json({"MaxUnavailable": wrong})


def test_names_match_in_any_case() -> None:
    """docker-py's lower-case mode keys are understood."""
    assert service_spec_from_json({"Mode": {"replicated": {"Replicas": 3}}}).replicas == 3
    assert service_spec_from_json({"Mode": {"global": {}}}).mode is ServiceMode.GLOBAL


def test_networks_of_the_old_place_are_taken() -> None:
    """The service's own Networks count when the task template has none."""
    spec = service_spec_from_json({"Networks": [{"Target": "back", "Aliases": ["db"]}]})
    assert spec.task.networks == (NetworkAttachment(target="back", aliases=("db",)),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "request body: expected object, got array"),
        (
            {
                "TaskTemplate": {
                    "Resources": {
                        "Reservations": {"GenericResources": [{"NamedResourceSpec": {"Kind": "gpu", "Value": "U1"}}]}
                    }
                }
            },
            "TaskTemplate.Resources.Reservations.GenericResources[0].NamedResourceSpec: which 'gpu' a task gets is up",
        ),
        (
            {"TaskTemplate": {"ContainerSpec": {"Env": [1]}}},
            "TaskTemplate.ContainerSpec.Env[0]: expected string, got number",
        ),
        ({"TaskTemplate": {"ContainerSpec": {"TTY": "yes"}}}, "TaskTemplate.ContainerSpec.TTY: expected boolean"),
        ({"Labels": {"a": 1}}, "Labels.a: expected string, got number"),
        ({"Mode": {"Replicated": {"Replicas": -1}}}, "Mode.Replicated.Replicas cannot be negative: -1"),
        ({"Mode": {"Replicated": {"Replicas": True}}}, "Mode.Replicated.Replicas: expected integer, got boolean"),
        ({"Mode": {"Replicated": {"Replicas": 2**63}}}, "is not between 0 and"),
        ({"Mode": {"Replicated": {}, "Global": {}}}, "only one service mode"),
        (
            {"EndpointSpec": {"Ports": [{"TargetPort": 70000}]}},
            "EndpointSpec.Ports[0].TargetPort: 70000 is not between",
        ),
        ({"UpdateConfig": {"MaxFailureRatio": 1e400}}, "UpdateConfig.MaxFailureRatio: inf is out of range"),
        ({"Name": "a\ud800"}, "Name: half of a surrogate pair"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(data: Any, message: str) -> None:
    """The error says which field is wrong and what it should be."""
    with pytest.raises(InvalidArgument) as caught:
        service_spec_from_json(data)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("TaskTemplate.ContainerSpec.Privileges.CredentialSpec", {"File": "x"}),
        ("TaskTemplate.ContainerSpec.Mounts[0].TmpfsOptions.Options", [["exec"]]),
        ("TaskTemplate.Resources.Limits.GenericResources", [{"DiscreteResourceSpec": {"Kind": "GPU", "Value": 1}}]),
        ("TaskTemplate.Resources.Reservations.Pids", 5),
        ("TaskTemplate.Resources.SwapBytes", 5),
        ("TaskTemplate.Networks[0].DriverOpts", {"a": "b"}),
        ("TaskTemplate.PluginSpec", {"Name": "p"}),
    ],
)
def test_what_would_silently_change_meaning_is_refused(path: str, value: Any) -> None:
    """Fields that swarmpy cannot honour are refused by name, and ignored when they ask for nothing."""
    with pytest.raises(InvalidArgument, match=f"{re.escape(path)} is not supported"):
        service_spec_from_json(_nested(path, value))
    service_spec_from_json(_nested(path, None))


def _nested(path: str, value: Any) -> Any:
    for name in reversed(path.split(".")):
        value = {name.removesuffix("[0]"): [value] if name.endswith("[0]") else value}
    return value


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b"\xff", b"[" * 100_000, b"NaN", b"1" * 5000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    """Empty, broken, undecodable, endlessly nested and oversized-number bodies are InvalidArgument."""
    with pytest.raises(InvalidArgument):
        parse_json(body)


def test_a_service_is_shown_with_its_ports_and_update() -> None:
    """The object has version, times, endpoint, update status; times have as many digits as needed."""
    spec = service_spec_from_json(SENT)
    service = Service(
        id=ServiceId("s1"),
        meta=Meta(version=7, created_at_ns=1_000_000_000_120_000_000, updated_at_ns=1_000_000_001_000_000_000),
        spec=spec,
        previous_spec=spec,
        ports=(PortConfig(target_port=80, published_port=30_000),),
        update_status=UpdateStatus(
            state=UpdateState.PAUSED, started_at_ns=1_000_000_000_000_000_000, message="update paused"
        ),
    )
    shown = service_to_json(service)
    assert shown["Version"] == {"Index": 7}
    assert (shown["CreatedAt"], shown["UpdatedAt"]) == ("2001-09-09T01:46:40.12Z", "2001-09-09T01:46:41Z")
    assert shown["Endpoint"]["Spec"]["Mode"] == "vip"
    assert shown["Endpoint"]["Ports"][0]["PublishedPort"] == 30_000
    assert shown["UpdateStatus"] == {
        "State": "paused",
        "StartedAt": "2001-09-09T01:46:40Z",
        "Message": "update paused",
    }
    assert shown["PreviousSpec"] == shown["Spec"]
    assert "ServiceStatus" not in shown


def test_a_service_without_ports_has_an_empty_endpoint_and_a_mode() -> None:
    """The endpoint is empty, while the spec says vip for clients that take a missing mode for unreachable."""
    shown = service_to_json(Service(id=ServiceId("s1"), spec=ServiceSpec(name="web")))
    assert shown["Endpoint"] == {"Spec": {}}
    assert shown["Spec"]["EndpointSpec"] == {"Mode": "vip"}
    assert shown["CreatedAt"] == "0001-01-01T00:00:00Z"


def test_a_task_is_shown_with_its_container_and_host_ports() -> None:
    """A task shows state names, its container and only ports in mode host; a global task has no slot."""
    task = Task(
        id=TaskId("t1"),
        spec=TaskSpec(container=ContainerSpec(image="busybox")),
        service_id=ServiceId("s1"),
        service_name="web",
        node_id=NodeId("n1"),
        status=TaskStatus(
            state=TaskState.FAILED,
            timestamp_ns=1_000_000_000_000_000_001,
            message="started",
            err="task: non-zero exit (3)",
            container=ContainerStatus(container_id="c", pid=0, exit_code=3),
            ports=(
                PortStatus(target_port=80, publish_mode="host", host_address="10.0.0.1", host_port=8080),
                PortStatus(target_port=81, publish_mode="ingress", host_address="10.0.0.1", host_port=40_000),
            ),
        ),
        desired_state=TaskState.SHUTDOWN,
    )
    shown = task_to_json(task)
    assert "Slot" not in shown
    assert "GenericResources" not in shown
    got = (GenericResource(kind="gpu", names=("a", "b")), GenericResource(kind="ssd", count=2))
    assert task_to_json(attrs.evolve(task, generic=got))["GenericResources"] == [
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}},
        {"NamedResourceSpec": {"Kind": "gpu", "Value": "b"}},
        {"DiscreteResourceSpec": {"Kind": "ssd", "Value": 2}},
    ]
    assert shown["DesiredState"] == "shutdown"
    assert shown["Status"] == {
        "Timestamp": "2001-09-09T01:46:40.000000001Z",
        "State": "failed",
        "Message": "started",
        "Err": "task: non-zero exit (3)",
        "ContainerStatus": {"ContainerID": "c", "PID": 0, "ExitCode": 3},
        "PortStatus": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]},
    }


@given(
    st.builds(
        NodeSpec, name=TEXT, labels=LABELS, role=st.sampled_from(Role), availability=st.sampled_from(Availability)
    )
)
def test_a_node_spec_survives_its_way_as_json(spec: NodeSpec) -> None:
    """A node's spec that is sent as JSON arrives as it was."""
    assert node_spec_from_json(json.loads(json.dumps(node_spec_to_json(spec)))) == spec


def test_node_enumerations_are_checked() -> None:
    """Unknown roles and availabilities are refused in Docker's words."""
    with pytest.raises(InvalidArgument, match='invalid Role: ""'):
        node_spec_from_json({"Availability": "active"})
    with pytest.raises(InvalidArgument, match='invalid Availability: "bogus"'):
        node_spec_from_json({"Role": "worker", "Availability": "bogus"})


@given(st.integers(1, 2**62))
def test_every_time_has_a_form(time_ns: int) -> None:
    """Any number of nanoseconds is shown in RFC 3339, without trailing zeros."""
    text = rfc3339_nano(time_ns)
    assert text.endswith("Z")
    assert not text.endswith(("0Z", ".Z")) or "." not in text


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ({"ReplicatedJob": {}}, {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}),
        ({"ReplicatedJob": {"MaxConcurrent": 2}}, {"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 2}}),
        ({"ReplicatedJob": {"MaxConcurrent": 2, "TotalCompletions": 7}}, None),
        ({"GlobalJob": {}}, None),
    ],
)
def test_jobs_are_shown_with_their_numbers(mode: dict[str, Any], shown: dict[str, Any] | None) -> None:
    """Empty ones are one; and there is no update configuration, whatever is asked for."""
    spec = service_spec_from_json(
        {"Name": "work", "Mode": mode, "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}
    )
    full = service_spec_to_json(spec, insert_defaults=True)
    assert full["Mode"] == (shown or mode)
    assert not full.keys() & {"UpdateConfig", "RollbackConfig"}
    with pytest.raises(InvalidArgument, match="must specify only one service mode"):
        service_spec_from_json({"Name": "work", "Mode": {**mode, "Global": {}}})

"""What is refused before it is stored, and in which words."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from control_world import spec

from swarmpy.control.validate import validate_node_spec, validate_service_spec, validate_service_update
from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    GenericResource,
    Healthcheck,
    MaxUnavailable,
    Mount,
    NetworkAttachment,
    NodeSpec,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceSpec,
    UpdateConfig,
)
from swarmpy.model.states import ServiceMode

INGRESS = PortConfig(target_port=80, published_port=8080)


def with_task(**parts: Any) -> ServiceSpec:
    wanted = spec()
    return attrs.evolve(wanted, task=attrs.evolve(wanted.task, **parts))


def with_container(**parts: Any) -> ServiceSpec:
    return with_task(container=ContainerSpec(image="nginx", **parts))


def with_ports(*ports: PortConfig, mode: str = "vip") -> ServiceSpec:
    return attrs.evolve(spec(), endpoint=EndpointSpec(mode=mode, ports=ports))


GPU = GenericResource(kind="gpu", count=1)


def with_generic(**parts: tuple[GenericResource, ...]) -> ServiceSpec:
    return with_task(resources=ResourceRequirements(**{k: Resources(generic=v) for k, v in parts.items()}))


BAD: list[tuple[ServiceSpec, str]] = [
    (spec(""), "name must be valid as a DNS name component"),
    (spec("-web"), "name must be valid as a DNS name component"),
    (spec("a.b"), "name must be valid as a DNS name component"),
    (spec("a" * 64), "name must be 63 characters or fewer"),
    (spec(image=""), "ContainerSpec: image reference must be provided"),
    (spec(image="a b"), 'ContainerSpec: "a b" is not a valid repository/tag'),
    (spec(max_unavailable=MaxUnavailable(amount=0)), "MaxUnavailable: at least 1 task must be allowed to be missing"),
    (spec(max_unavailable=MaxUnavailable(amount=101, is_percentage=True)), "MaxUnavailable: 101% is more than all"),
    (
        attrs.evolve(
            spec(replicas=None), mode=ServiceMode.GLOBAL_JOB, update=None, max_unavailable=MaxUnavailable(amount=1)
        ),
        "MaxUnavailable is of no use for a job",
    ),
    (spec(replicas=-1), "Number of replicas must be non-negative"),
    (spec(replicas=1, mode=ServiceMode.GLOBAL), "replicas can only be used with replicated mode"),
    (
        with_task(resources=ResourceRequirements(limits=Resources(memory_bytes=1000))),
        "invalid memory value 1000: Must be at least 4MiB",
    ),
    (
        with_task(resources=ResourceRequirements(reservations=Resources(nano_cpus=1000))),
        "invalid cpu value 1e-06: Must be at least 0.001",
    ),
    (with_task(restart=RestartPolicy(condition="sometimes")), 'invalid RestartCondition: "sometimes"'),
    (with_task(restart=RestartPolicy(delay_ns=-1)), "TaskSpec: restart-delay cannot be negative"),
    (with_task(restart=RestartPolicy(max_attempts=-1)), "TaskSpec: restart-max-attempts cannot be negative"),
    (with_task(placement=Placement(constraints=("a=b",))), "constraint expected one operator from ==, !="),
    (with_task(placement=Placement(spread=("node.id",))), "invalid spread preference 'node.id'"),
    (with_generic(limits=(GPU,)), "generic resources can be reserved, and have no limits"),
    (with_generic(reservations=(GPU, GPU)), "invalid generic resource 'gpu': give each kind a name, and once"),
    (with_generic(reservations=(attrs.evolve(GPU, kind=""),)), "invalid generic resource ''"),
    (with_generic(reservations=(attrs.evolve(GPU, count=0),)), "invalid generic resource 'gpu': reserve a count of 1-"),
    (with_generic(reservations=(attrs.evolve(GPU, names=("a",)),)), "invalid generic resource 'gpu': reserve a count"),
    (with_task(placement=Placement(max_replicas=-1)), "Placement: MaxReplicas cannot be negative"),
    (
        attrs.evolve(with_task(placement=Placement(max_replicas=1)), mode=ServiceMode.GLOBAL, replicas=None),
        "MaxReplicas can only be used with replicated mode",
    ),
    (spec(update=UpdateConfig(failure_action="explode")), "unrecognized update failure action explode"),
    (spec(rollback=UpdateConfig(failure_action="rollback")), "unrecognized rollback failure action rollback"),
    (spec(update=UpdateConfig(order="sideways")), "unrecognized update order sideways"),
    (spec(update=UpdateConfig(parallelism=-1)), "TaskSpec: update-parallelism cannot be negative"),
    (spec(update=UpdateConfig(max_failure_ratio=1.5)), "TaskSpec: update-maxfailureratio cannot be less than 0"),
    (with_ports(INGRESS, mode="dnsrr"), "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"),
    (with_ports(INGRESS, mode="magic"), "EndpointSpec: invalid mode 'magic'"),
    (
        with_ports(INGRESS, PortConfig(target_port=81, published_port=8080)),
        "EndpointSpec: duplicate published ports provided: 8080/tcp",
    ),
    (with_ports(PortConfig(target_port=1), PortConfig(target_port=1)), "EndpointSpec: duplicate ports provided"),
    (with_ports(PortConfig(target_port=0)), "EndpointSpec: invalid target port 0"),
    (
        attrs.evolve(with_task(networks=(NetworkAttachment(target="host"),)), endpoint=EndpointSpec(ports=(INGRESS,))),
        "EndpointSpec: a task in the network host has no port that could be published with ingress mode",
    ),
    (with_ports(PortConfig(target_port=1, published_port=70000)), "EndpointSpec: invalid published port 70000"),
    (with_ports(PortConfig(target_port=1, protocol="icmp")), "EndpointSpec: invalid protocol 'icmp'"),
    (with_ports(PortConfig(target_port=1, publish_mode="all")), "EndpointSpec: invalid publish mode 'all'"),
    (with_container(mounts=(Mount(type="npipe", target="/x"),)), "mount type unknown: 'npipe'"),
    (with_container(mounts=(Mount(target=""),)), 'invalid mount config for type "volume": field Target must not'),
    (with_container(mounts=(Mount(target="x"),)), "invalid mount config for type \"volume\": invalid mount path: 'x'"),
    (with_container(mounts=(Mount(target="/"),)), 'invalid mount config for type "volume": invalid specification'),
    (with_container(mounts=(Mount(type="bind", target="/x"),)), 'invalid mount config for type "bind": field Source'),
    (
        with_container(mounts=(Mount(type="bind", source="x", target="/x"),)),
        "invalid mount config for type \"bind\": invalid mount path: 'x'",
    ),
    (
        with_container(mounts=(Mount(target="/x"), Mount(target="/x"))),
        "ContainerSpec: duplicate mount point: /x",
    ),
    (with_container(env=("=x",)), "ContainerSpec: invalid environment variable '=x'"),
    (with_container(stop_grace_period_ns=-1), "ContainerSpec: StopGracePeriod cannot be negative"),
    (with_container(healthcheck=Healthcheck(test=("RUN", "x"))), "Healthcheck: test must start with"),
    (with_container(healthcheck=Healthcheck(test=("CMD",))), "Healthcheck: CMD needs a command"),
    (
        with_container(healthcheck=Healthcheck(interval_ns=10)),
        "ContainerSpec: Interval in Healthcheck cannot be less than 1ms",
    ),
    (with_container(healthcheck=Healthcheck(retries=-1)), "ContainerSpec: Retries in Healthcheck cannot be negative"),
]


@pytest.mark.parametrize(("wanted", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_spec_is_refused(wanted: ServiceSpec, message: str) -> None:
    """Each mistake is refused with a message that names it."""
    with pytest.raises(InvalidArgument) as caught:
        validate_service_spec(wanted)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "wanted",
    [
        spec(),
        spec("my_stack-web"),
        spec(replicas=0),
        spec(replicas=None, mode=ServiceMode.GLOBAL),
        with_ports(INGRESS, PortConfig(target_port=80, published_port=8080, protocol="udp")),
        with_ports(PortConfig(target_port=80, publish_mode="host"), mode="dnsrr"),
        with_container(healthcheck=Healthcheck(test=("NONE",)), env=("A=1", "B")),
        with_container(mounts=(Mount(target="/data"), Mount(type="tmpfs", target="/tmp"))),
        with_task(placement=Placement(constraints=("node.role == manager",), spread=("node.labels.zone",))),
    ],
)
def test_good_spec_is_accepted(wanted: ServiceSpec) -> None:
    """What Docker accepts is accepted."""
    validate_service_spec(wanted)


def test_update_may_neither_rename_nor_change_the_mode() -> None:
    """Name and mode stay; the rest is checked as for a new service."""
    with pytest.raises(InvalidArgument, match="renaming services is not supported"):
        validate_service_update(spec("a"), spec("b"))
    with pytest.raises(InvalidArgument, match="service mode change is not allowed"):
        validate_service_update(spec(), spec(replicas=None, mode=ServiceMode.GLOBAL))
    with pytest.raises(InvalidArgument, match="image reference"):
        validate_service_update(spec(), spec(image=""))
    validate_service_update(spec(), spec(image="nginx:2", replicas=7))


def test_node_names_and_labels_are_checked() -> None:
    """A node may be without a name, but a name must be one."""
    validate_node_spec(NodeSpec(labels={"zone": ""}))
    with pytest.raises(InvalidArgument, match="DNS name component"):
        validate_node_spec(NodeSpec(name="a b"))
    with pytest.raises(InvalidArgument, match="empty name"):
        validate_node_spec(NodeSpec(labels={"": "x"}))

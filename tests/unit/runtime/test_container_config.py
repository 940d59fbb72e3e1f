"""Tasks as the Engine's JSON, compared whole."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmpy.errors import TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext
from swarmpy.model.specs import (
    ContainerSpec,
    GenericResource,
    Healthcheck,
    LogDriver,
    Mount,
    NetworkAttachment,
    PortConfig,
    ResourceRequirements,
    Resources,
    TaskSpec,
    Ulimit,
)
from swarmpy.model.template import NodeFacts
from swarmpy.runtime.container_config import (
    bound_ports,
    container_name,
    create_config,
    decode_ports,
    encode_ports,
    port_bindings,
    stop_timeout_seconds,
)
from swarmpy.runtime.engine_features import check_engine, security_options

NODE = NodeFacts(id=NodeId("node1"), hostname="host1", address="10.0.0.7", architecture="x86_64")
SECOND = 1_000_000_000
INGRESS = PortConfig(target_port=80, published_port=8080)
HOST = PortConfig(target_port=80, published_port=9090, publish_mode="host")
HOST_ANY = PortConfig(target_port=80, publish_mode="host")


def make_task(container: ContainerSpec, ports: tuple[PortConfig, ...] = (), **fields: Any) -> Task:
    return Task(
        id=TaskId("task1"),
        spec=TaskSpec(container=container, **fields),
        service_id=ServiceId("service1"),
        service_name="web",
        slot=3,
        ports=ports,
    )


LABELS = {
    "com.docker.swarm.node.id": "node1",
    "com.docker.swarm.service.id": "service1",
    "com.docker.swarm.service.name": "web",
    "com.docker.swarm.task": "",
    "com.docker.swarm.task.id": "task1",
    "com.docker.swarm.task.name": "web.3.task1",
    "swarmpy.node.id": "node1",
}


def test_the_hosts_network_has_no_ports_of_its_own() -> None:
    """What its program listens on is open at the node."""
    host = PortConfig(target_port=80, published_port=80, publish_mode="host")
    task = make_task(ContainerSpec(image="app"), (host,), networks=(NetworkAttachment(target="host"),))
    config = create_config(task, NODE)["HostConfig"]
    assert config["NetworkMode"] == "host"
    assert "PortBindings" not in config
    plain = make_task(ContainerSpec(image="app"), (host,), networks=(NetworkAttachment(target="bridge"),))
    assert "NetworkMode" not in create_config(plain, NODE)["HostConfig"]


def test_a_plain_task() -> None:
    """The least there is: image, labels, no privileges, no restarts by the engine."""
    task = make_task(ContainerSpec(image="nginx:1"))
    assert create_config(task, NODE) == {
        "Image": "nginx:1",
        "Env": [],
        "Labels": LABELS,
        "HostConfig": {"Privileged": False, "RestartPolicy": {"Name": "no"}},
    }
    assert container_name(task) == "web.3.task1"


def test_everything_at_once() -> None:
    """Each field of the spec arrives where the Engine expects it."""
    container = ContainerSpec(
        image="app:2",
        labels={"tier": "front", "swarmpy.node.id": "forged"},
        command=("/bin/app",),
        args=("--name", "{{.Task.Name}}", "{{.Names}}"),
        env=("SLOT={{.Task.Slot}}", "HOST={{ .Node.Hostname }}"),
        hostname="{{.Service.Name}}-{{.Task.Slot}}",
        dir="/srv",
        user="1000:1000",
        groups=("audio",),
        tty=True,
        open_stdin=True,
        read_only=True,
        init=True,
        stop_signal="SIGINT",
        stop_grace_period_ns=1_500_000_000,
        healthcheck=Healthcheck(test=("CMD", "true"), interval_ns=SECOND, timeout_ns=2000000,
                                start_period_ns=3000000, start_interval_ns=5000000, retries=4),
        mounts=(
            Mount(type="bind", source="/data/{{.Task.Slot}}", target="/data", read_only=True, consistency="cached",
                  bind_propagation="rslave", bind_non_recursive=True, bind_create_mountpoint=True,
                  bind_read_only_non_recursive=True),
            Mount(type="bind", source="/whole", target="/whole", read_only=True, bind_read_only_force_recursive=True),
            Mount(source="vol-{{.Node.ID}}", target="/vol", volume_no_copy=True, volume_labels={"a": "{{.Task.Slot}}"},
                  volume_driver="local", volume_driver_opts={"device": "/d/{{.Node.Hostname}}"}, volume_subpath="s"),
            Mount(type="tmpfs", target="/tmp", tmpfs_size_bytes=1024, tmpfs_mode=0o1777),
        ),
        hosts=("10.1.1.1 db db.local", "::1 six"),
        dns_nameservers=("1.1.1.1",),
        dns_search=("local",),
        dns_options=("ndots:1",),
        capability_add=("CAP_NET_ADMIN",),
        capability_drop=("ALL",),
        sysctls={"net.core.somaxconn": "1024"},
        ulimits=(Ulimit(name="nofile", soft=1, hard=2),),
        oom_score_adj=-5,
        privileges=Privileges(
            selinux=SELinuxContext(user="u", role="r", type="t", level="l"),
            seccomp=Seccomp(mode="custom", profile=b"{}"),
            apparmor="disabled",
            no_new_privileges=True,
        ),
    )  # fmt: skip
    task = make_task(
        container,
        (INGRESS,),
        resources=ResourceRequirements(
            limits=Resources(nano_cpus=500_000_000, memory_bytes=1 << 26, pids=10),
            reservations=Resources(nano_cpus=1, memory_bytes=1 << 25),
        ),
        log_driver=LogDriver(name="json-file", options={"max-size": "1m"}),
    )
    assert create_config(task, NODE) == {
        "Image": "app:2",
        "Entrypoint": ["/bin/app"],
        "Cmd": ["--name", "web.3.task1", "{{.Names}}"],
        "Env": ["SLOT=3", "HOST=host1"],
        "Labels": {"tier": "front", **LABELS, "swarmpy.task.ports": "8080:80/tcp/ingress"},
        "Hostname": "web-3",
        "User": "1000:1000",
        "WorkingDir": "/srv",
        "Tty": True,
        "OpenStdin": True,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": SECOND, "Timeout": 2000000,
                        "StartPeriod": 3000000, "StartInterval": 5000000, "Retries": 4},
        "StopSignal": "SIGINT",
        "StopTimeout": 2,
        "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {
            "Privileged": False,
            "RestartPolicy": {"Name": "no"},
            "Mounts": [
                {"Type": "bind", "Source": "/data/3", "Target": "/data", "ReadOnly": True, "Consistency": "cached",
                 "BindOptions": {"Propagation": "rslave", "NonRecursive": True, "CreateMountpoint": True,
                                 "ReadOnlyNonRecursive": True}},
                {"Type": "bind", "Source": "/whole", "Target": "/whole", "ReadOnly": True,
                 "BindOptions": {"ReadOnlyForceRecursive": True}},
                {"Type": "volume", "Source": "vol-node1", "Target": "/vol",
                 "VolumeOptions": {"NoCopy": True, "Labels": {"a": "3"}, "Subpath": "s",
                                   "DriverConfig": {"Name": "local", "Options": {"device": "/d/host1"}}}},
                {"Type": "tmpfs", "Target": "/tmp", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o1777}},
            ],
            "PortBindings": {"80/tcp": [{"HostIp": "10.0.0.7", "HostPort": ""}]},
            "GroupAdd": ["audio"],
            "CapAdd": ["CAP_NET_ADMIN"],
            "CapDrop": ["ALL"],
            "Sysctls": {"net.core.somaxconn": "1024"},
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "ReadonlyRootfs": True,
            "Init": True,
            "Dns": ["1.1.1.1"],
            "DnsSearch": ["local"],
            "DnsOptions": ["ndots:1"],
            "ExtraHosts": ["db:10.1.1.1", "db.local:10.1.1.1", "six:::1"],
            "NanoCpus": 500_000_000,
            "Memory": 1 << 26,
            "PidsLimit": 10,
            "MemoryReservation": 1 << 25,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "OomScoreAdj": -5,
            "SecurityOpt": ["label=user:u", "label=role:r", "label=type:t", "label=level:l", "seccomp={}",
                            "apparmor=unconfined", "no-new-privileges=true"],
        },
    }  # fmt: skip


def test_security_options() -> None:
    """The defaults of the engine are no options."""
    assert security_options(None) == []
    assert security_options(Privileges(seccomp=Seccomp(), apparmor="default", selinux=SELinuxContext())) == []
    assert security_options(Privileges(seccomp=Seccomp(mode="unconfined"))) == ["seccomp=unconfined"]
    assert security_options(Privileges(selinux=SELinuxContext(disable=True))) == ["label=disable"]


@pytest.mark.parametrize(
    ("fields", "what", "needed"),
    [
        ({"healthcheck": Healthcheck(start_interval_ns=1)}, "StartInterval of the health check", "1.44"),
        ({"mounts": (Mount(target="/a", volume_subpath="s"),)}, "VolumeOptions.Subpath of the mount /a", "1.45"),
        ({"mounts": (Mount(target="/a", bind_create_mountpoint=True),)}, "BindOptions.CreateMountpoint of", "1.42"),
        (
            {"mounts": (Mount(target="/a", bind_read_only_force_recursive=True),)},
            "BindOptions.ReadOnlyForceRecursive of",
            "1.44",
        ),
        (
            {"mounts": (Mount(target="/a", bind_read_only_non_recursive=True),)},
            "BindOptions.ReadOnlyNonRecursive of",
            "1.44",
        ),
    ],
)
def test_an_engine_that_would_ignore_an_option_is_not_asked(fields: dict[str, Any], what: str, needed: str) -> None:
    """An engine takes fields that it does not know for none at all."""
    spec = ContainerSpec(image="a", **fields)
    for version in ("1.41", "1.9"):
        with pytest.raises(
            TaskRejected, match=rf"{what}.* needs an engine with API {needed} or later, and this node's"
        ):
            check_engine(spec, version)
    check_engine(spec, needed)
    check_engine(spec, "2.0")
    check_engine(ContainerSpec(image="a", mounts=(Mount(bind_non_recursive=True),)), "1.40")


def test_a_task_learns_what_it_got_of_its_node() -> None:
    """As Docker tells it; nothing of the spec's own can pretend to be that."""
    task = make_task(ContainerSpec(image="a", env=("DOCKER_RESOURCE_GPU=9",)))
    task = attrs.evolve(
        task, generic=(GenericResource(kind="gpu", names=("U1", "U2")), GenericResource(kind="ssd", count=2))
    )
    env = create_config(task, NODE)["Env"]
    assert env == ["DOCKER_RESOURCE_GPU=9", "DOCKER_RESOURCE_GPU=U1,U2", "DOCKER_RESOURCE_SSD=2"]


@pytest.mark.parametrize("host", ["", "10.0.0.1"])
def test_an_extra_host_without_a_name_is_rejected(host: str) -> None:
    """A line that is not 'IP name' is named."""
    with pytest.raises(TaskRejected, match=f"extra host {host!r}"):
        create_config(make_task(ContainerSpec(image="a", hosts=(host,))), NODE)


def test_the_grace_period_is_rounded_up() -> None:
    """The engine knows whole seconds only: 10 by default, and never less than was asked for."""
    task = make_task(ContainerSpec(image="a"))
    assert stop_timeout_seconds(task) == 10
    assert stop_timeout_seconds(make_task(ContainerSpec(image="a", stop_grace_period_ns=1))) == 1
    assert stop_timeout_seconds(make_task(ContainerSpec(image="a", stop_grace_period_ns=0))) == 0


def test_bindings_of_ingress_and_host_ports() -> None:
    """One binding for all ingress ports of a target, one for each host port."""
    again = attrs.evolve(INGRESS, published_port=8081)
    assert port_bindings((INGRESS, again, HOST, HOST_ANY), "10.0.0.7") == {
        "80/tcp": [
            {"HostIp": "10.0.0.7", "HostPort": ""},
            {"HostIp": "0.0.0.0", "HostPort": "9090"},
            {"HostIp": "0.0.0.0", "HostPort": ""},
        ]
    }
    assert port_bindings((INGRESS,), "node.example")["80/tcp"][0]["HostIp"] == ""
    assert port_bindings((HOST_ANY,), "fd00::1")["80/tcp"][0]["HostIp"] == "::"


def test_bound_ports_are_told_apart() -> None:
    """Of the engine's bindings each port gets its own."""
    engine = {
        "80/tcp": [
            {"HostIp": "0.0.0.0", "HostPort": "9090"},
            {"HostIp": "0.0.0.0", "HostPort": "49154"},
            {"HostIp": "10.0.0.7", "HostPort": "49153"},
        ],
        "81/tcp": None,
    }
    missing = PortConfig(target_port=81, published_port=1)
    statuses = bound_ports((INGRESS, HOST, HOST_ANY, missing), "10.0.0.7", engine)
    assert [(s.published_port, s.publish_mode, s.host_address, s.host_port) for s in statuses] == [
        (8080, "ingress", "10.0.0.7", 49153),
        (9090, "host", "10.0.0.7", 9090),
        (0, "host", "10.0.0.7", 49154),
    ]


PORTS = st.builds(
    PortConfig,
    protocol=st.sampled_from(["tcp", "udp", "sctp"]),
    target_port=st.integers(1, 65535),
    published_port=st.integers(0, 65535),
    publish_mode=st.sampled_from(["ingress", "host"]),
)


@settings(deadline=None)
@given(st.lists(PORTS, max_size=5).map(tuple))
def test_ports_survive_their_label(ports: tuple[PortConfig, ...]) -> None:
    """What is written into the label is read back."""
    assert decode_ports(encode_ports(ports)) == ports


@settings(deadline=None)
@given(st.text())
def test_a_label_of_somebody_else_is_no_error(text: str) -> None:
    """Any text can be read, mostly as no ports."""
    assert isinstance(decode_ports(text), tuple)

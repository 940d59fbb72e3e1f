"""What a container may be asked to be, field by field."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmpy.errors import InvalidArgument
from swarmpy.model.container_checks import check_container, check_expanded, check_log_driver, check_networks
from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext
from swarmpy.model.specs import ContainerSpec, Healthcheck, LogDriver, Mount, NetworkAttachment, Ulimit


def bind(source: str, target: str = "/x", **fields: Any) -> dict[str, Any]:
    return {"mounts": (Mount(type="bind", source=source, target=target, **fields),)}


def volume(source: str = "", target: str = "/x", **fields: Any) -> dict[str, Any]:
    return {"mounts": (Mount(source=source, target=target, **fields),)}


def privileged(**fields: Any) -> dict[str, Any]:
    return {"privileges": Privileges(**fields)}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": "../etc"}, 'ContainerSpec: "../etc" is not a valid repository/tag'),
    ({"image": "a\nb"}, 'ContainerSpec: "a\\nb" is not a valid repository/tag'),
    ({"command": ("sh", "a\0b")}, "ContainerSpec: Command: 'a\\x00b' has a NUL character"),
    ({"args": ("\0",)}, "ContainerSpec: Args: '\\x00' has a NUL character"),
    ({"env": ("A=\0",)}, "ContainerSpec: invalid environment variable 'A=\\x00': it has a NUL"),
    ({"env": ("=",)}, "ContainerSpec: invalid environment variable '=': it has no name"),
    ({"env": ("A={{.Taks.ID}}",)}, "ContainerSpec: unknown placeholder {{.Taks.ID}}"),
    ({"labels": {"a\nb": ""}}, "ContainerSpec: Labels: the name of the label 'a\\nb' has a control"),
    ({"labels": {"a": "\0"}}, "ContainerSpec: Labels: '\\x00' has a NUL"),
    ({"hostname": "a\n127.0.0.1 b"}, "ContainerSpec: Hostname: 'a\\n127.0.0.1 b' is not a host name"),
    ({"hostname": "{{.Task.ID}}/x"}, "ContainerSpec: Hostname: 'x/x' is not a host name"),
    ({"dir": "etc"}, "ContainerSpec: Dir: 'etc' is not a working directory"),
    ({"user": "root\n"}, "ContainerSpec: User: 'root\\n' is not a user"),
    ({"groups": ("a:b",)}, "ContainerSpec: Groups: 'a:b' is not a group"),
    ({"stop_signal": "9; reboot"}, "ContainerSpec: StopSignal: '9; reboot' is not a signal"),
    ({"hosts": ("10.0.0.1 a\n10.0.0.2 b",)}, "ContainerSpec: Hosts: '10.0.0.1 a\\n10.0.0.2 b' has a line break"),
    ({"hosts": ("db 10.0.0.1",)}, "ContainerSpec: Hosts: 'db' is not an IP address"),
    ({"dns_nameservers": ("dns.example",)}, "ContainerSpec: DNSConfig.Nameservers: 'dns.example' is not an IP"),
    ({"dns_search": ("a\noptions debug",)}, "ContainerSpec: DNSConfig.Search: 'a\\noptions debug' is not a search"),
    ({"dns_options": ("a b",)}, "ContainerSpec: DNSConfig.Options: 'a b' is not an option"),
    ({"capability_add": ("SYS_ADMIN,ALL",)}, "ContainerSpec: CapabilityAdd: 'SYS_ADMIN,ALL' is not a capability"),
    ({"capability_drop": ("",)}, "ContainerSpec: CapabilityDrop: '' is not a capability"),
    ({"sysctls": {"net/../kernel": "1"}}, "ContainerSpec: Sysctls: 'net/../kernel' is not a kernel parameter"),
    ({"sysctls": {"net.core.x": "1\n2"}}, "ContainerSpec: Sysctls: '1\\n2' has a line break"),
    ({"ulimits": (Ulimit(name="files", soft=1, hard=1),)}, "ContainerSpec: Ulimits: 'files' is not a resource limit"),
    ({"ulimits": (Ulimit(name="nofile", soft=2, hard=1),)}, "ContainerSpec: Ulimits: nofile: the soft limit 2 is"),
    ({"ulimits": (Ulimit(name="nofile", soft=-2, hard=1),)}, "ContainerSpec: Ulimits: nofile: a limit is a number"),
    ({"healthcheck": Healthcheck(test=("CMD", "\0"))}, "ContainerSpec: Healthcheck: '\\x00' has a NUL"),
    (bind("/data/../etc"), 'invalid mount config for type "bind": invalid mount path: \'/data/../etc\': write it'),
    (bind("/a\0b"), 'invalid mount config for type "bind": invalid mount path: \'/a\\x00b\' has a control'),
    (bind("/a", "/b/../.."), 'invalid mount config for type "bind": invalid mount path: \'/b/../..\': write it'),
    (bind("/a", "/./"), 'invalid mount config for type "bind": invalid specification'),
    (bind("/a", bind_propagation="rshared,suid"), 'invalid mount config for type "bind": unknown propagation'),
    (volume("/etc"), 'invalid mount config for type "volume": invalid volume name: \'/etc\' is not a name'),
    (volume("../x"), 'invalid mount config for type "volume": invalid volume name: \'../x\''),
    (volume("a", volume_driver="../../x"), 'invalid mount config for type "volume": \'../../x\' is not the name'),
    (volume("a\n", volume_driver="nfs"), 'invalid mount config for type "volume": \'a\\n\' has a line break'),
    (volume("a", volume_driver_opts={"": "x"}), 'invalid mount config for type "volume": a label has an empty name'),
    (bind("/a", volume_no_copy=True), 'invalid mount config for type "bind": field VolumeOptions must not be'),
    (volume("a", bind_non_recursive=True), 'invalid mount config for type "volume": field BindOptions must not be'),
    (volume("a", tmpfs_mode=1), 'invalid mount config for type "volume": field TmpfsOptions must not be specified'),
    (volume("a", read_only=True, bind_read_only_non_recursive=True),
     'invalid mount config for type "volume": field BindOptions must not be specified'),
    (bind("/a", consistency="often"), 'invalid mount config for type "bind": unknown consistency \'often\''),
    (bind("/a", bind_read_only_non_recursive=True), 'invalid mount config for type "bind": ReadOnlyNonRecursive and'),
    (bind("/a", read_only=True, bind_read_only_force_recursive=True, bind_non_recursive=True),
     'invalid mount config for type "bind": ReadOnlyForceRecursive does not go with'),
    (bind("/a", read_only=True, bind_read_only_force_recursive=True, bind_propagation="shared"),
     'invalid mount config for type "bind": ReadOnlyForceRecursive needs the propagation rprivate'),
    (volume(volume_subpath="a"), 'invalid mount config for type "volume": a subpath needs a volume with a name'),
    (volume("a", volume_subpath="/a"), 'invalid mount config for type "volume": subpath \'/a\' must be a relative'),
    (volume("a", volume_subpath="a/../.."), 'invalid mount config for type "volume": subpath \'a/../..\' must be a'),
    (volume("a", volume_labels={"a": "{{.Nope}}"}), "ContainerSpec: unknown placeholder {{.Nope}}"),
    ({"oom_score_adj": 1001}, "ContainerSpec: OomScoreAdj must be from -1000 to 1000"),
    ({"healthcheck": Healthcheck(start_interval_ns=1)}, "ContainerSpec: StartInterval in Healthcheck cannot be less"),
    (privileged(selinux=SELinuxContext(user="a b")), "ContainerSpec: Privileges.SELinuxContext: 'a b' is not part"),
    (privileged(selinux=SELinuxContext(user="a", disable=True)), "ContainerSpec: Privileges.SELinuxContext: it is"),
    (privileged(seccomp=Seccomp(mode="some")), "ContainerSpec: Privileges.Seccomp: unknown mode 'some', use default"),
    (privileged(seccomp=Seccomp(mode="custom")), "ContainerSpec: Privileges.Seccomp: a profile belongs to the mode"),
    (privileged(seccomp=Seccomp(profile=b"{}")), "ContainerSpec: Privileges.Seccomp: a profile belongs to the mode"),
    (privileged(seccomp=Seccomp(mode="custom", profile=b"[" * 100_000)), "ContainerSpec: Privileges.Seccomp: the prof"),
    (privileged(seccomp=Seccomp(mode="custom", profile=b"\xff")), "ContainerSpec: Privileges.Seccomp: the profile"),
    (privileged(apparmor="off"), "ContainerSpec: Privileges.AppArmor: unknown mode 'off', use default or disabled"),
    ({"mounts": (Mount(target="/x/"), Mount(target="//x"))}, "ContainerSpec: duplicate mount point: //x"),
]  # fmt: skip


def spec(**fields: Any) -> ContainerSpec:
    return attrs.evolve(ContainerSpec(image="busybox"), **fields)


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_the_field_and_the_reason_are_named(fields: dict[str, Any], message: str) -> None:
    """One line that says which field, what is in it and what is wrong."""
    with pytest.raises(InvalidArgument) as caught:
        check_container(spec(**fields))
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


def test_what_docker_takes_is_taken() -> None:
    """Unusual but meant: sockets, other drivers, many words."""
    check_container(
        spec(
            command=("sh", "-c", "echo $A\nexec x"),
            env=("A=b\nc", "EMPTY="),
            hostname="{{.Service.Name}}-{{.Task.Slot}}-{{.Node.Hostname}}",
            dir="/srv/../srv",
            user="1000:adm",
            hosts=("host-gateway host.docker.internal", "10.0.0.1 a b"),
            sysctls={"net.ipv4.ip_local_port_range": "1024\t65000"},
            mounts=(
                Mount(type="bind", source="/var/run/docker.sock", target="/var/run/docker.sock"),
                Mount(source="share/dir", target="/{{.Task.Slot}}", volume_driver="netshare"),
                Mount(source="v-{{.Task.Slot}}", target="/{{.Node.ID}}"),
                Mount(type="tmpfs", target="/tmp", tmpfs_mode=0o1777),
            ),
        )
    )


def test_services_of_versions_before_go_on() -> None:
    """Options of another type of mount were taken once, and meant nothing: nodes leave them out as ever."""
    odd = spec(mounts=(Mount(type="bind", source="/a", target="/x", volume_no_copy=True),))
    check_expanded(odd)
    with pytest.raises(InvalidArgument, match="field VolumeOptions must not be specified"):
        check_container(odd)


def test_drivers_and_networks() -> None:
    """Names of other things at the engine."""
    check_log_driver(None)
    check_log_driver(LogDriver(name="json-file", options={"max-size": "1m"}))
    check_networks([NetworkAttachment(target="st_default", aliases=("web",))])
    with pytest.raises(InvalidArgument, match=r"TaskSpec: LogDriver: '\.\./x' is not the name of a driver"):
        check_log_driver(LogDriver(name="../x"))
    with pytest.raises(InvalidArgument, match=r"TaskSpec: LogDriver\.Options: 'a\\nb' has a line break"):
        check_log_driver(LogDriver(options={"a\nb": ""}))
    with pytest.raises(InvalidArgument, match=r"TaskSpec: Networks: '' is not a name"):
        check_networks([NetworkAttachment(target="")])
    with pytest.raises(InvalidArgument, match=r"TaskSpec: Networks\.Aliases: 'a b' is not a host name"):
        check_networks([NetworkAttachment(target="n", aliases=("a b",))])


# -- any spec ---------------------------------------------------------------------------------------------------------

words = st.text(string.printable + "\0\x1b\u202e", max_size=12) | st.sampled_from(
    ["/data", "a", "/..", "{{.Task.ID}}", "{{.Nope}}", "{{", "A=b", "10.0.0.1 a", "nofile", "CMD", "bind", "1"]
)
mounts = st.builds(
    Mount,
    type=st.sampled_from(["bind", "volume", "tmpfs", "npipe"]),
    source=words,
    target=words,
    bind_propagation=st.just("") | words,
    volume_driver=st.just("") | words,
    volume_labels=st.dictionaries(words, words, max_size=1),
    volume_driver_opts=st.dictionaries(words, words, max_size=1),
    tmpfs_size_bytes=st.integers(-1, 1),
    tmpfs_mode=st.integers(-1, 1),
    read_only=st.booleans(),
    consistency=st.just("") | words,
    volume_subpath=st.just("") | words,
    bind_non_recursive=st.booleans(),
    bind_read_only_force_recursive=st.booleans(),
)
privileges = st.builds(
    Privileges,
    selinux=st.none() | st.builds(SELinuxContext, disable=st.booleans(), user=st.just("") | words, level=words),
    seccomp=st.none()
    | st.builds(Seccomp, mode=st.sampled_from(["default", "custom", "x"]), profile=st.binary(max_size=4)),
    apparmor=st.none() | words,
)
few = st.lists(words, max_size=2).map(tuple)
containers = st.builds(
    ContainerSpec,
    image=st.sampled_from(["busybox", "a:1"]) | words,
    labels=st.dictionaries(words, words, max_size=1),
    command=few,
    args=few,
    env=few,
    hostname=st.just("") | words,
    dir=st.just("") | words,
    user=st.just("") | words,
    groups=few,
    stop_signal=st.just("") | words,
    healthcheck=st.none() | st.builds(Healthcheck, test=few, retries=st.integers(-1, 1)),
    mounts=st.lists(mounts, max_size=2).map(tuple),
    hosts=few,
    dns_nameservers=few,
    dns_search=few,
    dns_options=few,
    capability_add=few,
    sysctls=st.dictionaries(words, words, max_size=1),
    ulimits=st.lists(st.builds(Ulimit, name=words, soft=st.integers(-2, 2), hard=st.integers(-2, 2)), max_size=1).map(
        tuple
    ),
    privileges=st.none() | privileges,
    oom_score_adj=st.integers(-1001, 1001),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(containers)
def test_any_spec_is_judged(container: ContainerSpec) -> None:
    """Nothing but InvalidArgument comes out, with a line that can be printed; what passes has no NUL anywhere."""
    for check in (check_container, check_expanded):
        message = fault_of(check, container)
        assert message.isprintable()
        assert len(message) < 500
        assert message or not any("\0" in text for text in texts_of(attrs.asdict(container)))


def fault_of(check: Callable[[ContainerSpec], None], container: ContainerSpec) -> str:
    try:
        check(container)
    except InvalidArgument as error:
        return str(error)
    return ""


def texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for item in pair for text in texts_of(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in texts_of(item))

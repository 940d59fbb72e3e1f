"""Stack descriptions to service specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from swarmpy.compose.convert import convert
from swarmpy.compose.load import StackFile, load
from swarmpy.errors import ComposeError, InvalidArgument
from swarmpy.model.privileges import Privileges, Seccomp, SELinuxContext
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    GenericResource,
    Healthcheck,
    LogDriver,
    MaxUnavailable,
    Mount,
    NetworkAttachment,
    Placement,
    PortConfig,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    Ulimit,
    UpdateConfig,
)
from swarmpy.model.states import ServiceMode

SECOND = 1_000_000_000
NAMESPACE = {"com.docker.stack.namespace": "st"}
RESERVING = """deploy:
  resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}}"""
PLACEMENT = """deploy:
  placement:
    constraints: [a == b]
    preferences: [{spread: a}, {spread: b}]
    max_replicas_per_node: 2"""


def stack(directory: Path, text: str, environment: dict[str, str] | None = None) -> StackFile:
    file = directory / "f.yml"
    file.write_text(text)
    return convert(load([file], environment or {}), "st")


def web(directory: Path, lines: str, rest: str = "") -> ServiceSpec:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    return stack(directory, f"services:\n  web:\n    image: img\n{body}{rest}").services[0]


def test_the_least_service(tmp_path: Path) -> None:
    """A name and an image are enough; nothing else is made up."""
    assert stack(tmp_path, "services: {web: {image: busybox}}") == StackFile(
        services=(
            ServiceSpec(
                name="st_web",
                labels={**NAMESPACE, "com.docker.stack.image": "busybox"},
                task=TaskSpec(container=ContainerSpec(image="busybox:latest", labels=NAMESPACE)),
            ),
        )
    )


def test_services_keep_the_order_of_the_file(tmp_path: Path) -> None:
    """The order in which services are created is the user's."""
    names = [spec.name for spec in stack(tmp_path, "services: {b: {image: i}, a: {image: i}, c: {image: i}}").services]
    assert names == ["st_b", "st_a", "st_c"]


@pytest.mark.parametrize(
    ("given", "image"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1.36", "busybox:1.36"),
        ("host:5000/a/b", "host:5000/a/b:latest"),
        ("docker.io/library/busybox", "busybox:latest"),
        ("docker.io/a/b:1", "a/b:1"),
        ("a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
    ],
)
def test_images(tmp_path: Path, given: str, image: str) -> None:
    """An image without a tag is the latest; the label keeps what was written."""
    spec = stack(tmp_path, f"services: {{web: {{image: '{given}'}}}}").services[0]
    assert spec.task.container.image == image
    assert spec.labels["com.docker.stack.image"] == given


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ("command: sh -c 'a b'\nentrypoint: [x, y]", {"args": ("sh", "-c", "a b"), "command": ("x", "y")}),
        ("environment: {B: 2, A: x, C: }", {"env": ("A=x", "B=2", "C")}),
        ("labels: [a=1]", {"labels": {"a": "1", **NAMESPACE}}),
        ("user: u\nworking_dir: /w\nhostname: h", {"user": "u", "dir": "/w", "hostname": "h"}),
        ("tty: true\nstdin_open: true\nread_only: true", {"tty": True, "open_stdin": True, "read_only": True}),
        ("init: false", {"init": False}),
        ("stop_signal: SIGINT\nstop_grace_period: 1m", {"stop_signal": "SIGINT", "stop_grace_period_ns": 60 * SECOND}),
        ("healthcheck: {test: a b}", {"healthcheck": Healthcheck(test=("CMD-SHELL", "a b"))}),
        (
            "healthcheck: {test: [CMD, a], interval: 1s, timeout: 2s, start_period: 3s, retries: 4}",
            {
                "healthcheck": Healthcheck(
                    test=("CMD", "a"), interval_ns=SECOND, timeout_ns=2 * SECOND, start_period_ns=3 * SECOND, retries=4
                )
            },
        ),
        (
            "healthcheck: {test: a, start_interval: 2s}\noom_score_adj: -5",
            {
                "healthcheck": Healthcheck(test=("CMD-SHELL", "a"), start_interval_ns=2 * SECOND),
                "oom_score_adj": -5,
            },
        ),
        ("healthcheck: {disable: true}", {"healthcheck": Healthcheck(test=("NONE",))}),
        ("extra_hosts: ['a:1.2.3.4']", {"hosts": ("1.2.3.4 a",)}),
        ("dns: 1.1.1.1\ndns_search: [a, b]", {"dns_nameservers": ("1.1.1.1",), "dns_search": ("a", "b")}),
        ("sysctls: {net.core.somaxconn: 1024}", {"sysctls": {"net.core.somaxconn": "1024"}}),
        (
            "ulimits: {nproc: 5, nofile: {soft: 1, hard: 2}}",
            {"ulimits": (Ulimit(name="nofile", soft=1, hard=2), Ulimit(name="nproc", soft=5, hard=5))},
        ),
        (
            "cap_add: [net_admin, SYS_TIME]\ncap_drop: [CAP_SYS_TIME, chown]",
            {"capability_add": ("CAP_NET_ADMIN", "CAP_SYS_TIME"), "capability_drop": ("CAP_CHOWN",)},
        ),
        (
            "security_opt: [no-new-privileges, 'seccomp:unconfined', apparmor=unconfined, label:user:u, label=level:l]",
            {
                "privileges": Privileges(
                    no_new_privileges=True,
                    seccomp=Seccomp(mode="unconfined"),
                    apparmor="disabled",
                    selinux=SELinuxContext(user="u", level="l"),
                )
            },
        ),
        ("security_opt: ['no-new-privileges:true']", {"privileges": Privileges(no_new_privileges=True)}),
        ("security_opt: ['no-new-privileges=false']", {}),
        ("security_opt: ['label:disable']", {"privileges": Privileges(selinux=SELinuxContext(disable=True))}),
        ("cap_drop: [all, chown]", {"capability_drop": ("ALL",)}),
        ("tmpfs: /run:size=1m", {"mounts": (Mount(type="tmpfs", target="/run", tmpfs_size_bytes=1 << 20),)}),
        (
            "volumes: ['/a/:/b:ro', '~/c:/c', {type: tmpfs, target: /t, tmpfs: {size: 10}}, /anonymous]",
            {
                "mounts": (
                    Mount(type="bind", source="/a/", target="/b", read_only=True),
                    Mount(type="bind", source="/c", target="/c"),
                    Mount(type="tmpfs", target="/t", tmpfs_size_bytes=10),
                    Mount(type="volume", target="/anonymous"),
                )
            },
        ),
    ],
)
def test_containers(tmp_path: Path, lines: str, fields: dict[str, Any]) -> None:
    """Each key of a service becomes its field of the container."""
    expected = attrs.evolve(ContainerSpec(image="img:latest", labels=NAMESPACE), **fields)
    assert web(tmp_path, lines).task.container == expected


def test_binds_are_relative_to_the_file(tmp_path: Path) -> None:
    """A relative source starts at the directory of the stack file."""
    mounts = web(tmp_path, "volumes: ['./a/../b:/b', '.:/c']").task.container.mounts
    assert [mount.source for mount in mounts] == [f"{tmp_path}/b", str(tmp_path)]


def test_named_volumes_belong_to_the_stack(tmp_path: Path) -> None:
    """A declared volume carries the stack's name, label and driver; an external one is used as it is."""
    rest = (
        "volumes:\n  v: {driver: d, driver_opts: {o: 1}, labels: {a: b}}\n  w: {name: own}\n  x: {external: true}\n"
        "  y: {external: {name: z}}\n"
    )
    mounts = web(tmp_path, "volumes: ['v:/v', 'w:/w', 'x:/x', 'y:/y:nocopy']", rest).task.container.mounts
    assert mounts == (
        Mount(
            source="st_v",
            target="/v",
            volume_labels={"a": "b", **NAMESPACE},
            volume_driver="d",
            volume_driver_opts={"o": "1"},
        ),
        Mount(source="own", target="/w", volume_labels=NAMESPACE),
        Mount(source="x", target="/x"),
        Mount(source="z", target="/y", volume_no_copy=True),
    )


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ("deploy: {mode: global}", {"mode": ServiceMode.GLOBAL}),
        ("deploy: {replicas: 0}", {"replicas": 0}),
        (
            "ports: ['443:443', '80:8080', {target: 53, published: 53, protocol: udp, mode: host}]",
            {
                "endpoint": EndpointSpec(
                    ports=(
                        PortConfig(target_port=53, published_port=53, protocol="udp", publish_mode="host"),
                        PortConfig(target_port=8080, published_port=80),
                        PortConfig(target_port=443, published_port=443),
                    )
                )
            },
        ),
        ("deploy: {endpoint_mode: dnsrr}", {"endpoint": EndpointSpec(mode="dnsrr")}),
        (
            "deploy: {update_config: {delay: 1s, order: start-first}, rollback_config: {parallelism: 0}}",
            {
                "update": UpdateConfig(parallelism=1, delay_ns=SECOND, order="start-first"),
                "rollback": UpdateConfig(parallelism=0),
            },
        ),
    ],
)
def test_deploy(tmp_path: Path, lines: str, fields: dict[str, Any]) -> None:
    """The mode, ports and update settings stand on the service."""
    spec = web(tmp_path, lines)
    assert {name: getattr(spec, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        ("restart: always", {"restart": RestartPolicy(condition="any")}),
        ("restart: on-failure:3", {"restart": RestartPolicy(condition="on-failure", max_attempts=3)}),
        ("restart: 'no'", {"restart": None}),
        (
            "restart: always\ndeploy: {restart_policy: {condition: none, delay: 1s, max_attempts: 0, window: 2s}}",
            {"restart": RestartPolicy(condition="none", delay_ns=SECOND, max_attempts=0, window_ns=2 * SECOND)},
        ),
        (
            "deploy: {resources: {limits: {cpus: '0.5', memory: 1M, pids: 9}, reservations: {cpus: '1'}}}",
            {
                "resources": ResourceRequirements(
                    limits=Resources(nano_cpus=500_000_000, memory_bytes=1 << 20, pids=9),
                    reservations=Resources(nano_cpus=1_000_000_000),
                )
            },
        ),
        (
            "deploy: {resources: {limits: {pids: -1}}}",
            {"resources": ResourceRequirements(limits=Resources(pids=-1))},
        ),
        (
            RESERVING,
            {
                "resources": ResourceRequirements(
                    reservations=Resources(generic=(GenericResource(kind="gpu", count=2),))
                )
            },
        ),
        (
            PLACEMENT,
            {"placement": Placement(constraints=("a == b",), spread=("a", "b"), max_replicas=2)},
        ),
        (
            "logging: {driver: json-file, options: {max-file: 3}}",
            {"log_driver": LogDriver(name="json-file", options={"max-file": "3"})},
        ),
    ],
)
def test_tasks(tmp_path: Path, lines: str, fields: dict[str, Any]) -> None:
    """Restarts, resources, placement and logging stand on the task."""
    task = web(tmp_path, lines).task
    assert {name: getattr(task, name) for name in fields} == fields


def test_networks_are_attached_with_a_warning(tmp_path: Path) -> None:
    """Networks are kept in the spec, and the user is told that they do not connect services yet."""
    result = stack(
        tmp_path,
        "services: {web: {image: i, networks: {front: {aliases: [w]}, out: }}}\n"
        "networks: {front: , out: {external: {name: other}}}\n",
    )
    assert result.services[0].task.networks == (
        NetworkAttachment(target="other", aliases=("web",)),
        NetworkAttachment(target="st_front", aliases=("web", "w")),
    )
    (warning,) = result.warnings
    assert warning.startswith("networks: front, out are accepted, but overlay networks are not available yet: ")


def test_the_hosts_network_is_there(tmp_path: Path) -> None:
    """As every node has it, nothing is to be said of it, and names have no meaning in it."""
    result = stack(
        tmp_path,
        "services: {web: {image: i, networks: {outside: {aliases: [w]}}}}\n"
        "networks: {outside: {external: true, name: host}}\n",
    )
    assert result.services[0].task.networks == (NetworkAttachment(target="host"),)
    assert result.warnings == ()


def test_what_is_ignored_is_said(tmp_path: Path) -> None:
    """Options without a meaning in a cluster are named once, sorted."""
    result = stack(
        tmp_path,
        "services:\n"
        "  a: {image: i, build: ., privileged: true, container_name: x, ports: ['127.0.0.1:80:80'], restart: 'no'}\n"
        "  b: {image: i, build: ., links: [a], expose: [80], security_opt: ['seccomp:./p.json', 'label:x']}\n",
    )
    assert result.services[1].task.container.privileges is None
    assert result.warnings == (
        "Ignoring unsupported options: build, links, privileged, security_opt label:x, security_opt seccomp:./p.json",
        "Ignoring deprecated options: container_name, expose",
        "services.a.ports: ignoring the address of 127.0.0.1:80:80: the port is published on all addresses",
        'services.a.restart: "no" has no effect in a stack: set deploy.restart_policy.condition to none instead',
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("secrets: [s]", "f.yml:4: services.web.secrets[0]: undefined secret 's': declare it under the top-level"),
        ("configs: [{source: s}]", "f.yml:4: services.web.configs[0]: undefined config 's': declare it under"),
        (
            "deploy: {mode: replicated-job, update_config: {parallelism: 1}}",
            "f.yml:4: services.web.deploy.update_config: jobs are executed anew when they change: remove it",
        ),
        (
            "deploy: {mode: global-job, restart_policy: {condition: any}}",
            "f.yml:4: services.web.deploy.restart_policy.condition: a job that completes does not run again",
        ),
        ("restart: always\ndeploy: {mode: global-job}", "f.yml:4: services.web.restart: a job that completes"),
        (
            "deploy: {mode: global-job, replicas: 2}",
            "f.yml:4: services.web.deploy.replicas: a global-job service runs one task on each node",
        ),
        ("deploy: {mode: often}", "f.yml:4: services.web.deploy.mode: unknown mode 'often': replicated, global, repl"),
        ("deploy: {mode: global, replicas: 2}", "f.yml:4: services.web.deploy.replicas: a global service runs one"),
        ("volumes: ['v:/v']", "f.yml:4: services.web.volumes[0]: undefined volume 'v': declare it under"),
        ("volumes: [{type: bind, target: /a}]", "f.yml:4: services.web.volumes[0]: a bind mount needs a source"),
        ("volumes: [{type: npipe, target: /a}]", "f.yml:4: services.web.volumes[0].type: mounts of type npipe are not"),
        ("volumes: ['/a:/x', '/b:/x']", "f.yml:4: services.web.volumes: two mounts on '/x'"),
        ("networks: [n]", "f.yml:4: services.web.networks: undefined network 'n': declare it under"),
        ("restart: sometimes", "f.yml:4: services.web.restart: unknown restart policy 'sometimes'"),
        ("healthcheck: {test: [a]}", "f.yml:4: services.web.healthcheck.test: the first item is 'a'"),
        ("healthcheck: {test: a, disable: true}", "f.yml:4: services.web.healthcheck.test: test and disable: true"),
        (
            "ports: ['80:80']\ndeploy: {endpoint_mode: dnsrr}",
            "f.yml:4: services.web.ports: endpoint mode dnsrr cannot publish in ingress mode",
        ),
        ("ports: [{target: 80, mode: x}]", "f.yml:4: services.web.ports[0].mode: unknown mode 'x': ingress or host"),
        (
            "volumes: [{type: volume, target: /v, volume: {subpath: a}}]",
            'f.yml:2: services.web: invalid mount config for type "volume": a subpath needs a volume with a name',
        ),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    """What contradicts itself or is not available yet is an error with file, line, key and a way out."""
    with pytest.raises(ComposeError) as caught:
        web(tmp_path, lines)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {}", "there are no services in the file"),
        ("services: {web: {command: a}}", "services.web: no image given: add the key 'image'"),
        ("services: {web: {build: .}}", "services.web: no image given: build the image first"),
        ("services: {web: {image: 'A B'}}", "services.web.image: 'A B' is no image reference"),
        ("services: {web.a: {image: a}}", "services.web.a: the service would be named 'st_web.a'"),
        ("services: {" + "w" * 61 + ": {image: a}}", "at most 63 characters"),
        (
            "services: {a: {image: i, ports: ['80:80']}, b: {image: i, ports: ['80:81']}}",
            "services.b.ports: port 80/tcp is published by service 'a' already",
        ),
    ],
)
def test_files_that_make_no_stack(tmp_path: Path, text: str, message: str) -> None:
    """A stack needs services with images, good names and ports of their own."""
    with pytest.raises(ComposeError) as caught:
        stack(tmp_path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a/b", "a.b", "ü", "a" * 63])
def test_bad_stack_names_are_refused(tmp_path: Path, name: str) -> None:
    """A stack's name becomes part of names that travel in DNS."""
    file = tmp_path / "f.yml"
    file.write_text("services: {web: {image: a}}")
    with pytest.raises(InvalidArgument, match="invalid stack name"):
        convert(load([file], {}), name)


def test_jobs_have_completions_instead_of_replicas(tmp_path: Path) -> None:
    """All at once, as the docker CLI reads the file; without a number it is one."""
    many = web(tmp_path, "deploy: {mode: replicated-job, replicas: 3}")
    assert (many.mode, many.replicas) == (ServiceMode.REPLICATED_JOB, None)
    assert (many.desired_concurrency, many.desired_completions) == (3, 3)
    one = web(tmp_path, "deploy: {mode: replicated-job}")
    assert (one.desired_concurrency, one.desired_completions) == (1, 1)
    each = web(tmp_path, "deploy: {mode: global-job}")
    assert (each.mode, each.max_concurrent) == (ServiceMode.GLOBAL_JOB, None)


def test_tasks_that_may_be_missing(tmp_path: Path) -> None:
    """A number or a percentage; a key of the service, as Docker refuses a file that has it below ``deploy``."""
    lines = "x-swarmpy-max-unavailable: %s"
    assert web(tmp_path, "deploy: {replicas: 3}").max_unavailable is None
    assert web(tmp_path, lines % "2").max_unavailable == MaxUnavailable(amount=2)
    for text in ("25%", '"25%"'):
        assert web(tmp_path, lines % text).max_unavailable == MaxUnavailable(amount=25, is_percentage=True)
    for wrong, words in (("0", "at least 1 task"), ("101%", "more than all"), ("few", "neither a number"), ("[]", "")):
        with pytest.raises(ComposeError, match=f"x-swarmpy-max-unavailable.*{words}"):
            web(tmp_path, lines % wrong)
    with pytest.raises(ComposeError, match="x-swarmpy-max-unavailable: the tasks of a job"):
        web(tmp_path, "deploy: {mode: global-job}\nx-swarmpy-max-unavailable: 1")
    with pytest.raises(ComposeError, match="it is a key of the service, beside deploy"):
        web(tmp_path, "deploy: {x-swarmpy-max-unavailable: 1}")


def test_updates_may_have_a_progress_deadline(tmp_path: Path) -> None:
    """Under a name of ours."""
    lines = "deploy:\n  update_config: {x-swarmpy-progress-deadline: 90s}"
    update = web(tmp_path, lines).update
    assert update is not None
    assert update.progress_deadline_ns == 90_000_000_000
    with pytest.raises(ComposeError, match="x-swarmpy-progress-deadline"):
        web(tmp_path, lines.replace("90s", "soon"))


def test_a_service_may_have_one_progress_deadline(tmp_path: Path) -> None:
    """Of updates and rollbacks that have none of their own."""
    of_service = "x-swarmpy-progress-deadline: 60s\n"
    spec = web(tmp_path, of_service + "deploy:\n  update_config: {x-swarmpy-progress-deadline: 90s}")
    assert spec.update is not None
    assert spec.update.progress_deadline_ns == 90_000_000_000
    assert spec.rollback == UpdateConfig(progress_deadline_ns=60_000_000_000)
    spec = web(tmp_path, of_service + "deploy:\n  update_config: {order: start-first}")
    assert spec.update == UpdateConfig(parallelism=1, order="start-first", progress_deadline_ns=60_000_000_000)
    with pytest.raises(ComposeError, match="x-swarmpy-progress-deadline"):
        web(tmp_path, of_service.replace("60s", "soon"))
    with pytest.raises(ComposeError, match="x-swarmpy-progress-deadline: jobs are executed anew"):
        web(tmp_path, of_service + "deploy: {mode: global-job}")

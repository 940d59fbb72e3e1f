"""Specs: what users ask for. The system copies them and never writes them.

Field names are Docker's in snake case, with the unit at the end: ``*_ns`` nanoseconds, ``*_bytes`` bytes, ``nano_cpus``
billionths of a core. None means "not given", which Docker's API keeps apart from a default; the defaults themselves
are methods (``*_or_default``) or in :mod:`swarmpy.model.defaults`. Everything is immutable; change with
``attrs.evolve``. A new field needs a default, so that old bytes can be read.
"""

from __future__ import annotations

import re

import attrs

from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.privileges import Privileges
from swarmpy.model.states import Availability, Role, ServiceMode


@attrs.frozen(kw_only=True)
class GenericResource:
    """Something that nodes have and tasks reserve, of which only its ``kind`` is known ("gpu").

    A node has a ``count`` (discrete) or the ``names`` of what it has (named). A reservation is a ``count``; which of
    the names a task got is written down in the task.
    """

    kind: str
    count: int = 0
    names: tuple[str, ...] = ()

    @property
    def amount(self) -> int:
        """How many there are."""
        return len(self.names) or self.count


@attrs.frozen(kw_only=True)
class Resources:
    """An amount of resources; 0 is "none asked"."""

    nano_cpus: int = 0
    memory_bytes: int = 0
    pids: int = 0
    """Only as a limit."""
    generic: tuple[GenericResource, ...] = ()
    """Each kind once; not as a limit."""


@attrs.frozen(kw_only=True)
class Platform:
    """Machine architecture and operating system, in Docker's spelling (``x86_64``, ``linux``)."""

    architecture: str = ""
    os: str = "linux"


@attrs.frozen(kw_only=True)
class ResourceRequirements:
    """``limits`` are enforced by the runtime; ``reservations`` count in placement."""

    limits: Resources | None = None
    reservations: Resources | None = None


@attrs.frozen(kw_only=True)
class Healthcheck:
    """How to ask a task whether it is well. ``test`` is Docker's: ("CMD", ...), ("CMD-SHELL", line) or ("NONE",).

    Zero means the image's or the engine's default (30 s, 30 s, 0 s, 3).
    """

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    retries: int = 0
    start_interval_ns: int = 0
    """Between two questions in the start period; 0: the engine's default (5 s)."""


@attrs.frozen(kw_only=True)
class Mount:
    """A mount: type ``bind``, ``volume`` or ``tmpfs``."""

    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False
    bind_propagation: str = ""
    volume_no_copy: bool = False
    volume_labels: dict[str, str] = attrs.Factory(dict)
    volume_driver: str = ""
    volume_driver_opts: dict[str, str] = attrs.Factory(dict)
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    consistency: str = ""
    """Docker keeps it, and it means nothing on Linux."""
    bind_non_recursive: bool = False
    """Without what is mounted below the source."""
    bind_create_mountpoint: bool = False
    """A source that is not there is made, as a directory."""
    bind_read_only_non_recursive: bool = False
    """``read_only`` does not count for what is mounted below the source."""
    bind_read_only_force_recursive: bool = False
    """Where the kernel cannot make that read-only the container is not started."""
    volume_subpath: str = ""
    """A path in the volume, which is mounted instead of the whole."""


@attrs.frozen(kw_only=True)
class Ulimit:
    """A resource limit of a process, by its name without RLIMIT_ ("nofile")."""

    name: str
    soft: int
    hard: int


@attrs.frozen(kw_only=True)
class FileTarget:
    """The file that a task sees: a relative ``name`` of a secret is under ``/run/secrets``, of a config under ``/``."""

    name: str
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444


@attrs.frozen(kw_only=True)
class SecretReference:
    """A secret that a task gets as a file: one version of it, by its id."""

    secret_id: SecretId
    secret_name: str
    file: FileTarget


@attrs.frozen(kw_only=True)
class ConfigReference:
    """A config that a task gets as a file: one version of it, by its id."""

    config_id: ConfigId
    config_name: str
    file: FileTarget


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """What to run. ``command`` is Docker's entrypoint, ``args`` its command."""

    image: str = ""
    labels: dict[str, str] = attrs.Factory(dict)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    hostname: str = ""
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    init: bool | None = None
    stop_signal: str = ""
    stop_grace_period_ns: int | None = None
    healthcheck: Healthcheck | None = None
    mounts: tuple[Mount, ...] = ()
    hosts: tuple[str, ...] = ()
    """Docker's API form of extra hosts: ``"IP name ..."``."""
    dns_nameservers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    sysctls: dict[str, str] = attrs.Factory(dict)
    ulimits: tuple[Ulimit, ...] = ()
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    privileges: Privileges | None = None
    oom_score_adj: int = 0
    """-1000 to 1000: the sooner the kernel takes it when memory runs out, the higher."""
    pull_secret_id: SecretId | None = None
    """The secret with the registry's credentials; None: the image is pulled without."""


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """What to do when a task ends. ``condition``: ``any``, ``on-failure`` or ``none``. None: the default.

    A task of a job that completes does not run again: ``any``, which the docker CLI sends where nothing is said, is
    ``on-failure`` there.
    """

    condition: str | None = None
    delay_ns: int | None = None
    max_attempts: int | None = None
    """0: no bound."""
    window_ns: int | None = None
    """0: all attempts ever count."""


@attrs.frozen(kw_only=True)
class Placement:
    """Where tasks may run. Constraints are ``key==value`` or ``key!=value``."""

    constraints: tuple[str, ...] = ()
    spread: tuple[str, ...] = ()
    """Spread preferences: label keys such as ``node.labels.zone``, most important first."""
    max_replicas: int = 0
    """Most tasks of the service on one node; 0: no bound."""
    platforms: tuple[Platform, ...] = ()
    """What the image exists for; a node of one of them will do. An architecture or an operating system of "" is any.
    None at all: any node."""


@attrs.frozen(kw_only=True)
class LogDriver:
    """The engine's log driver for a task."""

    name: str = ""
    options: dict[str, str] = attrs.Factory(dict)


@attrs.frozen(kw_only=True)
class NetworkAttachment:
    """A network that the tasks join, by name or id."""

    target: str
    aliases: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class TaskSpec:
    """What one task is made from. A task carries a whole copy and is never edited."""

    container: ContainerSpec = ContainerSpec()
    resources: ResourceRequirements | None = None
    restart: RestartPolicy | None = None
    placement: Placement | None = None
    log_driver: LogDriver | None = None
    networks: tuple[NetworkAttachment, ...] = ()
    force_update: int = 0
    """A counter: raising it replaces every task."""


@attrs.frozen(kw_only=True)
class UpdateConfig:
    """How to replace tasks. None: the default of :mod:`swarmpy.model.defaults`."""

    parallelism: int | None = None
    """Slots at a time; 0: all at once."""
    delay_ns: int | None = None
    failure_action: str | None = None
    """``pause``, ``continue`` or ``rollback``."""
    monitor_ns: int | None = None
    max_failure_ratio: float | None = None
    order: str | None = None
    """``stop-first`` or ``start-first``."""
    progress_deadline_ns: int | None = None
    """The longest time without progress, before the failure action is taken; 0: no bound."""


_MAX_UNAVAILABLE = re.compile(r"([0-9]{1,7})(%?)", re.ASCII)


@attrs.frozen(kw_only=True)
class MaxUnavailable:
    """How many slots of a service may be missing: so many, or so many of a hundred."""

    amount: int
    is_percentage: bool = False

    @classmethod
    def parse(cls, text: str) -> MaxUnavailable:
        """From ``2`` or ``25%``. Raises ValueError."""
        found = _MAX_UNAVAILABLE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:20]!r} is neither a number of tasks, such as 2, nor a percentage, such as 25%")
        value = cls(amount=int(found[1]), is_percentage=bool(found[2]))
        value.check()
        return value

    def check(self) -> None:
        """Raises ValueError for a bound that would let nothing be replaced, or is none."""
        if self.amount < 1:
            raise ValueError(f"at least 1 task must be allowed to be missing, not {self}: nothing could be replaced")
        if self.is_percentage and self.amount > 100:
            raise ValueError(f"{self} is more than all tasks: 100% is the most")

    def of(self, slots: int) -> int:
        """How many of so many slots: a percentage is rounded down, but not to nothing (as in Kubernetes)."""
        return max(1, slots * self.amount // 100) if self.is_percentage else self.amount

    def __str__(self) -> str:
        return f"{self.amount}{'%' if self.is_percentage else ''}"


@attrs.frozen(kw_only=True)
class PortConfig:
    """A port of a service. ``publish_mode`` ingress: on every node; host: on the task's node only."""

    name: str = ""
    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    """0: chosen by the cluster (ingress) or the engine (host)."""
    publish_mode: str = "ingress"


@attrs.frozen(kw_only=True)
class EndpointSpec:
    """How a service is reached: ``mode`` vip or dnsrr."""

    mode: str = "vip"
    ports: tuple[PortConfig, ...] = ()


@attrs.frozen(kw_only=True)
class ServiceSpec:
    """A service, as its user wants it."""

    name: str = ""
    labels: dict[str, str] = attrs.Factory(dict)
    task: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode.REPLICATED
    replicas: int | None = None
    """Only of a replicated service; None is 1."""
    max_concurrent: int | None = None
    """Of a replicated job: the most of its tasks that are under way at a time; None is 1."""
    total_completions: int | None = None
    """Of a replicated job: how many tasks are to complete; None is as many as ``max_concurrent``."""
    update: UpdateConfig | None = None
    rollback: UpdateConfig | None = None
    max_unavailable: MaxUnavailable | None = None
    """The most slots that may be missing by the cluster's own doing; None: no bound."""
    endpoint: EndpointSpec | None = None

    @property
    def desired_replicas(self) -> int:
        """Replicas wanted of a replicated service."""
        return 1 if self.replicas is None else self.replicas

    @property
    def desired_concurrency(self) -> int:
        """Tasks of a replicated job that may be under way at a time."""
        return 1 if self.max_concurrent is None else self.max_concurrent

    @property
    def desired_completions(self) -> int:
        """Completions wanted of a replicated job."""
        return self.desired_concurrency if self.total_completions is None else self.total_completions


@attrs.frozen(kw_only=True)
class NodeSpec:
    """What the operator wants of a node."""

    name: str = ""
    labels: dict[str, str] = attrs.Factory(dict)
    role: Role = Role.WORKER
    availability: Availability = Availability.ACTIVE


@attrs.frozen(kw_only=True)
class SecretSpec:
    """A secret, as its user wants it. ``data`` is never shown again."""

    name: str = ""
    """"" of the credentials for a registry, which belong to a service: their data is the JSON object of Docker's
    ``AuthConfig``."""
    labels: dict[str, str] = attrs.Factory(dict)
    data: bytes = attrs.field(default=b"", repr=False)
    templating: str = ""
    """``golang``: the data is a template; ""."""


@attrs.frozen(kw_only=True)
class ConfigSpec:
    """A config, as its user wants it. Its data may be shown."""

    name: str
    labels: dict[str, str] = attrs.Factory(dict)
    data: bytes = attrs.field(default=b"", repr=False)
    templating: str = ""
    """``golang``: the data is a template; ""."""

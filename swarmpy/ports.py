"""The edges of the machine, as protocols: what a pure part may ask of the world.

Everything above this module is written against these; the real ones live in ``wire``, ``runtime``, ``network`` and
``node``, their twins on a virtual clock in the simulator. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import attrs

from swarmpy.model.assignments import Endpoint, PublishedPort
from swarmpy.model.dependencies import NO_DEPENDENCIES, Dependencies
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.images import RegistryImage
from swarmpy.model.logs import LogLine, LogOptions
from swarmpy.model.objects import ContainerStatus, NodeDescription, PortStatus, Task
from swarmpy.model.states import Role


class Clock(Protocol):
    """Time. Timers come from the running event loop, which the simulator replaces as well."""

    def time_ns(self) -> int:
        """Wall clock, nanoseconds since the Unix epoch. Only ever shown or stored, never used to order events."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""


class Random(Protocol):
    """Randomness; ``random.Random`` and ``random.SystemRandom`` satisfy it."""

    def random(self) -> float:
        """A float in [0, 1)."""

    def uniform(self, a: float, b: float, /) -> float:
        """A float in [a, b]."""

    def randrange(self, stop: int, /) -> int:
        """An int in [0, stop)."""

    def randbytes(self, n: int, /) -> bytes:
        """``n`` random bytes."""


@attrs.frozen(kw_only=True)
class Peer:
    """Who is on the other end of a channel. ``role`` is None for a caller without a certificate (a joiner)."""

    node_id: NodeId | None = None
    role: Role | None = None
    cluster_id: str = ""
    serial: str = ""
    """The serial number of its certificate, in hexadecimal; "" where it has shown none: without one, on this node."""
    address: str = ""
    """``host:port`` as seen on the connection."""
    certificate: str = ""
    """The fingerprint of the certificate that it showed; "" of one that showed none, and on this node itself."""
    signers: tuple[str, ...] = ()
    """The keys (``security.roots.key_of``) by which it was verified: of the CA that signed it, and on to a root CA that
    the verifier trusts."""

    @property
    def is_anonymous(self) -> bool:
        """True for a caller without a certificate of this cluster."""
        return self.role is None


class Channel(Protocol):
    """One connection to a peer. All payloads are plain data: None, bool, int, float, str, bytes, list, dict of str."""

    @property
    def peer(self) -> Peer:
        """The authenticated other end."""

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        """One request, one answer.

        Raises the peer's SwarmpyError; ConnectionFailed when the request surely was not sent; OutcomeUnknown when the
        connection broke or ``timeout`` (seconds) ended between request and answer.
        """

    def notify(self, method: str, payload: Any) -> bool:
        """Send without an answer, best effort. False when it was dropped (closed, or the send buffer is full)."""

    def stream(self, method: str, payload: Any) -> AsyncIterator[Any]:
        """One request, many answers. Ends when the peer ends it; raises as :meth:`call`. Close it with ``aclose``."""

    async def wait_closed(self) -> None:
        """Return when the connection is gone."""

    async def close(self) -> None:
        """Close. Idempotent."""


class Dialer(Protocol):
    """Opens channels with this node's own identity."""

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Channel:
        """Connect to ``host:port``.

        Raises ConnectionFailed when nobody answers within ``timeout`` seconds, BadCertificate when the peer is not of
        this cluster, or not the node ``expect``.
        """


CallHandler = Callable[[Peer, Any], Awaitable[Any]]
StreamHandler = Callable[[Peer, Any], AsyncIterator[Any]]


@attrs.frozen(kw_only=True)
class RunningTask:
    """What a runtime says of a task that runs."""

    container: ContainerStatus
    ports: tuple[PortStatus, ...] = ()
    """Where each of the task's ports is reachable: (node address, host port)."""
    not_done: tuple[str, ...] = ()
    """What its spec asks for and this runtime does not do, by Docker's names."""


@attrs.frozen(kw_only=True)
class TaskExit:
    """What a runtime says of a task that ended."""

    exit_code: int
    error: str = ""
    """A reason beside the exit code ("unhealthy container", "out of memory"), or ""."""


@attrs.frozen(kw_only=True)
class Progress:
    """What a runtime says of a task that it prepares."""

    message: str
    """How far it is."""
    err: str = ""
    """What did not work and is tried again; ""."""


Told = Callable[[Progress], None]


def unheard(_progress: Progress) -> None:
    """Where nobody wants to know."""


class Runtime(Protocol):
    """Where a task becomes something that runs. Every method may be called again after a failure or a restart.

    Any method may raise RuntimeUnavailable (the engine is away; try again later with a back-off).
    """

    @property
    def name(self) -> str:
        """``docker``, ``process`` or ``simulated``."""

    async def open(self) -> None:
        """Connect. Raises RuntimeUnavailable."""

    async def close(self) -> None:
        """Let go. The process runtime ends its tasks; the docker runtime leaves its containers running."""

    async def describe(self) -> NodeDescription:
        """Platform, resources and engine of this machine."""

    async def wait_disturbed(self) -> None:
        """Return when there is a reason to ask the engine whether it is still there; that may never be."""

    async def list_tasks(self) -> Mapping[TaskId, RunningTask | None]:
        """The tasks of this node that exist on this machine, running (its status) or not (None). For adoption."""

    async def prepare(self, task: Task, needed: Dependencies = NO_DEPENDENCIES, told: Told = unheard) -> None:
        """Make it startable: get the image, create the container, with ``needed`` as files in memory of the machine.

        These are gone when :meth:`wait` has returned, and after :meth:`stop` and :meth:`remove`. ``told`` hears how far
        it is, as often as there is something new. Raises TaskRejected.
        """

    async def start(self, task: Task) -> RunningTask:
        """Start it and, if it has a healthcheck, wait until it is healthy. A task that runs already is fine.

        Raises TaskFailed (it ended or turned unhealthy meanwhile), TaskRejected.
        """

    async def wait(self, task: Task) -> TaskExit:
        """Return when it has ended (or was ended because it turned unhealthy)."""

    async def stop(self, task: Task) -> None:
        """Ask it to end; after its stop grace period make it end. A task that is not there is fine."""

    async def remove(self, task_id: TaskId) -> None:
        """Remove all traces, running or not. A task that is not there is fine."""

    async def find_image(self, image: str, auth: bytes = b"") -> RegistryImage:
        """What the registry of ``image`` says of it, asked with the credentials ``auth``, a JSON object; b"": none.

        Raises NotFound, PermissionDenied (the credentials, or that there are none), Unavailable (the registry is away),
        FailedPrecondition (a runtime that knows no registries).
        """

    def logs(self, task: Task, options: LogOptions) -> AsyncGenerator[LogLine, None]:
        """What the task has written; with ``follow``, and what it writes until it ends.

        Nothing of a task that is not there. Close it with ``aclose``.
        """


class DataPlane(Protocol):
    """Brings requests from any node's published ports to a healthy task."""

    async def apply(self, ports: Mapping[PublishedPort, tuple[Endpoint, ...]]) -> None:
        """Make the whole table current: listen on exactly these published ports and route to exactly these endpoints.

        When it returns, no new connection goes to an endpoint that is not in the table.
        """

    def problems(self) -> tuple[str, ...]:
        """One line for each published port that could not be opened on this node, and why."""

    async def drain(self) -> None:
        """Take no new connection from now on, and bring what was taken to an end, as far as that does not take long.

        The table is kept current meanwhile. For a node that is about to stop.
        """

    async def close(self) -> None:
        """Stop listening and cut what is left."""

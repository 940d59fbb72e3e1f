"""What the API asks of the node it runs on: two protocols, implemented by the manager and by the node itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from swarmpy.model.assignments import Departure, ManagerAddress
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.images import RegistryImage
from swarmpy.model.objects import Node, NodeDescription
from swarmpy.model.states import Availability, TaskState
from swarmpy.raft.status import RaftStatus
from swarmpy.security.sealing import UnlockKey
from swarmpy.store.memory import Store
from swarmpy.store.view import View


@attrs.frozen(kw_only=True)
class LeavingNode:
    """A node that waits until its tasks have moved."""

    waited: float
    """Seconds since it began."""
    timeout: float
    """Most seconds that it waits."""
    departure: Departure | None
    """What the leader said of it last."""


@attrs.frozen(kw_only=True)
class InitRequest:
    """Make this node the first manager of a new cluster. Addresses as given by the user; "" means the default."""

    listen_addr: str = ""
    """``host:port`` or ``host`` of the cluster port."""
    advertise_addr: str = ""
    """``host:port``, ``host`` or an interface: what other nodes call this one by."""
    availability: Availability = Availability.ACTIVE
    spec: ClusterSpec = attrs.Factory(ClusterSpec)
    force_new_cluster: bool = False
    """Begin the cluster of this manager anew, with its state and without the other managers. Of the rest only the
    addresses count then, "" meaning the present ones."""


@attrs.frozen(kw_only=True)
class JoinRequest:
    """Make this node a member of a cluster that exists, in the role that the token gives."""

    listen_addr: str = ""
    advertise_addr: str = ""
    availability: Availability = Availability.ACTIVE
    remote_addrs: tuple[str, ...]
    """Managers to ask, ``host:port`` or ``host``; at least one."""
    join_token: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class RestoreRequest:
    """Make this node the only manager of the cluster in a backup."""

    file: str
    """Where the backup is on this node's machine: an absolute path."""
    listen_addr: str = ""
    advertise_addr: str = ""
    force: bool = False
    """Also when managers of that cluster answer: they will count no more."""
    unlock_key: UnlockKey | None = None
    """Of a backup that is sealed."""


class ManagerBackend(Protocol):
    """A manager, as far as its API needs it."""

    @property
    def store(self) -> Store:
        """The replicated state."""

    @property
    def is_leader(self) -> bool:
        """True when this manager leads and can serve writes."""

    def leader(self) -> tuple[str, str] | None:
        """Node id and cluster address of the leader as far as this manager knows; it may be dead already."""

    async def read_barrier(self, timeout: float) -> None:
        """Return when ``store.view()`` shows every write acknowledged so far. Raises Unavailable."""

    async def call_leader(self, method: str, payload: Any, timeout: float) -> Any:
        """Call the leader. Raises as ports.Channel.call, and NoQuorum when none is known."""

    @property
    def term(self) -> int:
        """The Raft term that this manager is in."""

    def raft_status(self) -> RaftStatus:
        """Role, term, commit and progress."""

    async def raft_report(self) -> dict[str, Any]:
        """This manager's log, and every member as the leader sees it; as far as it is known, without raising."""

    def reachable_managers(self) -> Mapping[str, bool | None]:
        """By node id: whether this manager can reach the managers of the cluster; None where it cannot tell."""

    def check_demotion(self, view: View, node: Node) -> None:
        """Leader: raises FailedPrecondition when the quorum would be lost without the manager on ``node``."""

    def new_id(self) -> str:
        """A fresh identifier."""

    def new_join_token(self, ca_digest: str) -> str:
        """A fresh join token for the root CA of that digest."""


class NodeBackend(Protocol):
    """A node, in a cluster or not, as far as its API needs it."""

    @property
    def local_state(self) -> str:
        """``inactive``, ``pending`` (joining), ``active``, ``locked`` or ``error``."""

    @property
    def error(self) -> str:
        """Why ``local_state`` is ``error``; "" otherwise."""

    @property
    def node_id(self) -> str:
        """ "" outside a cluster."""

    @property
    def node_address(self) -> str:
        """The address other nodes reach this one at, without a port; "" outside a cluster."""

    @property
    def cluster_id(self) -> str:
        """ "" outside a cluster."""

    @property
    def manager(self) -> ManagerBackend | None:
        """Set while this node is a manager."""

    @property
    def description(self) -> NodeDescription:
        """Machine and engine."""

    @property
    def version(self) -> str:
        """Of swarmpy."""

    def manager_addresses(self) -> tuple[ManagerAddress, ...]:
        """Where the managers listen, as far as this node knows."""

    def problems(self) -> tuple[str, ...]:
        """What does not work on this node, one line each."""

    @property
    def may_rejoin(self) -> bool:
        """True for a member that :meth:`join` brings back into its cluster, as others refuse its certificate."""

    def task_states(self) -> tuple[TaskState, ...]:
        """The observed states of the tasks on this node, ended ones included until all traces are removed."""

    async def find_image(self, image: str, auth: bytes) -> RegistryImage:
        """What the registry of an image says of it, asked by this node's engine with the credentials ``auth``.

        Raises as ``ports.Runtime.find_image``; NotInCluster.
        """

    async def init(self, request: InitRequest) -> str:
        """Found a cluster, or begin one anew; returns the id of this node in it.

        Raises AlreadyInCluster, InvalidArgument; to begin one anew, NotInCluster (there is none, or this is a worker)
        and FailedPrecondition (its managers have a quorum).
        """

    async def join(self, request: JoinRequest) -> None:
        """Join a cluster, or come back into it where :attr:`may_rejoin`.

        Raises AlreadyInCluster, InvalidArgument, PermissionDenied, Unavailable.
        """

    async def restore(self, request: RestoreRequest) -> str:
        """Bring a cluster back from a backup; returns the id of this node in it.

        Raises AlreadyInCluster, InvalidArgument, LogCorrupted and DataDirMismatch (of the backup), FailedPrecondition
        (managers of the cluster answer).
        """

    def leaving(self) -> LeavingNode | None:
        """How far this node is, while it is about to leave, or drained by its own daemon."""

    async def drain(self, *, timeout: float | None = None, undo: bool = False) -> tuple[str, ...]:
        """Have this node's tasks moved away until its daemon is started again; ``undo``: it may have some again.

        ``timeout`` as for :meth:`leave`. Returns what does not run elsewhere, one line each. Raises NotInCluster;
        FailedPrecondition and Unavailable when not all tasks have gone.
        """

    async def leave(self, *, force: bool, timeout: float | None = None) -> tuple[str, ...]:
        """Leave the cluster; with ``force`` at once, and also one whose key nobody has.

        A worker's tasks are moved away first, for ``timeout`` seconds at most; None: what they need to stop, and some.
        Returns what was lost by its leaving, one line each.

        Raises NotInCluster; FailedPrecondition for a manager without ``force``.
        """

    async def unlock(self, key: UnlockKey) -> None:
        """Go on as the manager that this node is, where it waits for its unlock key; a key may have to wait its turn.

        Raises NotLocked, NotInCluster, InvalidArgument (it is not the key), Unavailable (another one is being tried).
        """

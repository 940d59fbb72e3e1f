"""The leader's part in a change of the root CA: it tells the nodes, a few at a time, and takes the steps.

Which steps there are is decided in :mod:`swarmpy.control.rotation`, from the state alone: another leader goes on where
this one stopped. The same loop brings up to date who was away meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import structlog

from swarmpy.control import rotation as control
from swarmpy.control.rotation import Wanted
from swarmpy.errors import FailedPrecondition, InvalidArgument, NotLeader, SwarmpyError
from swarmpy.manager.events import drain
from swarmpy.manager.trust import Orders
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, Kind
from swarmpy.model.states import NodeState
from swarmpy.ports import Clock, Random
from swarmpy.security import ca, roots, tokens
from swarmpy.security.rehearsal import rehearse
from swarmpy.security.roots import given_root
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.store.view import View
from swarmpy.store.watch import Event, Resync

log = structlog.get_logger(__name__)

TURN_S = 0.5
"""Seconds from telling some nodes to telling the next; less by up to a half."""
BATCH = 20
"""Nodes that are told at a time: each makes a few connections and entries of the log."""
LOOK_S = 0.5
"""How often it is looked whether managers are away that are waited for, which is no event, in seconds."""
COLLECT_S = 0.05
"""Seconds to wait after a change for others: in a large cluster many nodes move at a time, and each look takes all."""
RETRY_S = 1.0
FORGET_S = 600.0
"""How often former roots are looked at whose time may be over, in seconds."""


class RootRotator:
    """One term of office. :meth:`orders` is for the dispatcher."""

    def __init__(
        self, *, store: Store, clock: Clock, random: Random, managers: Callable[[], Mapping[str, bool | None]]
    ) -> None:
        """``managers``: those in the Raft group, and whether they are there (None: not known)."""
        self._store = store
        self._clock = clock
        self._random = random
        self._managers = managers
        self._wanted: Wanted | None = None
        self._behind: dict[NodeId, None] = {}
        """The nodes that do not show and trust what is wanted."""
        self._told: set[NodeId] = set()
        self._next_turn = 0.0

    def orders(self, node_id: NodeId) -> Orders | None:
        """What the node is to be told; None when there is nothing, or it is not its turn yet."""
        return Orders.of(self._store.view().cluster()) if node_id in self._told else None

    async def run(self, wake: Callable[[Iterable[NodeId]], None]) -> None:
        """Until cancelled or no longer the leader. ``wake`` is told which nodes' orders have changed."""
        with self._store.watch({Kind.CLUSTER, Kind.NODE}) as watch:
            self._look([])
            while True:
                try:
                    await self._settle()
                except NotLeader:
                    return
                except SwarmpyError as error:
                    log.warning("root_rotation_delayed", reason=str(error))
                    await watch.wait(RETRY_S)
                wake(self._tell())
                if await watch.wait(self._patience_s()):
                    await asyncio.sleep(COLLECT_S)
                self._look(drain(watch))

    def _patience_s(self) -> float | None:
        if self._waiting():
            return max(COLLECT_S, self._next_turn - self._clock.monotonic())
        cluster = self._store.view().cluster()
        if cluster.rotation is not None:
            return LOOK_S
        return FORGET_S if cluster.former_roots else None

    # -- who is behind ------------------------------------------------------------------------------------------------

    def _look(self, events: Sequence[Event | Resync]) -> None:
        view = self._store.view()
        wanted = Wanted.of(view.cluster())
        if wanted != self._wanted or any(isinstance(event, Resync) for event in events):
            self._wanted = wanted
            self._behind.clear()
            self._told.clear()
            changed = [node.id for node in view.nodes()]
        else:
            changed = [NodeId(event.id) for event in events if isinstance(event, Event) and event.kind is Kind.NODE]
        for node_id in changed:
            node = view.node(node_id)
            if node is None or wanted.is_met_by(node):
                self._behind.pop(node_id, None)
                self._told.discard(node_id)
            else:
                self._behind.setdefault(node_id)

    def _tell(self) -> list[NodeId]:
        """The nodes whose turn it is now."""
        if self._clock.monotonic() < self._next_turn:
            return []
        chosen = self._waiting()[:BATCH]
        if chosen:
            self._next_turn = self._clock.monotonic() + self._random.uniform(TURN_S / 2, TURN_S)
            self._told.update(chosen)
        return chosen

    def _waiting(self) -> list[NodeId]:
        """Those that are there and have not been told."""
        view = self._store.view()
        nodes = (view.node(node_id) for node_id in self._behind if node_id not in self._told)
        return [node.id for node in nodes if node is not None and node.status.state is NodeState.READY]

    # -- steps --------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        view = self._store.view()
        if self._settled(view) is view.cluster():
            return

        def write(tx: Tx) -> tuple[Cluster, Cluster]:
            before = tx.cluster()
            after = self._settled(tx)
            if after is not before:
                tx.update(after)
            return before, after

        _tell_steps(*await self._store.update(write))

    def _settled(self, view: View) -> Cluster:
        cluster = view.cluster()
        if cluster.rotation is None and not cluster.former_roots:
            return cluster
        there = {NodeId(node_id) for node_id, is_there in self._managers().items() if is_there is not False}
        return control.settled(
            cluster,
            view.nodes(),
            there,
            lambda digest: tokens.make_tokens(digest, self._random),
            self._clock.time_ns(),
        )


def _tell_steps(before: Cluster, after: Cluster) -> None:
    if before.rotation is not None and after.rotation is None:
        log.info("root_ca_changed", old=before.root_ca.cert_digest, new=after.root_ca.cert_digest)
    kept = {former.cert_pem for former in after.former_roots}
    for former in before.former_roots:
        if former.cert_pem not in kept:
            log.info("former_root_ca_forgotten", root=roots.digest_of(former.cert_pem))


# -- beginning --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RootRequest:
    """What a user asks for of the root CA."""

    force_rotate: int | None = None
    """Another number than the present one asks for a new root."""
    cert_pem: bytes = b""
    key_pem: bytes = attrs.field(default=b"", repr=False)
    """The root that it is to be, if it is not to be a new one of our own."""


def with_root(cluster: Cluster, request: RootRequest, now_ns: int) -> Cluster:
    """The cluster as it is when ``request`` is granted; the same one when it asks for nothing new.

    A request that comes while the root is being changed is content with that change. Raises InvalidArgument for a root
    that is not usable, FailedPrecondition when managers are too old, or for another root while one is being changed to.
    """
    if request.key_pem and not request.cert_pem:
        raise InvalidArgument("CAConfig.SigningCACert: a CA key needs its certificate")
    given = given_root(request.cert_pem, request.key_pem, now_ns) if request.cert_pem else None
    asked = request.force_rotate is not None and request.force_rotate != cluster.spec.force_rotate
    if given is None and not asked:
        return cluster
    if cluster.schema < codec.ROOTS_VERSION:
        raise FailedPrecondition(
            "the root CA cannot be changed yet: some manager runs a swarmpy that does not know how; upgrade it first"
        )
    if request.force_rotate is not None:
        cluster = attrs.evolve(cluster, spec=attrs.evolve(cluster.spec, force_rotate=request.force_rotate))
    if cluster.rotation is not None:
        if given is not None and given.cert_digest != cluster.rotation.root.cert_digest:
            raise FailedPrecondition(
                'the root CA is being changed to another one already: wait until that is over ("swarmpy status" shows '
                "what it waits for)"
            )
        return cluster
    if given is None:
        return roots.begun(cluster, ca.create_root_ca(now_ns), now_ns)
    if given.cert_digest == cluster.root_ca.cert_digest:
        return cluster
    if roots.key_of(given.cert_pem) == roots.key_of(cluster.root_ca.cert_pem):
        raise InvalidArgument("CAConfig.SigningCACert: this is the key of the present root CA: a new one is needed")
    begun = roots.begun(cluster, given, now_ns)
    for trusted in roots.trusted_pem(begun):
        rehearse(given, roots.chain(begun), trusted, now_ns)
    return begun

"""A simulated cluster whose nodes have certificates: every connection begins with a real handshake, in memory.

Keys and certificates are real, and so is what the nodes do with them; only their files are simulated. The handshakes go
by the wall clock of the machine that simulates, so certificates are valid for years.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from typing import Any

import attrs
from clock import EPOCH_NS
from cluster import Cluster
from cluster_machine import Machine
from film import Film
from handshakes import meet, signed
from knobs import Knobs
from loop import SimLoop
from net import Host

from swarmpy.agent.agent import Agent
from swarmpy.errors import BadCertificate, SwarmpyError
from swarmpy.manager.leader_calls import LeaderCalls
from swarmpy.manager.manager import Manager
from swarmpy.manager.operations import update_cluster
from swarmpy.manager.rotation import RootRequest
from swarmpy.manager.trust import known_certificates
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.model.objects import Cluster as ClusterObject
from swarmpy.model.objects import Node, RootCA
from swarmpy.model.states import Role
from swarmpy.node.joining import renew_identity
from swarmpy.node.roots import RootKeeper
from swarmpy.ports import Peer
from swarmpy.security import roots, tokens
from swarmpy.security.ca import create_root_ca
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.tls import Credentials

YEAR_NS = 365 * 24 * 3600 * 1_000_000_000
CALL_TIMEOUT_S = 10.0
DISK_S = 0.01
TICK_S = 1.0
"""Seconds between two looks of a connection at its peer, as on a real one."""


class CertifiedMachine(Machine):
    """What ``node.member`` is on a real machine, as far as certificates are concerned."""

    cluster: CertifiedCluster
    credentials: Credentials
    keeper: RootKeeper

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        role = Role.MANAGER if self.raft_id else Role.WORKER
        root = self.cluster.first_root
        key_pem, cert_pem = signed(
            root, node_id=self.name, role=role, cluster_id="c", now_ns=EPOCH_NS, expiry_ns=10 * YEAR_NS
        )
        self.stored = NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem)
        """What is in its files."""

    async def main(self, host: Host) -> None:
        """One life of the daemon."""
        self.credentials = Credentials(self.stored)
        self._changing = asyncio.Lock()
        addresses = [machine.host.address for machine in self.cluster.managers]
        self._leader = LeaderCalls(host.dialer, self.random, lambda: addresses)
        self.keeper = RootKeeper(
            credentials=self.credentials,
            renew=self.renew,
            trust=self._trust,
            confirm=lambda digests: self._call("ca.confirm", {"roots": digests}),
            random=self.random,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self.keeper.run())
            await super().main(host)

    def _new_manager(self, host: Host, **more: Any) -> Manager:
        return super()._new_manager(
            host,
            on_roots=self.credentials.trust_more,
            on_orders=lambda orders: self.keeper.told(orders.roots, orders.issuer),
            **more,
        )

    def _new_agent(self, host: Host, **more: Any) -> Agent:
        return super()._new_agent(
            host, roots=lambda: self.credentials.identity.roots, on_roots=self.keeper.told, **more
        )

    async def renew(self) -> None:
        """Get another certificate, as every node does from time to time. Raises what the leader raises."""
        async with self._changing:
            key_pem, _ = new_key_and_csr()
            await self._put(await renew_identity(self._call, self.credentials.identity, key_pem))
        self.keeper.changed()

    async def _trust(self, trusted: tuple[bytes, ...]) -> None:
        async with self._changing:
            await self._put(self.credentials.identity.trusting(trusted))

    async def _put(self, identity: NodeIdentity) -> None:
        await asyncio.sleep(self.random.uniform(0, DISK_S))
        self.stored = identity
        await asyncio.sleep(self.random.uniform(0, DISK_S))
        self.credentials.replace(identity)

    async def _call(self, method: str, payload: Any) -> Any:
        return await self._leader.call(method, payload, timeout=CALL_TIMEOUT_S)


class CertifiedCluster(Cluster):
    """No member is ever refused that should not be, and no stranger let in."""

    new_machine = CertifiedMachine
    machines: dict[str, CertifiedMachine]  # type: ignore[assignment]

    def __init__(self, loop: SimLoop, *, knobs: Knobs | None = None, film: Film | None = None) -> None:
        self.first_root = create_root_ca(EPOCH_NS)
        self.keys: dict[str, RootCA] = {}
        """All root CAs that ever were, with their keys: somebody has stolen them."""
        super().__init__(loop, knobs=knobs, film=film)
        self.net.handshake = self._shake_hands

    async def start(self) -> None:
        """Switch everything on, and found the cluster."""
        await super().start()
        self._ticking = self.net.loop.create_task(self._tick())

    def founded(self) -> ClusterObject:
        """What the cluster is at first."""
        join_tokens = tokens.make_tokens(self.first_root.cert_digest, random.Random(1))
        spec = ClusterSpec(node_cert_expiry_ns=10 * YEAR_NS)
        return attrs.evolve(super().founded(), root_ca=self.first_root, join_tokens=join_tokens, spec=spec)

    async def rotate(self, manager: Manager) -> None:
        """Ask the leader for a new root CA."""
        cluster = manager.store.view().cluster()
        await update_cluster(
            manager.store,
            cluster.meta.version,
            lambda spec: spec,
            new_join_token=manager.new_join_token,
            root=RootRequest(force_rotate=cluster.spec.force_rotate + 1),
        )
        for root in roots.trusted(manager.store.view().cluster()):
            self.keys[root.cert_digest] = root
        self.film.did("change of the root")

    def newest(self) -> ClusterObject | None:
        """The cluster by the newest state that any manager has."""
        stores = [machine.manager.store for machine in self.managers if machine.manager is not None]
        stores = [store for store in stores if store.cluster is not None]
        return max(stores, key=lambda store: store.version).cluster if stores else None

    def behind(self) -> list[str]:
        """The nodes that do not show and trust what they should, by their own word."""
        cluster = self.newest()
        assert cluster is not None
        wanted, signing = set(roots.trusted_pem(cluster)), roots.signing_root(cluster).cert_pem
        found = {name: machine.credentials.identity for name, machine in self.machines.items()}
        return [
            name
            for name, identity in found.items()
            if set(roots.split(identity.ca_pem)) != wanted or not identity.is_of(signing)
        ]

    # -- connections --------------------------------------------------------------------------------------------------

    def _shake_hands(self, client: Host, server: Host) -> tuple[Peer, Peer]:
        one, other = self.machines[client.node_id], self.machines[server.node_id]
        try:
            seen_server, seen_client = meet(one.credentials, other.credentials, "c")
            if one.manager is not None:
                one.manager.root_guard.check(seen_server)
            server.router.check_peer(seen_client)
        except (ssl.SSLError, BadCertificate) as error:
            if not (self._knows_nothing(one) or self._knows_nothing(other) or self._is_stale(one, other)):
                self.laws.fail(f"{one.name} and {other.name}, which are members, refuse each other: {error}")
            raise BadCertificate(str(error)) from error
        self.film.checked("members accept each other")
        return (
            attrs.evolve(seen_client, address=client.identity.address),
            attrs.evolve(seen_server, address=server.address),
        )

    def _knows_nothing(self, machine: CertifiedMachine) -> bool:
        """A manager without its state cannot tell which former roots there are."""
        return machine.raft_id != 0 and (machine.manager is None or machine.manager.store.cluster is None)

    def _is_stale(self, one: CertifiedMachine, other: CertifiedMachine) -> bool:
        """A manager that was away while the root was changed is refused by workers, which trust only the new one."""
        cluster = self.newest()
        if one.manager is not None or cluster is None:
            return False
        return not other.credentials.identity.is_of(roots.signing_root(cluster).cert_pem)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._recheck()

    def _recheck(self) -> None:
        """As both ends of a connection do again and again."""
        for connection in list(self.net._connections):
            one, other = self.machines[connection.client.node_id], self.machines[connection.server.node_id]
            try:
                if one.host.is_up and one.manager is not None:
                    one.manager.root_guard.check(connection.server_seen)
                if other.host.is_up:
                    other.host.router.check_peer(connection.client_seen)
            except BadCertificate as error:
                ends = ((one, connection.client_seen), (other, connection.server_seen))
                if all(machine.credentials.identity.fingerprint == seen.certificate for machine, seen in ends):
                    self.laws.fail(f"{one.name} and {other.name}, which are connected, part: {error}")
                # One that was behind when they met may not know what the other had then and has no more.
                connection.lose("the certificate does not count any more")
            else:
                self.film.checked("members stay connected")

    # -- who has stolen a key -----------------------------------------------------------------------------------------

    def attack(self) -> None:
        """Somebody with the keys of all roots that sign nothing any more calls at every manager that knows so."""
        cluster = self.newest()
        if cluster is None:
            return
        for machine in self.managers:
            manager = machine.manager
            if machine.host.is_up and manager is not None and manager.store.cluster == cluster:
                nodes = manager.store.view().nodes()
                for pem in roots.outgoing(cluster):
                    node = nodes[machine.random.randrange(len(nodes))]
                    self._pretend(machine, manager, node, self.keys[roots.digest_of(pem)])

    def _pretend(self, machine: CertifiedMachine, manager: Manager, node: Node, root: RootCA) -> None:
        if not known_certificates(node):
            return
        key_pem, cert_pem = signed(root, node_id=node.id, cluster_id="c", now_ns=time.time_ns())
        fake = NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem)
        trusts_all = attrs.evolve(fake, ca_pem=roots.joined(key.cert_pem for key in self.keys.values()))
        trusts_all = attrs.evolve(trusts_all, ca_pem=trusts_all.ca_pem + machine.credentials.identity.ca_pem)
        try:
            _, seen = meet(Credentials(trusts_all), machine.credentials, "c")
            manager.root_guard.check(seen)
        except (ssl.SSLError, SwarmpyError):
            self.film.checked("a stolen key of an old root is worth nothing")
        else:
            self.laws.fail(f"{machine.name} takes a stranger for {node.id}")

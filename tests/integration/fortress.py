"""A daemon in this process, with a cluster of its own: a test sees what comes to its port, and what is behind it."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swarmpy.api.backend import InitRequest
from swarmpy.manager.manager import Manager
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Cluster, RootCA
from swarmpy.model.states import Availability, Role
from swarmpy.node.clock import SystemClock
from swarmpy.node.config import NodeConfig
from swarmpy.node.daemon import Node
from swarmpy.node.joining import fetch_identity
from swarmpy.security.ca import create_root_ca, issue, load_private_key
from swarmpy.security.certificates import ROLE_UNITS, load_certificate
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.tls import client_context, joiner_context
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcDialer

HOUR_NS = 3600 * 10**9
HOST = "127.0.0.3"
"""Not 127.0.0.1, from which all connections within this machine come: one may take a port that was free just now."""


@attrs.define
class Fortress:
    """The daemon; call from its loop."""

    node: Node
    address: str
    worker: NodeIdentity
    other: NodeIdentity
    """Two workers that have joined, and have no daemon."""
    own: NodeIdentity
    """Of another manager, as far as the port can tell."""

    @property
    def manager(self) -> Manager:
        """The manager half."""
        assert self.node.manager is not None
        return self.node.manager

    @property
    def router(self) -> Router:
        """What the port serves."""
        return self.manager._router

    @property
    def cluster(self) -> Cluster:
        """The cluster's object."""
        return self.manager.store.view().cluster()

    async def join(self, role: Role = Role.WORKER) -> NodeIdentity:
        """A new node's identity, got as a machine gets it."""
        tokens = self.cluster.join_tokens
        token = tokens.worker if role is Role.WORKER else tokens.manager
        identity, _ = await fetch_identity(
            [self.address], token, hostname="h", availability=Availability.DRAIN, random=random.Random()
        )
        return identity

    def context(self, identity: NodeIdentity | None) -> ssl.SSLContext:
        """What a node of that identity connects with; None: somebody without a certificate."""
        return joiner_context(self.cluster.root_ca.cert_pem) if identity is None else client_context(identity)

    async def dial(self, identity: NodeIdentity | None) -> RpcChannel:
        """A channel of that node."""
        return await RpcDialer(self.context(identity), self.cluster.id).dial(self.address, timeout=10)

    async def is_well(self) -> bool:
        """A member is served as ever."""
        channel = await self.dial(self.own)
        try:
            return bool((await channel.call("raft.schema", None, timeout=10))["schema"])
        finally:
            await channel.close()

    def issued(self, node_id: str, role: Role, *, root: RootCA | None = None, ago_ns: int = 0) -> NodeIdentity:
        """A certificate that nobody asked for: of the cluster's CA or of another, of now or of another time."""
        root = root or self.cluster.root_ca
        key_pem, csr_pem = new_key_and_csr()
        cert_pem = issue(
            root,
            csr_pem,
            node_id=NodeId(node_id),
            role=role,
            cluster_id=self.cluster.id,
            expiry_ns=HOUR_NS,
            now_ns=time.time_ns() - ago_ns,
        )
        return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem)

    def signed_by(self, issuer: NodeIdentity, role: Role = Role.MANAGER) -> tuple[bytes, bytes]:
        """A certificate (with its issuer's behind it) and its key, signed by a node as if it were a CA."""
        key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.cluster.id),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, ROLE_UNITS[role]),
                x509.NameAttribute(NameOID.COMMON_NAME, "x" * 25),
            ]
        )
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(load_certificate(issuer.cert_pem).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(load_private_key(issuer.key_pem), hashes.SHA256())
        )
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + issuer.cert_pem, key_pem


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def standing(directory: Path) -> AsyncIterator[Fortress]:
    """A daemon that has founded a cluster; ends at the end."""
    config = NodeConfig(data_dir=directory, hostname="fortress", runtime="process", status_address="")
    node = Node(config, SystemClock(), random.SystemRandom())
    stop, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(node.run(stop, started))
    try:
        async with asyncio.timeout(30):
            await started.wait()
            address = f"{HOST}:{free_port()}"
            await node.init(InitRequest(listen_addr=address, advertise_addr=address))
        assert node.manager is not None
        fortress = Fortress(node, address, None, None, None)  # type: ignore[arg-type]
        fortress.worker, fortress.other = await fortress.join(), await fortress.join()
        fortress.own = fortress.issued("m" * 25, Role.MANAGER)
        yield fortress
    finally:
        stop.set()
        await asyncio.wait([running])


def another_cluster() -> RootCA:
    """The root CA of somebody else."""
    return create_root_ca(time.time_ns())

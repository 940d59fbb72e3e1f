"""Certificates of a cluster, and servers and channels on loopback ports that are closed at the end of a test."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from contextlib import AsyncExitStack

from swarmpy.model.ids import NodeId
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Role
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.tls import Credentials
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.connection import RpcConfig
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcDialer, RpcServer
from swarmpy.wire.serving import ServerConfig

DAY_NS = 24 * 3600 * 1_000_000_000


class Pki:
    """A cluster's CA that hands out credentials."""

    def __init__(self, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        self.root: RootCA = create_root_ca(time.time_ns())

    def credentials(
        self, node_id: str, role: Role = Role.MANAGER, *, cluster_id: str = "", ago_ns: int = 0
    ) -> Credentials:
        """Credentials of a node; ``ago_ns`` moves the time of issue into the past."""
        key_pem, csr_pem = new_key_and_csr()
        cert_pem = issue(
            self.root,
            csr_pem,
            node_id=NodeId(node_id),
            role=role,
            cluster_id=cluster_id or self.cluster_id,
            expiry_ns=DAY_NS,
            now_ns=time.time_ns() - ago_ns,
        )
        return Credentials(NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=self.root.cert_pem))


class Lab:
    """Servers and channels that are closed at the end of a test."""

    def __init__(self, pki: Pki, stack: AsyncExitStack) -> None:
        self.pki = pki
        self.stack = stack

    async def server(
        self,
        router: Router,
        *,
        config: ServerConfig | None = None,
        credentials: Credentials | None = None,
        host: str = "127.0.0.1",
    ) -> RpcServer:
        """A manager that serves ``router``."""
        server = RpcServer(router, credentials or self.pki.credentials("server"), host=host, port=0, config=config)
        await server.start()
        self.stack.push_async_callback(server.stop)
        return server

    def dialer(self, credentials: Credentials | None = None, *, config: RpcConfig | None = None) -> RpcDialer:
        """A member's dialler."""
        credentials = credentials or self.pki.credentials("client")
        return RpcDialer(credentials.client_context, self.pki.cluster_id, config=config)

    async def dial(
        self, server: RpcServer, credentials: Credentials | None = None, *, config: RpcConfig | None = None
    ) -> RpcChannel:
        """A channel of a member to ``server``."""
        return await self.keep(self.dialer(credentials, config=config).dial(server.address, timeout=5))

    async def keep(self, dialling: Awaitable[RpcChannel]) -> RpcChannel:
        """The channel, closed at the end."""
        channel = await dialling
        self.stack.push_async_callback(channel.close)
        return channel

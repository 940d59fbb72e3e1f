"""``/swarm``: founding, joining, leaving and the cluster's own settings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

import attrs
import structlog

from swarmpy.api.access import require_manager
from swarmpy.api.backend import InitRequest, JoinRequest, NodeBackend, RestoreRequest
from swarmpy.api.callers import Access
from swarmpy.api.json_fields import Fields, parse_json
from swarmpy.api.node_json import availability_from_json
from swarmpy.api.nodes import MAX_DRAIN_S
from swarmpy.api.request import BINARY, ApiRequest, ApiResponse, StreamedResponse, json_response
from swarmpy.api.router import Route, Scope
from swarmpy.api.swarm_json import cluster_spec_from_json, root_request_from_json, swarm_to_json
from swarmpy.errors import AlreadyInCluster, InvalidArgument, NotInCluster, SwarmLocked, Unavailable
from swarmpy.manager import operations
from swarmpy.model.cluster_spec import ClusterSpec
from swarmpy.security.sealed_stream import about_backup, sealed_stream
from swarmpy.security.sealing import UnlockKey
from swarmpy.store.backup import Header, written

log = structlog.get_logger(__name__)

MAX_BACKUPS = 2
"""Sent at a time: each keeps the state of its moment from being let go."""

_ALREADY = 'This node is already part of a swarm: leave it first ("swarm leave"), then create or join another one.'
_DEFAULT_LISTEN_ADDR = "0.0.0.0:2377"
_LOCKED_LEAVES = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message."
_MANAGER_LEAVES = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
    "Without it there are fewer managers to agree on changes, and without the last one the swarm's state is lost: "
    "demote it first, or leave with --force."
)


class SwarmApi:
    """Handlers of the cluster itself."""

    def __init__(self, node: NodeBackend) -> None:
        self._node = node
        self._backups = 0

    def routes(self) -> list[Route]:
        """The routes of this part."""
        return [
            Route("GET", "/swarm", Scope.READ, Access.VIEWER, self.inspect, tells_secrets=True),
            Route("POST", "/swarm/init", Scope.LOCAL, Access.ADMIN, self.init),
            Route("POST", "/swarm/join", Scope.LOCAL, Access.ADMIN, self.join),
            Route("POST", "/swarm/leave", Scope.LOCAL, Access.ADMIN, self.leave, sets_bound=True),
            Route("GET", "/swarm/backup", Scope.READ, Access.ADMIN, self.backup, tells_secrets=True),
            Route("POST", "/swarm/restore", Scope.LOCAL, Access.ADMIN, self.restore),
            Route("POST", "/swarm/update", Scope.WRITE, Access.ADMIN, self.update),
            Route("POST", "/swarm/unlock", Scope.LOCAL, Access.ADMIN, self.unlock),
            Route("GET", "/swarm/unlockkey", Scope.READ, Access.ADMIN, self.unlock_key, tells_secrets=True),
        ]

    async def inspect(self, request: ApiRequest) -> ApiResponse:
        """``GET /swarm``, to admins with the join tokens."""
        cluster = require_manager(self._node).store.view().cluster()
        return json_response(swarm_to_json(cluster, with_tokens=request.is_of_admin))

    async def init(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/init``; answers the node's id as a JSON string."""
        fields = Fields(parse_json(request.body))
        fields.refuse("DefaultAddrPool", "DataPathAddr", "DataPathPort")
        fields.nested("Spec").nested("CAConfig").refuse("ForceRotate", "SigningCACert", "SigningCAKey")
        if fields.boolean("ForceNewCluster"):
            return json_response(await self._node.init(_forced(fields)))
        self._require_outside()
        spec = cluster_spec_from_json(fields.raw("Spec"), ClusterSpec(), "Spec")
        if fields.boolean("AutoLockManagers"):
            spec = attrs.evolve(spec, autolock_managers=True)
        node_id = await self._node.init(
            InitRequest(
                listen_addr=_listen_addr(fields),
                advertise_addr=fields.string("AdvertiseAddr"),
                availability=availability_from_json(fields.string("Availability")),
                spec=spec,
            )
        )
        return json_response(node_id)

    async def join(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/join``."""
        fields = Fields(parse_json(request.body))
        if not self._node.may_rejoin:
            self._require_outside()
        fields.refuse("DataPathAddr")
        remote_addrs = fields.strings("RemoteAddrs")
        if not remote_addrs or "" in remote_addrs:
            raise InvalidArgument("at least 1 RemoteAddr is required to join: the host:port of a manager")
        token = fields.string("JoinToken")
        if not token:
            raise InvalidArgument('join token is necessary to join; "swarm join-token worker" on a manager shows it')
        await self._node.join(
            JoinRequest(
                listen_addr=_listen_addr(fields),
                advertise_addr=fields.string("AdvertiseAddr"),
                availability=availability_from_json(fields.string("Availability")),
                remote_addrs=remote_addrs,
                join_token=token,
            )
        )
        return ApiResponse()

    async def leave(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/leave?force=&timeout=``; answers what was lost by it, where something was.

        ``timeout``: most seconds that the tasks of a worker have to move to other nodes.
        """
        force, timeout = request.boolean("force"), request.seconds("timeout", most=MAX_DRAIN_S)
        if self._node.local_state == "inactive":
            raise NotInCluster("This node is not part of a swarm")
        if self._node.local_state == "locked" and not force:
            raise SwarmLocked(_LOCKED_LEAVES)
        if self._node.manager is not None and not force:
            raise NotInCluster(_MANAGER_LEAVES)
        lost = await self._node.leave(force=force, timeout=timeout)
        return json_response({"Warnings": list(lost)}) if lost else ApiResponse()

    async def backup(self, _request: ApiRequest) -> ApiResponse:
        """``GET /swarm/backup``: the whole state at one index, every acknowledged write included, with all secrets."""
        manager = require_manager(self._node)
        if self._backups >= MAX_BACKUPS:
            raise Unavailable(f"{self._backups} backups are being sent already: try again when one is finished")
        view, parts = manager.store.view(), manager.store.parts()
        cluster = view.cluster()
        header = Header(
            cluster_id=cluster.id,
            cluster_name=cluster.spec.name,
            incarnation=cluster.incarnation,
            index=manager.store.version,
            term=manager.raft_status().term,
            time_ns=time.time_ns(),
            swarmpy=self._node.version,
            holds={"nodes": len(view.nodes()), "services": len(view.services()), "tasks": len(view.tasks())},
            managers=self._node.manager_addresses(),
            sealed=bool(cluster.unlock_key),
        )
        if header.sealed:
            parts = sealed_stream(UnlockKey(cluster.unlock_key), about_backup(header), parts)
        return StreamedResponse(content_type=BINARY, chunks=self._counted(header, parts))

    async def _counted(self, header: Header, parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        self._backups += 1
        sent = 0
        try:
            async with contextlib.aclosing(written(header, parts)) as pieces:
                async for piece in pieces:
                    yield piece
                    sent += len(piece)
            log.info("backup_taken", cluster=header.cluster_id, index=header.index, size_bytes=sent)
        finally:
            self._backups -= 1

    async def restore(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/restore``; answers the node's id as a JSON string."""
        fields = Fields(parse_json(request.body))
        self._require_outside()
        file = fields.string("File")
        if not file.startswith("/"):
            raise InvalidArgument("File: the absolute path of a backup on this machine is needed")
        node_id = await self._node.restore(
            RestoreRequest(
                file=file,
                listen_addr=_listen_addr(fields),
                advertise_addr=fields.string("AdvertiseAddr"),
                force=fields.boolean("Force"),
                unlock_key=UnlockKey.parse(key) if (key := fields.string("UnlockKey")) else None,
            )
        )
        return json_response(node_id)

    async def update(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/update?version=&rotateWorkerToken=&rotateManagerToken=&rotateManagerUnlockKey=``."""
        manager = require_manager(self._node)
        data = parse_json(request.body)
        await operations.update_cluster(
            manager.store,
            request.version("swarm"),
            lambda current: cluster_spec_from_json(data, current),
            new_join_token=manager.new_join_token,
            rotate_worker_token=request.boolean("rotateWorkerToken"),
            rotate_manager_token=request.boolean("rotateManagerToken"),
            rotate_unlock_key=request.boolean("rotateManagerUnlockKey"),
            root=root_request_from_json(data),
            request=request.request_id,
        )
        return ApiResponse()

    async def unlock_key(self, _request: ApiRequest) -> ApiResponse:
        """``GET /swarm/unlockkey``: empty without autolock."""
        key = require_manager(self._node).store.view().cluster().unlock_key
        return json_response({"UnlockKey": UnlockKey(key).text if key else ""})

    async def unlock(self, request: ApiRequest) -> ApiResponse:
        """``POST /swarm/unlock``: give a manager that was started the key to what it has on its disk."""
        await self._node.unlock(UnlockKey.parse(Fields(parse_json(request.body)).string("UnlockKey")))
        return ApiResponse()

    def _require_outside(self) -> None:
        if self._node.local_state == "locked":
            raise SwarmLocked
        if self._node.local_state != "inactive":
            raise AlreadyInCluster(_ALREADY)


def _forced(fields: Fields) -> InitRequest:
    listen = fields.string("ListenAddr")
    # Docker's client always sends its default: it does not ask for another address than there is.
    return InitRequest(
        listen_addr="" if listen == _DEFAULT_LISTEN_ADDR else listen,
        advertise_addr=fields.string("AdvertiseAddr"),
        force_new_cluster=True,
    )


def _listen_addr(fields: Fields) -> str:
    address = fields.string("ListenAddr")
    if not address:
        raise InvalidArgument("ListenAddr: must not be empty (0.0.0.0:2377 is the usual one)")
    return address

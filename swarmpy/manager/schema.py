"""The leader's care for the schema version that is written: it is raised when all managers have been upgraded.

The leader asks every other manager what it reads, for as long as less is written than it reads itself. One that does
not answer holds the version back, and so does one that does not know the question: it reads what could always be
written. See :mod:`swarmpy.store.schema`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import attrs
import structlog

from swarmpy.errors import NotFound, NotLeader, SwarmpyError
from swarmpy.model import codec
from swarmpy.ports import Peer
from swarmpy.raft.driver import RaftDriver
from swarmpy.raft.messages import Member
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx
from swarmpy.wire.channels import ChannelPool

log = structlog.get_logger(__name__)

METHOD = "raft.schema"
ASK_TIMEOUT_S = 2.0
ASK_AGAIN_S = 2.0
"""Seconds between two looks at managers that hold the version back; nobody is asked when nobody does."""


async def schema_read_here(_peer: Peer, _payload: Any) -> Any:
    """``raft.schema``: the newest schema version that this manager reads."""
    return {"schema": codec.SCHEMA_VERSION}


def schema_of(answer: Any) -> int:
    """What a manager says that it reads; managers that do not say it read BASE_VERSION."""
    schema = answer.get("schema") if isinstance(answer, dict) else None
    return schema if isinstance(schema, int) and schema > codec.BASE_VERSION else codec.BASE_VERSION


def schema_to_write(written: int, read: Iterable[int | None]) -> int:
    """The version to be written from now on, given what each manager reads (None: not known)."""
    known = list(read)
    if not known or None in known:
        return written
    return max(written, min(version for version in known if version is not None))


class SchemaRaiser:
    """The leader's. ``changing`` is held while the members change; :meth:`run` it for one term of office."""

    def __init__(self, *, store: Store, raft: RaftDriver, pool: ChannelPool, changing: asyncio.Lock) -> None:
        self._store = store
        self._raft = raft
        self._pool = pool
        self._changing = changing
        self._older: dict[str, int] = {}
        """What the managers of older versions read, by node."""

    async def run(self) -> None:
        """Raise the version as soon as all managers read a newer one; return when it is this manager's newest."""
        while self._store.view().cluster().schema < codec.SCHEMA_VERSION:
            try:
                await self.look()
            except NotLeader:
                return
            except SwarmpyError as error:
                log.debug("schema_not_raised", reason=str(error))
            if self._store.view().cluster().schema < codec.SCHEMA_VERSION:
                await asyncio.sleep(ASK_AGAIN_S)

    async def look(self) -> None:
        """Ask all members once, and raise the version if they let it. Raises as ``Store.update``."""
        members = self._raft.status().members
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(member)) for member in members]
        read = [question.result() for question in asked]
        self._tell_older({m.node_id: v for m, v in zip(members, read, strict=True) if v and v < codec.SCHEMA_VERSION})
        async with self._changing:
            if self._raft.status().members != members:
                return
            written = self._store.view().cluster().schema
            raised = schema_to_write(written, read)
            if raised == written:
                return

            def write(tx: Tx) -> None:
                tx.update(attrs.evolve(tx.cluster(), schema=raised))

            await self._store.update(write)
        log.info("schema_raised", old=written, new=raised)

    def _tell_older(self, older: dict[str, int]) -> None:
        if older and older != self._older:
            log.info("schema_held_back", managers=older, wanted=codec.SCHEMA_VERSION, remedy="upgrade them, too")
        self._older = older

    async def _ask(self, member: Member) -> int | None:
        if member.raft_id == self._raft.status().raft_id:
            return codec.SCHEMA_VERSION
        try:
            channel = await self._pool.get(member.address, timeout=ASK_TIMEOUT_S)
            return schema_of(await channel.call(METHOD, None, timeout=ASK_TIMEOUT_S))
        except NotFound:
            return codec.BASE_VERSION
        except SwarmpyError as error:
            log.debug("schema_not_told", manager=member.address, reason=str(error))
            return None

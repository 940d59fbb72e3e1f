"""A client of a daemon's API, on its unix socket or over TLS. Speaks Docker's JSON; raises swarmpy.errors.

Every change of the cluster is sent with a key of its own, so that it can be repeated when the connection breaks: the
cluster makes it once only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from swarmpy.api.request import ERROR_HEADER, KEY_HEADER, REGISTRY_AUTH_HEADER
from swarmpy.cli.answers import check_taken, read_answer, unreachable
from swarmpy.cli.endpoint import TcpEndpoint
from swarmpy.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    NotInCluster,
    OutcomeUnknown,
    ProtocolViolation,
    Unavailable,
)
from swarmpy.model.images import RegistryImage, registry_image_from_json

DEFAULT_TIMEOUT = 30.0
"""Seconds for a whole request: a cluster without a leader answers within that or not at all."""
REGISTRY_TIMEOUT_S = 40.0
"""For a question to a registry: the engine gives it twenty seconds, and others may come first."""
REPEAT_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Before each repetition of a write whose connection broke: a daemon that is restarted answers within that."""
LOCAL_WRITES = frozenset({"/swarm/init", "/swarm/join", "/swarm/leave", "/swarm/restore", "/node/drain"})
"""These change the node that the daemon runs on, not the cluster: they have no key, and are never repeated."""

Json = dict[str, Any]


class ApiClient:
    """One daemon's API. As an async context manager it keeps its connection; otherwise each call makes its own."""

    def __init__(self, endpoint: Path | TcpEndpoint, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._endpoint = endpoint
        self._base = "http://swarmpy" if isinstance(endpoint, Path) else f"https://{endpoint}"
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self._new_session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _new_session(self) -> aiohttp.ClientSession:
        if isinstance(self._endpoint, Path):
            return aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(self._endpoint)))
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._endpoint.context()))

    # -- services and tasks ---------------------------------------------------------------------------------------

    async def services(self, *, labels: tuple[str, ...] = (), ids: tuple[str, ...] = ()) -> list[Json]:
        """Services with their task counts; ``labels`` (``key`` or ``key=value``, all must match) and ``ids`` select."""
        filters = {name: list(values) for name, values in (("label", labels), ("id", ids)) if values}
        return await self.objects("/services", {"status": "true", **_filters(filters)})

    async def service(self, name: str) -> Json:
        """A service by id, name or unique id prefix."""
        return await self._object("GET", f"/services/{_quoted(name)}")

    async def create_service(self, spec: Json, *, registry_auth: str | None = None) -> str:
        """Creates a service; returns its id. ``registry_auth``: the header with its registry's credentials."""
        answer = await self._object("POST", "/services/create", body=spec, headers=_with_auth(registry_auth))
        return str(answer.get("ID", ""))

    async def update_service(
        self, service_id: str, version: int, spec: Json, *, registry_auth: str | None = None
    ) -> None:
        """Replaces the spec of a service that is still at ``version``. Raises VersionConflict."""
        path, query = f"/services/{_quoted(service_id)}/update", {"version": str(version)}
        await self.request("POST", path, query, spec, headers=_with_auth(registry_auth))

    async def roll_back_service(self, service_id: str, version: int) -> None:
        """Swaps the spec of a service that is still at ``version`` with the one before. Raises VersionConflict."""
        await self.post(
            f"/services/{_quoted(service_id)}/update", {}, query={"version": str(version), "rollback": "previous"}
        )

    async def registry_image(self, image: str, *, registry_auth: str | None = None) -> RegistryImage:
        """What the image's registry says of it, asked by the node's engine. Raises also ProtocolViolation."""
        path = f"/distribution/{_quoted(image)}/json"
        answer = await self._object("GET", path, headers=_with_auth(registry_auth), timeout=REGISTRY_TIMEOUT_S)
        try:
            return registry_image_from_json(answer)
        except ValueError as error:
            raise ProtocolViolation(f"the daemon's answer on image {image} is not understood: {error}") from error

    async def remove_service(self, name: str) -> None:
        """Removes a service; its tasks stop after that."""
        await self.delete(f"/services/{_quoted(name)}")

    async def tasks(self, **filters: str) -> list[Json]:
        """Tasks; filters are Docker's (``service``, ``node``, ``label``, ...), with ``_`` for ``-``."""
        wanted = {name.replace("_", "-"): [value] for name, value in filters.items()}
        return await self.objects("/tasks", _filters(wanted))

    async def task(self, name: str) -> Json:
        """A task by id, name or unique id prefix, with what became of it."""
        return await self._object("GET", f"/tasks/{_quoted(name)}")

    async def current_tasks(self, service_id: str) -> list[Json]:
        """The tasks of a service that were made from its spec as it is now."""
        return await self.objects("/tasks", _filters({"service": [service_id], "_up-to-date": ["true"]}))

    # -- nodes and the whole --------------------------------------------------------------------------------------

    async def nodes(self) -> list[Json]:
        """All nodes."""
        return await self.objects("/nodes", {})

    async def node(self, name: str) -> Json:
        """A node by id, hostname or unique id prefix; ``self`` is the one that the daemon runs on."""
        if name == "self":
            name = str((await self.info()).get("Swarm", {}).get("NodeID", "")) or name
        return await self._object("GET", f"/nodes/{_quoted(name)}")

    async def update_node(self, node_id: str, version: int, spec: Json) -> None:
        """Replaces the spec of a node that is still at ``version``. Raises VersionConflict."""
        await self.post(f"/nodes/{_quoted(node_id)}/update", spec, query={"version": str(version)})

    async def remove_node(self, name: str, *, force: bool) -> None:
        """Removes a node from the cluster."""
        await self.delete(f"/nodes/{_quoted(name)}", query={"force": "true"} if force else None)

    async def clients(self) -> list[Json]:
        """The client certificates that count."""
        return await self.objects("/swarm/clients", {})

    async def create_client(self, body: Json) -> Json:
        """A certificate for a client of the API over TCP."""
        return await self._object("POST", "/swarm/clients/create", body=body)

    async def remove_client(self, reference: str) -> None:
        """Takes a client certificate back."""
        await self.delete(f"/swarm/clients/{_quoted(reference)}")

    async def info(self) -> Json:
        """The daemon, with its place in the cluster under ``Swarm``."""
        return await self._object("GET", "/info")

    async def status(self) -> Json:
        """The cluster at a glance."""
        return await self._object("GET", "/status")

    async def raft_status(self) -> Json:
        """The consensus in full. Raises NotInCluster on a worker."""
        return await self._object("GET", "/status/raft")

    # -- requests ---------------------------------------------------------------------------------------------------

    async def get(self, path: str, *, query: Mapping[str, str] | None = None, timeout: float | None = None) -> Any:
        """The answer of a GET: JSON data, or text where the daemon answers with text."""
        return await self.request("GET", path, query, timeout=timeout)

    async def post(
        self, path: str, body: Any = None, *, query: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Any:
        """The answer of a POST; ``body`` is sent as JSON unless it is None."""
        return await self.request("POST", path, query, body, timeout=timeout)

    async def delete(self, path: str, *, query: Mapping[str, str] | None = None, timeout: float | None = None) -> Any:
        """The answer of a DELETE."""
        return await self.request("DELETE", path, query, timeout=timeout)

    async def stream(
        self, path: str, query: Mapping[str, str] | None = None, *, silence: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a GET as they come; no more than ``silence`` seconds pass between two pieces of them, if given.

        Raises as :meth:`request`, and ConnectionFailed when they break off before the end.
        """
        session = self._session or self._new_session()
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=silence)
        try:
            async with session.get(self._url(path, query), timeout=timeout) as response:
                if response.status >= 400:
                    kind = response.headers.get(ERROR_HEADER, "")
                    read_answer(f"GET {path}", response.status, response.content_type, await response.read(), kind)
                async for piece in response.content.iter_any():
                    yield piece
        except aiohttp.ClientConnectorError as error:
            raise unreachable(self._endpoint, error) from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"the daemon sends nothing any more: ask again with GET {path}") from error
        except aiohttp.ClientError as error:
            check_taken(self._endpoint, error)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConnectionFailed(f"the daemon at {self._endpoint} broke off ({reason}): try again") from error
        finally:
            if session is not self._session:
                await session.close()

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        return URL(f"{self._base}{path}" + (f"?{urlencode(query)}" if query else ""), encoded=True)

    async def objects(self, path: str, query: Mapping[str, str]) -> list[Json]:
        """The answer of a GET, which is a list of objects. Raises also ProtocolViolation."""
        answer = await self.get(path, query=query)
        if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
            raise ProtocolViolation(f"the daemon answered GET {path} with something that is no list of objects")
        return answer

    async def _object(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Json:
        answer = await self.request(method, path, body=body, headers=headers, timeout=timeout)
        if not isinstance(answer, dict):
            raise ProtocolViolation(f"the daemon answered {method} {path} with something that is no object")
        return answer

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's data, None for an empty one; ``timeout`` in seconds is for each time it is sent.

        Raises the error that the status stands for; ConnectionFailed when nothing was sent, DeadlineExceeded and
        ConnectionFailed for a read and OutcomeUnknown for a write that was not answered.
        """
        send = self._write if method != "GET" and path not in LOCAL_WRITES else self._request
        if self._session is not None:
            return await send(self._session, method, path, query, body, timeout or self._timeout, headers)
        async with self._new_session() as session:
            return await send(session, method, path, query, body, timeout or self._timeout, headers)

    async def _write(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        headers = {**(headers or {}), KEY_HEADER: str(uuid.uuid4())}
        lost: _ConnectionLost | None = None
        for pause in itertools.chain((0.0,), REPEAT_PAUSES_S):
            await asyncio.sleep(pause)
            try:
                return await self._request(session, method, path, query, body, timeout, headers)
            except _ConnectionLost as error:
                lost = error
            except (Unavailable, NotInCluster):
                if lost is None:
                    raise
                # The daemon is not what it was yet; whether the first one was done is still open.
        assert lost is not None
        raise lost

    async def _request(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        url = self._url(path, query)
        try:
            async with session.request(
                method, url, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=timeout)
            ) as response:
                data = await response.read()
                kind = response.headers.get(ERROR_HEADER, "")
                return read_answer(f"{method} {path}", response.status, response.content_type, data, kind)
        except aiohttp.ClientConnectorError as error:
            raise unreachable(self._endpoint, error) from error
        except TimeoutError as error:
            reason = f"the daemon did not answer within {timeout:g} s"
            if method == "GET":
                raise DeadlineExceeded(f"{reason}: the cluster may have lost its quorum") from error
            raise OutcomeUnknown(f"{reason}: look whether the change was made, then try again") from error
        except aiohttp.ClientError as error:
            check_taken(self._endpoint, error)
            reason = " ".join(str(error).split()) or type(error).__name__
            broke = f"the connection to the daemon at {self._endpoint} broke ({reason})"
            if method == "GET":
                raise ConnectionFailed(f"{broke}: try again") from error
            raise _ConnectionLost(f"{broke}: look whether the change was made, then try again") from error


class _ConnectionLost(OutcomeUnknown):
    """The connection broke after the request was sent, or while it was."""


def _with_auth(registry_auth: str | None) -> dict[str, str]:
    return {} if registry_auth is None else {REGISTRY_AUTH_HEADER: registry_auth}


def _quoted(name: str) -> str:
    return quote(name, safe="") or "%20"


def _filters(filters: Mapping[str, list[str]]) -> dict[str, str]:
    return {"filters": json.dumps(filters)} if filters else {}

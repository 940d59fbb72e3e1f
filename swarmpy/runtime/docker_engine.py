"""The Engine's API as far as the docker runtime needs it: the only file that imports aiodocker.

Every call is bounded in time. An engine that is away, or does not answer in time, is RuntimeUnavailable; a request
that it refuses is :class:`EngineError`; "no such container" is None or simply fine, as each method says.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import structlog

from swarmpy.errors import InvalidArgument, RuntimeUnavailable, SwarmpyError
from swarmpy.model.logs import ALL_LINES, LogLine, LogOptions
from swarmpy.runtime import docker_log
from swarmpy.runtime.registry_auth import HEADER

log = structlog.get_logger(__name__)

DEFAULT_URL = "unix:///var/run/docker.sock"

CALL_TIMEOUT = 30.0
"""Seconds for a question."""
INFO_TIMEOUT = 10.0
"""Seconds for an engine to describe itself, which takes no work: how soon one that hangs is known."""
CHANGE_TIMEOUT = 120.0
"""Seconds for creating, starting or deleting a container."""
REGISTRY_TIMEOUT = 20.0
"""Seconds for a registry to say what it has."""
PULL_TIMEOUT = 6 * 3600.0
"""Seconds for a whole pull: as long as there is progress, a large image on a slow line takes its time."""
PULL_STALL_TIMEOUT = 60.0
"""Seconds without any progress after which a pull is given up."""

_CONNECTION_FAILED = 900  # aiodocker's own status
_TELLING = frozenset({304, 404, 409})  # it is so already; there is none; it is in another state


class EngineError(SwarmpyError):
    """The engine refused a request; ``status`` is HTTP's, 0 for an error in a progress stream."""

    code = "engine"

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def engine_url(url: str | None) -> str:
    """Where the engine is: as given, or ``DOCKER_HOST``, or the default socket."""
    return url or os.environ.get("DOCKER_HOST") or DEFAULT_URL


async def probe_engine(url: str | None, timeout: float) -> tuple[str, str]:
    """The address and version of an engine that answers within ``timeout`` seconds.

    Raises RuntimeUnavailable, and InvalidArgument for an address that is none.
    """
    engine = Engine(url)
    await engine.open(timeout)
    try:
        return engine.url, str((await engine.version(timeout)).get("Version", ""))
    finally:
        await engine.close()


class Engine:
    """One engine. Connections are made as needed; none is kept busy by a task that just runs."""

    def __init__(self, url: str | None = None) -> None:
        self.url = engine_url(url)
        self._docker: aiodocker.Docker | None = None
        self._connector: aiohttp.BaseConnector | None = None

    async def open(self, timeout: float = CALL_TIMEOUT) -> None:
        """Make sure that the engine answers. Raises RuntimeUnavailable; InvalidArgument for an address that is none."""
        if self._docker is None:
            self._connector, base = _connector(self.url)
            self._docker = aiodocker.Docker(url=base, connector=self._connector)
        try:
            await self.version(timeout)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let go of all connections. Idempotent."""
        docker, self._docker = self._docker, None
        connector, self._connector = self._connector, None
        if docker is not None:
            await docker.close()
        if connector is not None:
            await connector.close()

    @property
    def api_version(self) -> str:
        """The version of the API that is spoken with it, such as ``1.41``; "" before :meth:`open`."""
        return "" if self._docker is None else self._docker.api_version.removeprefix("v")

    # -- questions --

    async def version(self, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
        """``GET /version``."""
        async with self._bounded("tell its version", timeout) as docker:
            return await docker.version()

    async def info(self) -> Mapping[str, Any]:
        """``GET /info``."""
        async with self._bounded("describe itself", INFO_TIMEOUT) as docker:
            return await docker.system.info()

    async def plugins(self) -> list[Mapping[str, Any]] | None:
        """``GET /plugins``: the managed ones, enabled or not. None where nobody may ask, as behind a proxy.

        Raises RuntimeUnavailable.
        """
        try:
            async with self._bounded("list its plugins", CALL_TIMEOUT, refusable=True) as docker:
                found: list[Mapping[str, Any]] | None = await docker._query_json("plugins")
                return found or []
        except EngineError as error:
            if error.status == 500:
                raise RuntimeUnavailable(
                    f"the Docker Engine at {self.url} could not list its plugins: {error}"
                ) from error
            log.debug("plugins_not_listed", reason=str(error))
            return None

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """All about a container, by name or id; None when there is none."""
        try:
            async with self._bounded(f"inspect container {container}", CALL_TIMEOUT) as docker:
                return await docker.containers.container(container).show()
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    async def containers(self, *labels: str) -> list[dict[str, Any]]:
        """All containers, running or not, that carry each of the labels ``key=value``."""
        async with self._bounded("list containers", CALL_TIMEOUT) as docker:
            filters = json.dumps({"label": list(labels)})
            containers = await docker.containers.list(all="true", filters=filters)
            return [dict(container._container) for container in containers]

    async def has_image(self, image: str) -> bool:
        """True when the image is on this machine."""
        try:
            async with self._bounded(f"look for image {image}", CALL_TIMEOUT) as docker:
                await docker.images.inspect(image)
                return True
        except EngineError as error:
            if error.status == 404:
                return False
            raise

    async def distribution(self, image: str, auth: str = "") -> Any:
        """``GET /distribution/{name}/json``: the engine asks the image's registry, with the credentials ``auth``.

        Raises EngineError, also when the registry does not answer in time.
        """
        headers = {HEADER: auth} if auth else {}
        async with self._bounded(f"ask for image {image}", CALL_TIMEOUT, refusable=True) as docker:
            try:
                async with asyncio.timeout(REGISTRY_TIMEOUT):
                    async with docker._query(f"distribution/{image}/json", headers=headers) as response:
                        with closing(response):
                            return await response.json()
            except TimeoutError:
                raise EngineError(f"no answer within {REGISTRY_TIMEOUT:.0f} s", 504) from None

    # -- changes --

    async def pull(
        self, image: str, auth: str = "", on_step: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> None:
        """Get an image from its registry, with the credentials ``auth`` (:mod:`registry_auth`).

        ``on_step`` gets the lines of :mod:`pull_progress`. Raises EngineError, also when there is no progress any more.
        """
        # Without a tag the engine would pull all there are.
        tagged = ":" in image.rpartition("/")[2] or "@" in image
        params = {"fromImage": image} if tagged else {"fromImage": image, "tag": "latest"}
        async with self._bounded(f"pull image {image}", PULL_TIMEOUT, refusable=True) as docker:
            try:
                async with asyncio.timeout(PULL_STALL_TIMEOUT) as patience:
                    headers = {HEADER: auth} if auth else {}
                    async with docker._query("images/create", "POST", params=params, headers=headers) as response:
                        with closing(response):
                            while line := await response.content.readline():
                                patience.reschedule(asyncio.get_running_loop().time() + PULL_STALL_TIMEOUT)
                                step = json.loads(line)
                                _check_step(step)
                                on_step(step)
            except TimeoutError:
                raise EngineError(f"no progress for {PULL_STALL_TIMEOUT:.0f} s") from None

    async def create(self, name: str, config: dict[str, Any]) -> str:
        """Create a container; its id. Raises EngineError (409: the name is taken)."""
        async with self._bounded(f"create container {name}", CHANGE_TIMEOUT, refusable=True) as docker:
            return (await docker.containers.create(config, name=name)).id

    async def start(self, container: str) -> None:
        """Start a container; one that runs already is fine. Raises EngineError."""
        async with self._bounded(f"start container {container}", CHANGE_TIMEOUT, refusable=True) as docker:
            await docker.containers.container(container).start()

    async def stop(self, container: str, seconds: int) -> None:
        """Stop signal, ``seconds`` of grace, KILL. One that is not there or has ended is fine."""
        try:
            async with self._bounded(f"stop container {container}", seconds + CALL_TIMEOUT) as docker:
                await docker.containers.container(container).stop(t=seconds)
        except EngineError as error:
            if error.status not in {304, 404}:
                raise

    async def kill(self, container: str) -> None:
        """SIGKILL. One that is not there or has ended is fine."""
        try:
            async with self._bounded(f"kill container {container}", CALL_TIMEOUT) as docker:
                await docker.containers.container(container).kill()
        except EngineError as error:
            if error.status not in {404, 409}:
                raise

    async def delete(self, container: str) -> None:
        """Delete a container, running or not, with its anonymous volumes. One that is not there is fine."""
        try:
            async with self._bounded(f"delete container {container}", CHANGE_TIMEOUT) as docker:
                await docker.containers.container(container).delete(force=True, v=True)
        except EngineError as error:
            # 409: somebody else is deleting it at this very moment.
            if error.status not in {404, 409}:
                raise

    # -- logs --

    async def logs(self, container: str, options: LogOptions, *, tty: bool) -> AsyncGenerator[LogLine, None]:
        """The log of a container, with times. Raises RuntimeUnavailable, and EngineError when there is none."""
        since_ns = max(options.since_ns, options.after_ns)
        params = {
            "stdout": str(int(options.stdout)),
            "stderr": str(int(options.stderr)),
            "follow": str(int(options.follow)),
            "timestamps": "1",
            "details": str(int(options.details)),
            "since": f"{since_ns // 10**9}.{since_ns % 10**9:09d}",
            "tail": "all" if options.tail == ALL_LINES or options.after_ns else str(options.tail),
        }
        path = f"containers/{container}/logs"
        async with self._bounded(f"give the log of container {container}", None, refusable=True) as docker:
            async with asyncio.timeout(CALL_TIMEOUT) as patience:
                async with docker._query(path, params=params, timeout=aiohttp.ClientTimeout()) as response:
                    patience.reschedule(None)
                    with closing(response):  # as with events
                        take = docker_log.plain if tty else docker_log.frames
                        async for line in take(response.content.read, details=options.details):
                            yield line

    # -- events --

    @asynccontextmanager
    async def events(self, filters: dict[str, list[str]], since: str) -> AsyncIterator[EventStream]:
        """Events from ``since`` (seconds of the engine's clock) on. Never reconnects. Raises RuntimeUnavailable."""
        async with self._bounded("stream events", None) as docker:
            params = {"filters": json.dumps(filters), "since": since}
            async with asyncio.timeout(CALL_TIMEOUT) as patience:
                async with docker._query("events", params=params, timeout=aiohttp.ClientTimeout()) as response:
                    patience.reschedule(None)
                    with closing(response):  # releasing it would wait for the end of a stream that has none
                        yield EventStream(response)

    @asynccontextmanager
    async def _bounded(
        self, what: str, timeout: float | None, *, refusable: bool = False
    ) -> AsyncIterator[aiodocker.Docker]:
        """The client, for one call; its errors become ours.

        EngineError is for refusals of what is ``refusable``, and for the statuses that tell of a container's state;
        any other failure of the engine is one that may pass.
        """
        if self._docker is None:
            raise RuntimeUnavailable(f"not connected to the Docker Engine at {self.url}")
        try:
            async with asyncio.timeout(timeout):
                yield self._docker
        except TimeoutError as error:
            patience = "in time" if timeout is None else f"within {timeout:.0f} s"
            raise RuntimeUnavailable(f"the Docker Engine at {self.url} did not {what} {patience}") from error
        except aiodocker.DockerError as error:
            if error.status in {_CONNECTION_FAILED, 502, 503, 504}:
                raise RuntimeUnavailable(f"no Docker Engine answers at {self.url} ({_cause(error)})") from error
            if not refusable and error.status not in _TELLING:
                raise RuntimeUnavailable(
                    f"the Docker Engine at {self.url} could not {what}: {_message(error)}"
                ) from error
            raise EngineError(_message(error), error.status) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RuntimeUnavailable(
                f"the connection to the Docker Engine at {self.url} broke: {_line(str(error) or repr(error))}"
            ) from error


class EventStream:
    """The events of one connection."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next_line(self) -> bytes:
        """The next event as JSON; b"" when the engine has closed the stream."""
        return await self._response.content.readline()


def _connector(url: str) -> tuple[aiohttp.BaseConnector, str]:
    """A connector without a limit (a pool that is full of long calls would starve all others) and its base URL.

    Raises InvalidArgument: an address that is none does not come to answer later.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        return aiohttp.UnixConnector(rest, limit=0), "http://docker"
    if scheme not in {"tcp", "http", "https"} or not rest:
        raise InvalidArgument(
            f"the Docker Engine address {url!r} (DOCKER_HOST) is not understood: use unix:///path or tcp://host:port"
        )
    if os.environ.get("DOCKER_TLS_VERIFY") or scheme == "https":
        return aiohttp.TCPConnector(limit=0, ssl=_tls()), f"https://{rest}"
    return aiohttp.TCPConnector(limit=0), f"http://{rest}"


def _tls() -> ssl.SSLContext:
    """TLS with the client certificate that Docker's own client would use."""
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except OSError as error:
        raise RuntimeUnavailable(f"client certificate for the Docker Engine in {directory}: {error}") from error
    return context


def _check_step(step: dict[str, Any]) -> None:
    """Raise the error that a line of a progress stream reports."""
    if "error" in step or "errorDetail" in step:
        detail = step.get("errorDetail") or {}
        raise EngineError(_line(detail.get("message") or step.get("error") or "unknown error"))


def _message(error: aiodocker.DockerError) -> str:
    """The engine's message on one line. aiodocker leaves it in its JSON where the content type names a charset."""
    text = str(error.message)
    if text.startswith("{"):
        try:
            text = str(json.loads(text)["message"])
        except (ValueError, KeyError):
            return _line(text)
    return _line(text)


def _cause(error: aiodocker.DockerError) -> str:
    """Why there is no connection: the system's reason where there is one."""
    cause = error.__context__
    if isinstance(cause, aiohttp.ClientConnectorError) and cause.os_error.strerror:
        return cause.os_error.strerror
    return _line(str(cause or error.message))


def _line(message: str) -> str:
    return " ".join(message.split())

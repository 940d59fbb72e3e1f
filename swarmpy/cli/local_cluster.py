"""A cluster of real processes on this machine: one daemon per node, each on a loopback address of its own.

The addresses (127.0.1.1, 127.0.1.2, ...) let every node listen on the same published port, as separate machines would.
Linux answers on all of 127.0.0.0/8 without any set-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from swarmpy.cli.client import ApiClient
from swarmpy.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, SwarmpyError
from swarmpy.security.private_files import append_privately, make_private_directory

CLUSTER_PORT = 2377
STATUS_PORT = 2378
START_TIMEOUT_S = 20.0
JOIN_TIMEOUT_S = 30.0
REMOVE_TIMEOUT_S = 30.0
LEAVE_TIMEOUT_S = 30.0
EXIT_TIMEOUT_S = 15.0
POLL_S = 0.05
"""How often a starting daemon's socket is tried; it has no other way to say that it is there."""
MAX_NODES = 200
PREFIXES = range(1, 255)
"""The third numbers of 127.0.x addresses that clusters take."""


@attrs.define(kw_only=True)
class LocalNode:
    """One daemon."""

    name: str
    address: str
    data_dir: Path
    is_manager: bool
    runtime: str
    environment: Mapping[str, str] = attrs.Factory(dict)
    """What its daemon's environment has on top of this process's own."""
    arguments: tuple[str, ...] = ()
    """Options of its daemon beside the usual."""
    process: asyncio.subprocess.Process | None = None

    @property
    def client(self) -> ApiClient:
        """A client of this node's API."""
        return ApiClient(self.data_dir / "swarmpy.sock")

    @property
    def cluster_address(self) -> str:
        """Where it listens as a manager."""
        return f"{self.address}:{CLUSTER_PORT}"

    @property
    def status_url(self) -> str:
        """Its status page."""
        return f"http://{self.address}:{STATUS_PORT}/status"

    @property
    def log_file(self) -> Path:
        """What the daemon says."""
        return self.data_dir / "daemon.log"

    @property
    def is_running(self) -> bool:
        """True while its process lives."""
        return self.process is not None and self.process.returncode is None

    def command(self) -> list[str]:
        """What starts the daemon."""
        arguments = ["--data-dir", str(self.data_dir), "node", "run"]
        arguments += ["--runtime", self.runtime, "--status-addr", f"{self.address}:{STATUS_PORT}"]
        arguments += ["--hostname", self.name, "--exit-with-parent", *self.arguments]
        return [sys.executable, "-m", "swarmpy", *arguments]

    async def start(self) -> None:
        """Start the daemon and wait until its API answers. Raises FailedPrecondition with what it said when it ends."""
        # A directory for each node, all of them below one that is as shut.
        make_private_directory(self.data_dir.parent)
        make_private_directory(self.data_dir)
        with append_privately(self.log_file) as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        await self._wait_api()

    async def _wait_api(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await self._answers():
                    if not self.is_running:
                        raise FailedPrecondition(f"{self.name} did not start: {self.last_words()}")
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self.name} did not start within {START_TIMEOUT_S:g} s: {self.last_words()}"
            ) from None

    async def _answers(self) -> bool:
        try:
            await self.client.get("/_ping")
        except SwarmpyError:
            return False
        return True

    def last_words(self) -> str:
        """The last line of the daemon's log."""
        with contextlib.suppress(OSError):
            lines = self.log_file.read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1].removeprefix("swarmpy: ")
        return "it said nothing"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the daemon, if it lives."""
        if self.process is not None and self.is_running:
            # Not its send_signal(): that one polls first, and takes the exit code away from asyncio's watcher.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    async def stop(self) -> None:
        """Ask the daemon to end; make it end after EXIT_TIMEOUT_S."""
        if self.process is None:
            return
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                await self.process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """kill -9."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            await self.process.wait()


class LocalCluster:
    """Managers first, then workers."""

    def __init__(
        self, directory: Path, *, managers: int, workers: int, runtime: str, ports: Sequence[int] = ()
    ) -> None:
        if managers < 1 or workers < 0:
            raise InvalidArgument("a cluster has at least one manager")
        if managers + workers > MAX_NODES:
            raise InvalidArgument(f"at most {MAX_NODES} nodes fit on this machine's loopback addresses")
        prefix, self._reservation = reserve_prefix(managers + workers, ports)
        self.directory = directory
        self.nodes = [
            LocalNode(
                name=f"node-{number}",
                address=f"{prefix}.{number}",
                data_dir=directory / f"node-{number}",
                is_manager=number <= managers,
                runtime=runtime,
            )
            for number in range(1, managers + workers + 1)
        ]

    @property
    def managers(self) -> list[LocalNode]:
        """The managers."""
        return [node for node in self.nodes if node.is_manager]

    @property
    def workers(self) -> list[LocalNode]:
        """The workers."""
        return [node for node in self.nodes if not node.is_manager]

    @property
    def living_manager(self) -> LocalNode:
        """A manager whose process lives."""
        for node in self.managers:
            if node.is_running:
                return node
        raise FailedPrecondition("no manager process is left")

    async def start_daemons(self) -> None:
        """Start every daemon; none is in a cluster yet."""
        async with asyncio.TaskGroup() as group:
            for node in self.nodes:
                group.create_task(node.start())

    async def form(self) -> None:
        """Make one cluster of them, with the calls that ``swarm init`` and ``node join`` make."""
        first = self.managers[0]
        await first.client.post("/swarm/init", _addresses(first), timeout=JOIN_TIMEOUT_S)
        tokens = (await first.client.get("/swarm"))["JoinTokens"]
        for node in self.managers[1:]:
            await self._join(node, first, tokens["Manager"])
        async with asyncio.TaskGroup() as group:
            for node in self.workers:
                group.create_task(self._join(node, first, tokens["Worker"]))

    async def _join(self, node: LocalNode, through: LocalNode, token: str) -> None:
        body = {**_addresses(node), "RemoteAddrs": [through.cluster_address], "JoinToken": token}
        await node.client.post("/swarm/join", body, timeout=JOIN_TIMEOUT_S)

    async def dissolve(self, *, leave: bool = True) -> None:
        """Remove all services, leave the cluster (or not: the nodes can go on from their directories then), and end.

        Errors are of no use any more: the processes end anyway.
        """
        await self._revive()
        order = [self.nodes]
        with contextlib.suppress(SwarmpyError, TimeoutError):
            async with asyncio.timeout(REMOVE_TIMEOUT_S):
                await self._remove_services()
                # Workers first: to leave, a node asks the managers.
                order = [self.workers, *([manager] for manager in await self._leader_last())]
        for nodes in order if leave else ():
            await asyncio.gather(*(self._leave(node) for node in nodes), return_exceptions=True)
        await self.stop()

    async def _revive(self) -> None:
        # Containers outlive a daemon that was killed. Only the daemon of their own node removes them.
        dead = [node for node in self.nodes if node.runtime != "process" and node.process and not node.is_running]
        await asyncio.gather(*(node.start() for node in dead), return_exceptions=True)

    async def _remove_services(self) -> None:
        # Before anybody leaves: the others would start elsewhere what a leaving node stops.
        client = self.living_manager.client
        for service in await client.services():
            await client.remove_service(service["ID"])
        while await client.tasks() or await self._has_containers():
            await asyncio.sleep(POLL_S)

    async def _has_containers(self) -> bool:
        # A task that the cluster has forgotten may still be on its way off its node.
        infos = await asyncio.gather(*(node.client.info() for node in self.nodes if node.is_running))
        return any(info["Containers"] for info in infos)

    async def _leader_last(self) -> list[LocalNode]:
        # Managers that leave at the same time may lose their quorum on the way, and then wait for it.
        leader = (await self.living_manager.client.status())["leader"] or {}
        return sorted(self.managers, key=lambda node: node.cluster_address == leader.get("address"))

    async def _leave(self, node: LocalNode) -> None:
        if node.is_running:
            await node.client.post("/swarm/leave", None, query={"force": "1"}, timeout=LEAVE_TIMEOUT_S)

    async def stop(self) -> None:
        """End every daemon; their data stays."""
        await asyncio.gather(*(node.stop() for node in self.nodes))
        self._reservation.close()


def _addresses(node: LocalNode) -> dict[str, object]:
    return {"ListenAddr": node.cluster_address, "AdvertiseAddr": node.cluster_address}


def reserve_prefix(count: int, ports: Sequence[int] = ()) -> tuple[str, socket.socket]:
    """The first of 127.0.1, 127.0.2, ... on whose first ``count`` addresses the node's ports and ``ports`` are free.

    No other cluster of this machine gets it until the returned socket is closed. Raises FailedPrecondition.
    """
    wanted = [CLUSTER_PORT, STATUS_PORT, *ports]
    for port in wanted:
        if not any(_is_free(f"127.0.{third}.1", port) for third in PREFIXES):
            raise FailedPrecondition(
                f"port {port} is taken on every loopback address: stop what listens on it (ss -ltnp shows it), or "
                "publish another port"
            )
    for third in PREFIXES:
        prefix = f"127.0.{third}"
        if (reservation := _reserve(prefix)) is None:
            continue
        if all(_is_free(f"{prefix}.{number}", port) for number in range(1, count + 1) for port in wanted):
            return prefix, reservation
        reservation.close()
    raise FailedPrecondition(
        f"no {count} neighbouring loopback addresses have the ports {', '.join(map(str, wanted))} free: "
        "end other clusters of this machine"
    )


def _reserve(prefix: str) -> socket.socket | None:
    """A name of the kernel's, which vanishes with this process: nothing to clean up, nothing to wait for."""
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        reservation.bind(f"\0swarmpy-{prefix}")
    except OSError:
        reservation.close()
        return None
    return reservation


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # As the daemon's listeners: connections that linger from an earlier run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def default_directory() -> Path:
    """A fresh directory for a cluster that is thrown away."""
    return Path(tempfile.mkdtemp(prefix="swarmpy-dev-"))

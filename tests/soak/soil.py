"""Makes the nodes, what they stand on, and one cluster of them; takes all of it away again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import disks
import namespaces
from clocks import Clock
from convergence import task_processes
from disks import SmallDisk
from machines import Machine
from namespaces import Namespaces
from network import Network
from proxies import Proxies
from report import Report
from schedule import Cast, Kind

SNAPSHOT_INTERVAL = 500
"""Short, so that managers that were away need snapshots."""
FORM_TIMEOUT_S = 60.0


@attrs.define(kw_only=True)
class Soil:
    """Everything a soak stands on."""

    machines: dict[str, Machine]
    cast: Cast
    network: Network
    kinds: list[Kind]
    keep: bool = False
    """Leave data directories and logs behind."""


@attrs.frozen(kw_only=True)
class Needs:
    """What is to be made."""

    managers: int
    workers: int
    unprivileged: bool = False
    """Without what takes root."""

    @property
    def names(self) -> list[str]:
        """Of all nodes, managers first."""
        return [f"node-{number}" for number in range(1, self.managers + self.workers + 1)]


@contextlib.asynccontextmanager
async def prepared(directory: Path, needs: Needs, report: Report, changed: Callable[[], None]) -> AsyncIterator[Soil]:
    """Nodes that are not started yet. At the end nothing of them is left but, with ``keep``, their files."""
    missing = {"namespaces": namespaces.possible(), "disk_full": disks.possible(directory)}
    if needs.unprivileged:
        missing = dict.fromkeys(missing, "not wanted")
    async with contextlib.AsyncExitStack() as stack:
        network = await _network(needs.names, missing, stack)
        cast = _cast(needs, has_disks=not missing["disk_full"])
        machines = {
            name: Machine(
                name=name,
                data_dir=directory / name,
                log_file=directory / f"{name}.log",
                is_manager=name in cast.managers,
                network=network,
                complain=report.violation,
                changed=changed,
                clock=Clock(directory / f"{name}.clock"),
                disk=SmallDisk(directory / name) if name in cast.small_disks else None,
            )
            for name in needs.names
        }
        kinds = [kind for kind in Kind if kind is not Kind.DISK_FULL or cast.small_disks]
        unavailable = {what: why for what, why in missing.items() if why}
        report.line("prepared", directory=str(directory), network=network.name, unavailable=unavailable)
        soil = Soil(machines=machines, cast=cast, network=network, kinds=kinds)
        stack.push_async_callback(_clear, soil, directory)
        for machine in machines.values():
            machine.clock.set(0)
            if machine.disk is not None:
                machine.disk.mount()
        yield soil


async def _network(names: list[str], missing: dict[str, str], stack: contextlib.AsyncExitStack) -> Network:
    """Namespaces, or else proxies; why there are none is added to ``missing``."""
    if not missing["namespaces"]:
        network: Network = Namespaces(names)
        stack.push_async_callback(network.close)
        try:
            await network.open()
            return network
        except OSError as error:
            missing["namespaces"] = str(error)
    network = Proxies(names)
    stack.push_async_callback(network.close)
    await network.open()
    return network


def _cast(needs: Needs, *, has_disks: bool) -> Cast:
    managers, workers = needs.names[: needs.managers], needs.names[needs.managers :]
    return Cast(
        managers=tuple(managers),
        workers=tuple(workers),
        small_disks=tuple(managers[-2:]) if has_disks else (),
        spared=frozenset({managers[0], *workers[-1:]}),
    )


async def form(soil: Soil) -> None:
    """Start all daemons and make one cluster of them."""
    await asyncio.gather(*(machine.start() for machine in soil.machines.values()))
    first, *others = soil.machines.values()
    spec = {"Raft": {"SnapshotInterval": SNAPSHOT_INTERVAL}}
    await first.client.post("/swarm/init", {**_addresses(soil, first), "Spec": spec}, timeout=FORM_TIMEOUT_S)
    tokens = (await first.client.get("/swarm"))["JoinTokens"]
    for machine in others:
        body = {
            **_addresses(soil, machine),
            "RemoteAddrs": [soil.network.addresses(first.name).advertise],
            "JoinToken": tokens["Manager" if machine.is_manager else "Worker"],
        }
        await machine.client.post("/swarm/join", body, timeout=FORM_TIMEOUT_S)


def _addresses(soil: Soil, machine: Machine) -> dict[str, str]:
    addresses = soil.network.addresses(machine.name)
    return {"ListenAddr": addresses.listen, "AdvertiseAddr": addresses.advertise}


async def _clear(soil: Soil, directory: Path) -> None:
    """End what still runs, and remove or keep the files."""
    await asyncio.gather(*(machine.kill() for machine in soil.machines.values()))
    for process in task_processes(soil.machines):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for machine in soil.machines.values():
        if machine.disk is not None:
            machine.disk.empty()
            kept = machine.data_dir.with_suffix(".kept")
            if soil.keep:
                await asyncio.to_thread(shutil.copytree, machine.data_dir, kept, ignore=_sockets, symlinks=True)
            machine.disk.unmount()
            if soil.keep:
                machine.data_dir.rmdir()
                kept.rename(machine.data_dir)
    if not soil.keep:
        await asyncio.to_thread(shutil.rmtree, directory)


def _sockets(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(directory) / name).is_socket()]

"""The leader's cluster port under attack: what others notice of it, and what it costs the leader.

A steady client of the leader makes a call every few milliseconds and a new connection now and then, first in peace,
then under each attack, all in one run: only the ratio of the two says anything. The attackers are other processes on
this machine, so they take the processor away as well; ``--origins`` has them come from many addresses.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import attrs

from swarmpy.cli.local_cluster import LocalCluster, LocalNode
from swarmpy.errors import SwarmpyError
from swarmpy.security.identity import load_identity
from swarmpy.security.tls import client_context
from swarmpy.security.vault import Vault
from swarmpy.wire.calling import RpcChannel
from swarmpy.wire.rpc import RpcDialer
from tests.bench.attackers import KINDS
from tests.bench.clusters import HostedNode, leading, running
from tests.bench.figures import distribution, emit, quantile

PERIOD_S = 0.005
DIAL_EVERY_S = 0.25
TIMEOUT_S = 10.0
CALM_S = 1.0
"""After each attack, for what is left of it to time out."""


@attrs.define(kw_only=True)
class Steady:
    """A client that goes on whatever happens, and what it met."""

    dialer: RpcDialer
    address: str
    channel: RpcChannel
    calls_s: list[float] = attrs.Factory(list)
    dials_s: list[float] = attrs.Factory(list)
    errors: list[str] = attrs.Factory(list)

    async def run(self, seconds: float) -> None:
        """Call and connect for so long."""
        self.calls_s, self.dials_s, self.errors = [], [], []
        until = time.monotonic() + seconds
        await asyncio.gather(self._call(until), self._dial(until))

    async def _call(self, until: float) -> None:
        while (began := time.monotonic()) < until:
            try:
                await self.channel.call("raft.schema", None, timeout=TIMEOUT_S)
                self.calls_s.append(time.monotonic() - began)
            except SwarmpyError as error:
                self.errors.append(f"call: {error}")
                await asyncio.sleep(PERIOD_S)
            await asyncio.sleep(PERIOD_S)

    async def _dial(self, until: float) -> None:
        while (began := time.monotonic()) < until:
            try:
                channel = await self.dialer.dial(self.address, timeout=TIMEOUT_S)
                self.dials_s.append(time.monotonic() - began)
                await channel.close()
            except SwarmpyError as error:
                self.errors.append(f"dial: {error}")
            await asyncio.sleep(DIAL_EVERY_S)


async def hostile(options: argparse.Namespace) -> None:
    """Peace, then each attack, with what the steady client and the leader's process make of it."""
    async with running(options.managers, max(1, options.workers)) as cluster:
        leader = await leading(cluster)
        assert isinstance(leader, HostedNode)
        vault = Vault(leader.data_dir)
        vault.open(tidy=False)
        identity = load_identity(leader.data_dir, vault.ring)
        assert identity is not None
        dialer = RpcDialer(client_context(identity), identity.cluster_id)
        channel = await dialer.dial(leader.cluster_address, timeout=TIMEOUT_S)
        steady = Steady(dialer=dialer, address=leader.cluster_address, channel=channel)
        await steady.run(0.5)
        term = await _term(leader)
        peace = await _measure(steady, leader, options, "none")
        for kind in options.attacks.split(",") if options.attacks else KINDS:
            await _measure(steady, leader, options, kind, cluster=cluster, peace=peace)
            await asyncio.sleep(CALM_S)
        emit(bench="hostile", attack="all", term_before=term, term_after=await _term(leader), **await _nodes(leader))
        await channel.close()


async def _measure(
    steady: Steady,
    leader: HostedNode,
    options: argparse.Namespace,
    kind: str,
    *,
    cluster: LocalCluster | None = None,
    peace: float = 0.0,
) -> float:
    lines, cpu_s, began = _log_lines(leader), leader.cpu_s, time.monotonic()
    attack = None if cluster is None else await _attack(leader, cluster.workers[0], options, kind)
    most = [0, 0]
    watching = asyncio.create_task(_watch(leader, most))
    await steady.run(options.seconds)
    seconds = time.monotonic() - began
    watching.cancel()
    await asyncio.wait([watching])
    done = {} if attack is None else json.loads((await attack.communicate())[0] or b"{}")
    p99 = quantile(steady.calls_s, 0.99)
    emit(
        bench="hostile",
        attack=kind,
        calls=len(steady.calls_s),
        **distribution(steady.calls_s),
        p99_ratio=round(p99 / peace, 2) if peace else 1.0,
        dials=len(steady.dials_s),
        dial_p50_ms=round(quantile(steady.dials_s, 0.5) * 1e3, 1) if steady.dials_s else None,
        dial_max_ms=round(max(steady.dials_s, default=0) * 1e3, 1),
        errors=len(steady.errors),
        first_error=steady.errors[0] if steady.errors else "",
        leader_cpu_share=round((leader.cpu_s - cpu_s) / seconds, 2),
        leader_descriptors=most[0],
        leader_mib=round(most[1] / 2**20),
        log_lines=_log_lines(leader) - lines,
        attacker=done,
    )
    return p99


async def _attack(
    leader: LocalNode, worker: LocalNode, options: argparse.Namespace, kind: str
) -> asyncio.subprocess.Process:
    arguments = ["--seconds", options.seconds, "--connections", options.connections, "--origins", options.origins]
    arguments += ["--identity", worker.data_dir]
    command = [sys.executable, "-m", "tests.bench.attackers", kind, leader.cluster_address, *map(str, arguments)]
    attack = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert attack.stdout is not None
    assert await attack.stdout.readline() == b"attacking\n"
    return attack


async def _watch(leader: HostedNode, most: list[int]) -> None:
    assert leader.process is not None
    directory = Path(f"/proc/{leader.process.pid}/fd")
    while True:
        most[:] = [max(most[0], len(os.listdir(directory))), max(most[1], leader.resident_bytes)]  # noqa: PTH208
        await asyncio.sleep(0.1)


def _log_lines(leader: LocalNode) -> int:
    with contextlib.suppress(OSError):
        return leader.log_file.read_bytes().count(b"\n")
    return 0


async def _term(leader: LocalNode) -> int:
    return int((await leader.client.status())["raft"]["term"])


async def _nodes(leader: LocalNode) -> dict[str, int]:
    states = [node["Status"]["State"] for node in await leader.client.get("/nodes")]
    return {"nodes": len(states), "nodes_ready": states.count("ready")}

"""What encryption at rest costs: sealing and opening an entry, beside a committed write in the same run."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from swarmpy.raft.messages import Entry
from swarmpy.security.sealing import DataKey, KeyRing
from swarmpy.wire.log_sealing import LogSeal, seal_of
from tests.bench.clusters import leader_of, running
from tests.bench.figures import emit

SIZES = {"300 B": 300, "4 KiB": 4 << 10, "1 MiB": 1 << 20}
SERIES = 5
SERIES_S = 0.2
CLIENTS = (1, 32)


async def sealing(options: argparse.Namespace) -> None:
    """Microseconds an entry, and of an entry of 300 bytes as a share of the time of a committed write."""
    seal = seal_of(KeyRing((DataKey.new(1),)), "bench")
    costs = {name: _cost(seal, size) for name, size in SIZES.items()}
    for name, (sealed_us, opened_us) in costs.items():
        emit(bench="sealing", entry=name, seal_us=round(sealed_us, 2), open_us=round(opened_us, 2))
    async with running(options.managers) as cluster:
        leader = await leader_of(cluster)
        await leader.do("updates", clients=32, seconds=1.0)
        for clients in CLIENTS:
            found = await leader.do("updates", clients=clients, seconds=options.seconds)
            write_us = 1e6 / found["per_s"]
            emit(
                bench="sealing",
                clients=clients,
                write_us=round(write_us, 1),
                seal_share=round(costs["300 B"][0] / write_us, 4),
            )


def _cost(seal: LogSeal, size: int) -> tuple[float, float]:
    """Of sealing, and of opening."""
    entry = Entry(term=3, index=1_000_000, data=os.urandom(size))
    stored = seal.entry(entry)
    place = entry.index, entry.term, entry.kind, seal.key, stored
    return _least_us(lambda: seal.entry(entry)), _least_us(lambda: seal.open_entry(*place))


def _least_us(work: Callable[[], object]) -> float:
    """The least of some series: whatever else the machine does only adds to it."""
    work()
    found = []
    for _ in range(SERIES):
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < SERIES_S:
            for _ in range(10):
                work()
            count += 10
        found.append(took / count)
    return min(found) * 1e6

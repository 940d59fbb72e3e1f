"""A daemon that can be told to do a workload in its own event loop: ``python -m tests.bench.hosted DATA_DIR ...``.

It is the real daemon: nothing of it is replaced. Beside its API it listens on ``DATA_DIR/bench.sock`` for one JSON
object a line, ``{"do": NAME, ...}``, and answers each with one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

from swarmpy.node.clock import SystemClock
from swarmpy.node.config import NodeConfig
from swarmpy.node.daemon import Node
from swarmpy.node.garbage import freeze
from swarmpy.node.logs import configure
from tests.bench.workloads import WORKLOADS


async def serve(node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The workloads of one connection, one after the other."""
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            asked = json.loads(line)
            try:
                answer: Any = await WORKLOADS[asked.pop("do")](node, **asked)
            except Exception as error:
                answer = {"error": repr(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
    writer.close()


async def run(options: argparse.Namespace) -> None:
    """Be the daemon until a signal comes."""
    configure("info")
    freeze()
    config = NodeConfig(
        data_dir=options.data_dir, hostname=options.hostname, runtime="process", status_address=options.status_addr
    )
    node = Node(config, SystemClock(), random.SystemRandom())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    path = options.data_dir / "bench.sock"
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(lambda r, w: serve(node, r, w), path, limit=1 << 20)
    try:
        await node.run(stop)
    finally:
        server.close()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--hostname", required=True)
    parser.add_argument("--status-addr", required=True)
    options = parser.parse_args()
    parent = os.getppid()
    from swarmpy.cli.daemon import _die_with_parent

    _die_with_parent()
    assert os.getppid() == parent
    asyncio.run(run(options))


if __name__ == "__main__":
    main()

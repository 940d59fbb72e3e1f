"""``python -m tests.bench NAME``: measurements of real processes on this machine, one JSON object a line.

The first says how fast the machine is: figures of two runs are to be compared only where that is the same.

writes       committed writes a second at the leader's store, and what group commit gains
api          services created a second through the HTTP API, on the leader and on a follower
reads        linearizable reads a second on a follower
list         GET /services with many services, beside Docker Swarm where a Docker Engine can be started
versions     secrets, services with many of them, and new versions that one or all of them follow to
failover     leader killed, stopped or cut off: seconds until a survivor has taken a write
worker       worker killed with -9: seconds until its tasks run elsewhere
big          many tasks: how long the leader's loop is held, memory, and how long a manager takes to come back
idle         what a quiet cluster uses
agents       hundreds of agents: joins and sessions a second, what a heartbeat costs, how soon all have the next leader
handshake    what a TLS handshake and a connection cost either end, without a cluster around them
cost         what one committed write costs, layer by layer
secrets      a thousand secrets on their way to a node, and what one question costs the leader
sealing      what encryption at rest costs, beside a committed write
hostile      the cluster port under attack: what a steady client notices of it
scale        many agents and tasks: deploying them, at rest, a rolling update, a lost node (--agents, --tasks)
load         requests through all nodes while services and nodes change, with a Docker Engine: how many fail
swarm        deploy, update and removal of a service, beside Docker Swarm and the engine itself (root and dockerd)
scheduler    seconds to place tasks, in the shapes of SwarmKit's benchmarks: bound them by --most-nodes and --most-tasks
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from swarmpy.errors import SwarmpyError
from tests.bench import (
    agents,
    attackers,
    beside,
    big,
    cost,
    failover,
    handshake,
    hostile,
    idle,
    large,
    listing,
    load,
    machine,
    scale,
    scheduler,
    sealing,
    secrets,
    throughput,
    versions,
    workers,
)

BENCHES: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, None]]] = {
    "writes": throughput.writes,
    "api": throughput.api,
    "reads": throughput.reads,
    "list": listing.listing,
    "versions": versions.versions,
    "failover": failover.failover,
    "worker": workers.worker,
    "big": big.big,
    "idle": idle.idle,
    "cost": cost.cost,
    "agents": agents.agents,
    "handshake": handshake.handshake,
    "hostile": hostile.hostile,
    "secrets": secrets.secrets,
    "sealing": sealing.sealing,
    "scale": scale.scale,
    "large": large.large_bench,
    "scheduler": scheduler.scheduler_bench,
    "load": load.load,
    "swarm": beside.beside,
}


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(BENCHES), metavar="NAME")
    parser.add_argument("--runs", type=int, default=10, help="how often (failover, worker)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each series (writes, api, reads, idle)")
    parser.add_argument("--managers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--fault", choices=failover.FAULTS, default="kill", help="of failover")
    parser.add_argument("--heartbeat-ms", type=int, default=100, help="Raft's, of failover")
    parser.add_argument("--election-ms", type=int, default=500, help="Raft's, of failover")
    parser.add_argument("--tasks", type=int, default=100_000, help="of big, scale and large")
    parser.add_argument("--attacks", default="", help=f"of hostile: {','.join(attackers.KINDS)} (all of them)")
    parser.add_argument("--connections", type=int, default=10_000, help="held open, of hostile")
    parser.add_argument("--origins", type=int, default=1, help="addresses the attacker comes from, of hostile")
    parser.add_argument("--services", type=int, default=10_000, help="of list")
    parser.add_argument("--agents", type=int, default=500, help="of agents and scale")
    # Docker's period: a process full of agents starts thousands of tasks at once, and would be late with a shorter one.
    parser.add_argument("--agent-heartbeat-s", type=float, default=5.0, help="of scale")
    parser.add_argument("--requests", type=int, default=20_000, help="of load")
    parser.add_argument("--clients", type=int, default=1, help="of either kind for each node, of load")
    parser.add_argument("--replicas", type=int, default=10, help="of swarm")
    parser.add_argument("--grace-s", type=float, default=0.0, help="stop grace period of what is updated, of swarm")
    parser.add_argument("--most-nodes", type=int, default=100_000, help="of scheduler")
    parser.add_argument("--most-tasks", type=int, default=1_000_000, help="of scheduler")
    options = parser.parse_args()
    machine.machine()
    try:
        asyncio.run(BENCHES[options.name](options))
    except SwarmpyError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a TLS handshake of the cluster port costs either end: OpenSSL alone, and a whole connection of swarmpy's."""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import ssl
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import structlog

from swarmpy.model.rates import Rate
from swarmpy.security.ca import create_root_ca
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.tls import Credentials, joiner_context, peer_identity
from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcDialer, RpcServer
from swarmpy.wire.serving import ServerConfig
from tests.bench.figures import emit, quantile
from tests.bench.heartbeat import CLUSTER, credentials_of

SERIES = 5
HANDSHAKES_A_SECOND = 50
"""Of each series, for each second that the other benches take."""
UNBOUNDED = Rate(burst=1e9, per_s=1e9)
T = TypeVar("T")


async def handshake(options: argparse.Namespace) -> None:
    """Microseconds of processor time, the least of some series: what others do here only adds to it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    count = max(1, round(options.seconds * HANDSHAKES_A_SECOND))
    root = create_root_ca(time.time_ns())
    server, client = credentials_of(root), credentials_of(root)
    stranger = joiner_context(root.cert_pem)
    for who, context in (("member", client.client_context()), ("stranger", stranger)):
        shaken = [_bare(server.server_context(), context, count) for _ in range(SERIES)]
        emit(bench="handshake", what="OpenSSL", caller=who, openssl=ssl.OPENSSL_VERSION, **_least(shaken))
    emit(bench="handshake", what="connection", caller="member", **await _connections(server, client, count))


def _least(series: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(min(each[name] for each in series)) for name in series[0]}


# -- OpenSSL alone ----------------------------------------------------------------------------------------------------


def _bare(server: ssl.SSLContext, client: ssl.SSLContext, count: int) -> dict[str, float]:
    """The halves of handshakes in memory, apart, and who it was: medians of so many."""
    ours, theirs, known = [], [], []
    for _ in range(count):
        at_server, at_client, end = _shake_hands(server, client)
        ours.append(at_server)
        theirs.append(at_client)
        known.append(_timed(lambda end=end: peer_identity(end, CLUSTER))[1])  # type: ignore[misc]
    names = ("server_us", "client_us", "identity_us")
    return {name: quantile(sorted(each), 0.5) * 1e6 for name, each in zip(names, (ours, theirs, known), strict=True)}


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[float, float, ssl.SSLObject]:
    """Seconds of the server's half and of the client's, and the server's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving, at_server = _timed(lambda: server.wrap_bio(to_server, to_client, server_side=True))
    calling, at_client = _timed(lambda: client.wrap_bio(to_client, to_server))
    is_done = [False, False]
    while not all(is_done):
        is_done[0], took = _timed(lambda: _step(calling))
        at_client += took
        is_done[1], took = _timed(lambda: _step(serving))
        at_server += took
    return at_server, at_client, serving


def _step(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


# -- a whole connection -----------------------------------------------------------------------------------------------


async def _connections(server: Credentials, client: Credentials, count: int) -> dict[str, Any]:
    """Connections that are made one after the other, HELLO and all, by this process to another one."""
    ours, theirs = multiprocessing.Pipe()
    spawning = multiprocessing.get_context("spawn")
    process = spawning.Process(target=_serve, args=(theirs, server.identity), daemon=True)
    process.start()
    try:
        address = ours.recv()
        dialer = RpcDialer(client.client_context, CLUSTER)
        found = []
        for _ in range(SERIES):
            ours.send(None)
            cpu_s, kib = ours.recv()
            began = time.process_time()
            channels = [await dialer.dial(address, timeout=5) for _ in range(count)]
            spent = time.process_time() - began
            ours.send(None)
            after_s, after_kib = ours.recv()
            found.append({"server_us": (after_s - cpu_s) / count * 1e6, "client_us": spent / count * 1e6})
            if len(found) == 1:
                memory = (after_kib - kib) / count
            for channel in channels:
                await channel.close()
    finally:
        process.terminate()
        process.join()
    return {**_least(found), "server_kib": round(memory)}


def _serve(pipe: Connection, identity: NodeIdentity) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(_server(pipe, Credentials(identity)))


async def _server(pipe: Connection, credentials: Credentials) -> None:
    limits = EntranceLimits(member=UNBOUNDED, strangers=UNBOUNDED)
    config = ServerConfig(max_of_manager=1_000_000, entrance=limits)
    server = RpcServer(Router(), credentials, host="127.0.0.1", port=0, config=config)
    await server.start()
    pipe.send(server.address)
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), asked.set)
    while True:
        await asked.wait()
        asked.clear()
        # It may be told once more of a question that was read already.
        if pipe.poll():
            pipe.recv()
            pipe.send((time.process_time(), _resident_kib()))


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

"""``python -m tests.bench.attackers KIND HOST:PORT``: one who means no good to a cluster port, for some seconds.

hold         opens connections and says nothing
half         sends half of a TLS hello and says nothing more
drip         sends a TLS hello a byte at a time
churn        connects and goes away, as fast as it can
words        sends what is no TLS, as fast as it can
handshakes   TLS without a certificate, as fast as it can
frames       TLS without a certificate, then frames that are none, as fast as it can
calls        TLS without a certificate, then requests without end
worker       with a worker's certificate: reports, heartbeats, sessions, streams and refused requests without end

Prints one JSON object with what it got done. It stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs

from swarmpy.errors import SwarmpyError
from swarmpy.security.identity import load_identity
from swarmpy.security.tls import client_context, unverified_context
from swarmpy.wire.frames import OLDEST_VERSION, PROTOCOL_VERSION, Kind, encode

HELLO = encode(Kind.HELLO, PROTOCOL_VERSION, OLDEST_VERSION)
RESET = struct.pack("ii", 1, 0)
NO_FRAMES = (b"\xff" * 8, b"\x00\x00\x00\x02\x91\x7f", b"\x00\x01\xff\xff" + b"\x91" * 0x1FFFF)
OPEN_CALLS = b"".join(
    encode(Kind.CALL, number, method, {}) for number, method in enumerate(("ca.root", "ca.join", "raft.status") * 10)
)
AT_ONCE = 64
"""Connections that one who is quick has under way."""
PAUSE_S = 0.05


@attrs.frozen(kw_only=True)
class Attack:
    """Whom, from where, for how long, and what was done."""

    host: str
    port: int
    origins: tuple[str, ...]
    connections: int
    until: float
    identity: Path | None
    done: Counter[str] = attrs.Factory(Counter)

    @property
    def is_over(self) -> bool:
        """True when it is time to stop."""
        return time.monotonic() >= self.until

    async def socket(self, number: int) -> socket.socket:
        """A connection. Raises OSError."""
        sock = socket.socket()
        try:
            sock.setblocking(False)
            # The port is chosen when it connects: each address of its own has all of them.
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            sock.bind((self.origins[number % len(self.origins)], 0))
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        except BaseException:
            sock.close()
            raise
        self.done["connected"] += 1
        return sock

    async def secure(self, number: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection with TLS. Raises OSError."""
        sock = await self.socket(number)
        async with asyncio.timeout(10):
            streams = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
        self.done["handshakes"] += 1
        return streams

    async def again(self, once: Callable[[int], Awaitable[None]]) -> None:
        """Do it again and again, with many at a time."""

        async def keep_on(number: int) -> None:
            while not self.is_over:
                try:
                    await once(number)
                    self.done["done"] += 1
                except (OSError, TimeoutError):
                    self.done["refused"] += 1
                    await asyncio.sleep(0.002)

        await asyncio.gather(*(keep_on(number) for number in range(AT_ONCE)))


def hello_of(context: ssl.SSLContext) -> bytes:
    """The first that a TLS client says."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def hold(attack: Attack, words: bytes = b"", *, drips: bool = False) -> None:
    """Keep so many connections open as are wanted; those that are ended are opened anew."""
    held: dict[int, socket.socket] = {}

    async def keep(number: int) -> None:
        place = 0
        while not attack.is_over:
            try:
                if number not in held:
                    held[number] = await attack.socket(number)
                    place = 0
                    if words and not drips:
                        held[number].send(words)
                if drips and place < len(words):
                    held[number].send(words[place : place + 1])
                    place += 1
                await asyncio.sleep(PAUSE_S * random.random() * 20)
                # Data, or an end: it was turned away.
                with contextlib.suppress(BlockingIOError):
                    if not held[number].recv(100):
                        raise ConnectionResetError
            except (OSError, TimeoutError):
                attack.done["refused"] += 1
                if (sock := held.pop(number, None)) is not None:
                    sock.close()
                await asyncio.sleep(PAUSE_S)

    async def watch() -> None:
        while not attack.is_over:
            attack.done["most_held"] = max(attack.done["most_held"], len(held))
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(watch(), *(keep(number) for number in range(attack.connections)))
    for sock in held.values():
        sock.close()


async def half(attack: Attack) -> None:
    """Half a hello."""
    words = hello_of(unverified_context())
    await hold(attack, words[: len(words) // 2])


async def drip(attack: Attack) -> None:
    """A hello, a byte at a time."""
    await hold(attack, hello_of(unverified_context()), drips=True)


async def churn(attack: Attack) -> None:
    """Connect and go away."""

    async def once(number: int) -> None:
        sock = await attack.socket(number)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()

    await attack.again(once)


async def words(attack: Attack) -> None:
    """What is no TLS."""

    async def once(number: int) -> None:
        sock = await attack.socket(number)
        try:
            sock.send(random.choice([b"GET / HTTP/1.1\r\n\r\n", b"\x80\x2e\x01\x00\x02" * 20, b"\x00" * 4000]))
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_recv(sock, 100)
        finally:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()

    await attack.again(once)


async def handshakes(attack: Attack) -> None:
    """TLS, and no more."""
    context = unverified_context()

    async def once(number: int) -> None:
        _, writer = await attack.secure(number, context)
        writer.transport.abort()

    await attack.again(once)


async def frames(attack: Attack) -> None:
    """TLS, and frames that are none."""
    context = unverified_context()

    async def once(number: int) -> None:
        reader, writer = await attack.secure(number, context)
        try:
            writer.write(
                HELLO
                + random.choice([b"\xff" * 8, b"\x00\x00\x00\x02\x91\x7f", b"\x00\x01\xff\xff" + b"\x91" * 0x1FFFF])
            )
            async with asyncio.timeout(5):
                await reader.read()
        finally:
            writer.transport.abort()

    await attack.again(once)


async def calls(attack: Attack) -> None:
    """TLS, and requests that anybody may make, and others."""
    context = unverified_context()

    async def once(number: int) -> None:
        reader, writer = await attack.secure(number, context)
        try:
            writer.write(HELLO)
            while not attack.is_over:
                writer.write(OPEN_CALLS)
                async with asyncio.timeout(5):
                    await writer.drain()
                    if not await reader.read(65536):
                        return
                attack.done["requests"] += 30
        finally:
            writer.transport.abort()

    await attack.again(once)


async def worker(attack: Attack) -> None:
    """Everything that a worker's certificate opens, without end."""
    identity = None if attack.identity is None else load_identity(attack.identity)
    assert identity is not None, "no identity to attack with"
    context = client_context(identity)
    text = "x" * 5000
    session = {"description": {"hostname": "h"}, "address": "127.0.0.1", "incarnation": 0}
    report = {
        "session_id": text,
        "updates": [{"task_id": f"t{n}", "status": {"state": 512, "err": text}} for n in range(100)],
    }
    requests = [
        (Kind.CALL, "dispatcher.report", report),
        (Kind.CALL, "dispatcher.heartbeat", {"session_id": "s", "problems": [text]}),
        (Kind.STREAM, "dispatcher.session", session),
        (Kind.CALL, "ca.renew", {"csr_pem": b"x" * 1000}),
        (Kind.CALL, "raft.status", None),
        (Kind.CALL, "nothing", text),
    ]

    async def once(number: int) -> None:
        reader, writer = await attack.secure(number, context)
        try:
            writer.write(HELLO + b"".join(encode(Kind.NOTIFY, "raft.messages", [[1]]) for _ in range(100)))
            frame_id = 0
            while not attack.is_over:
                kind, method, payload = random.choice(requests)
                frame_id += 1
                writer.write(encode(kind, frame_id, method, payload))
                if kind is Kind.STREAM:
                    writer.write(encode(Kind.CANCEL, frame_id - 3))
                async with asyncio.timeout(5):
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.001):
                            if not await reader.read(65536):
                                return
                attack.done["requests"] += 1
        finally:
            writer.transport.abort()

    await attack.again(once)


KINDS: dict[str, Callable[[Attack], Awaitable[None]]] = {
    "hold": hold,
    "half": half,
    "drip": drip,
    "churn": churn,
    "words": words,
    "handshakes": handshakes,
    "frames": frames,
    "calls": calls,
    "worker": worker,
}


def main() -> int:
    """Parse the command line and attack."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.attackers", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("address", help="HOST:PORT of a cluster port on this machine")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=1000, help="of hold, half and drip")
    parser.add_argument("--origins", type=int, default=1, help="addresses it comes from")
    parser.add_argument("--identity", type=Path, help="data directory of the worker whose certificate is used")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    if not host.startswith("127."):
        parser.error("only addresses of this machine are attacked")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = Attack(
        host=host,
        port=int(port),
        origins=tuple(f"127.66.{number >> 8}.{1 + (number & 127)}" for number in range(options.origins)),
        connections=min(options.connections, hard - 100),
        until=time.monotonic() + options.seconds,
        identity=options.identity,
    )
    print("attacking", flush=True)
    try:
        asyncio.run(KINDS[options.kind](attack))
    except SwarmpyError as error:
        print(f"attackers: {error}", file=sys.stderr)
        return 1
    print(json.dumps(dict(attack.done)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

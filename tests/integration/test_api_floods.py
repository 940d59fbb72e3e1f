"""Hostile clients at every door of a real daemon at once, and a steady one next door who notices nothing."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hosts import Host, Hosts

SECONDS = 12.0
GROWTH_BYTES = 150 << 20
"""Far less than what the floods send, or would have kept."""
HALF = b"GET /status HTTP/1.1\r\nHost: localhost\r\n"
Connect = Callable[[], socket.socket]


def resident_bytes(host: Host) -> int:
    """The memory of a daemon."""
    pages = int(Path(f"/proc/{host.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(host: Host) -> int:
    """How many files and sockets it has open."""
    return len(list(Path(f"/proc/{host.pid}/fd").iterdir()))


class Flood(threading.Thread):
    """Does something again and again, whatever becomes of it, until it is told to stop."""

    def __init__(self, act: Callable[[], None], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._act = act
        self._over = over
        self.done = 0

    def run(self) -> None:
        """Until it is over."""
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                self._act()
            self.done += 1


def holding(stack: contextlib.ExitStack, connect: Connect, first: bytes, drop: bytes, count: int) -> Callable[[], None]:
    """So many connections, each with a beginning and a drop every now and then; those that end are made anew."""
    held: list[socket.socket] = []

    def act() -> None:
        if len(held) < count:
            sock = stack.enter_context(connect())
            held.append(sock)
            sock.sendall(first)
            return
        time.sleep(0.01)
        sock = random.choice(held)
        try:
            sock.sendall(drop)
        except OSError:
            held.remove(sock)
            sock.close()

    return act


def sending(connect: Connect, data: bytes) -> Callable[[], None]:
    """A connection for each time, everything at once, no look at the answer."""

    def act() -> None:
        with connect() as sock:
            sock.settimeout(2)
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.recv(1000)

    return act


def not_taking(connect: Connect, asked: bytes) -> Callable[[], None]:
    """Asks for long answers, and takes none of them."""

    def act() -> None:
        with connect() as sock:
            sock.settimeout(3)
            with contextlib.suppress(OSError):
                while True:
                    sock.sendall(asked)

    return act


def test_a_steady_client_is_served_through_it_all(hosts: Hosts, tmp_path: Path) -> None:
    """The floods cost their own connections: memory and descriptors stay bounded, and every answer comes."""
    host = hosts.new()
    host.resume("--api-addr", host.address)
    host.does("swarm", "init", "--listen-addr", host.cluster_address)
    host.does("swarm", "client-cert", "bob", "--role", "viewer", "--out", tmp_path / "bob")
    context = ssl.create_default_context(cafile=str(tmp_path / "bob" / "ca.pem"))
    context.load_cert_chain(tmp_path / "bob" / "cert.pem", tmp_path / "bob" / "key.pem")

    def tcp(port: int) -> Connect:
        return lambda: socket.create_connection((host.address, port), timeout=2)

    def unix() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(2)
        try:
            sock.connect(str(host.data_dir / "swarmpy.sock"))
        except OSError:
            sock.close()
            time.sleep(0.01)
            raise
        return sock

    def viewer() -> socket.socket:
        return context.wrap_socket(tcp(2376)(), server_hostname=host.address)

    stack = contextlib.ExitStack()
    acts = [
        holding(stack, tcp(2378), HALF, b"A: b\r\n", 400),
        holding(stack, unix, HALF, b"A: b\r\n", 150),
        holding(stack, tcp(2376), b"", b"\x16\x03\x01", 200),
        holding(stack, viewer, HALF, b"A: b\r\n", 100),
        sending(tcp(2378), b"GET /" + b"%41" * 300_000 + b" HTTP/1.1\r\n\r\n"),
        sending(unix, b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"[" * 500_000),
        sending(viewer, b"POST /services/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n" + b"x" * 100_000),
        sending(tcp(2376), os.urandom(4000)),
        not_taking(tcp(2378), b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50),
        not_taking(viewer, b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * 50),
    ]
    before, files_before = resident_bytes(host), descriptors(host)
    over = threading.Event()
    floods = [Flood(act, over) for act in acts]
    for flood in floods:
        flood.start()
    longest, asked, most, most_files = 0.0, 0, before, files_before
    stop_at = time.monotonic() + SECONDS
    while time.monotonic() < stop_at:
        began = time.monotonic()
        for path in ("/services", "/status"):
            host.api(path)
            asked += 1
        longest = max(longest, time.monotonic() - began)
        most, most_files = max(most, resident_bytes(host)), max(most_files, descriptors(host))
        time.sleep(0.02)
    over.set()
    for flood in floods:
        flood.join(30)
    stack.close()
    print(f"{asked} answers, at most {longest:.2f} s, {most - before >> 20} MiB more, {most_files} descriptors")
    assert asked > 20
    assert all(flood.done > 0 for flood in floods), [flood.done for flood in floods]
    assert most - before < GROWTH_BYTES
    assert most_files < files_before + 3 * 256 + 64
    assert host.status()["problems"] == []
    for word in ("Traceback", "request_failed", "never retrieved"):
        assert word not in host.log
    assert len(host.log) < 100_000
    # What is written down of refused writes is bounded, too.
    assert (host.data_dir / "audit.log").stat().st_size < 11 << 20
    host.kill()

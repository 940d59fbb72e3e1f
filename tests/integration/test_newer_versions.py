"""What a real daemon does with what only a newer version can have written or sent: it refuses it, and says so."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

from hosts import Host, Hosts, until

from swarmpy.model import codec
from swarmpy.raft.messages import Entry, HardState, Snapshot
from swarmpy.raft.storage import StoredState
from swarmpy.security.identity import load_identity
from swarmpy.security.tls import Credentials
from swarmpy.wire.frames import OLDEST_VERSION, PROTOCOL_VERSION, Decoder, Kind, encode
from swarmpy.wire.log import SqliteLog
from swarmpy.wire.log_rows import entry_checksum

NEWER = codec.SCHEMA_VERSION + 1
HELLO = encode(Kind.HELLO, PROTOCOL_VERSION, OLDEST_VERSION)


def converse(host: Host, identity_of: Host, *frames: bytes) -> list[Any]:
    """Send frames to a manager, with another one's certificate; the frame that ends its answer."""
    identity = load_identity(identity_of.data_dir, identity_of.ring)
    assert identity is not None
    context, decoder = Credentials(identity).client_context(), Decoder()
    with (
        socket.create_connection((host.address, 2377), timeout=20) as connection,
        context.wrap_socket(connection) as secure,
    ):
        secure.sendall(b"".join(frames))
        while data := secure.recv(65536):
            decoder.add(data)
            while (frame := decoder.next()) is not None:
                if frame[0] in (Kind.ERROR, Kind.RESULT, Kind.GOODBYE):
                    return frame
    raise AssertionError("it said nothing")


def raw(*items: Any) -> bytes:
    """A frame of any kind."""
    body = codec.pack(items)
    return len(body).to_bytes(4, "big") + body


def test_what_is_said(hosts: Hosts) -> None:
    """A newer protocol, an unknown frame, method or message: the connection or the call ends, the cluster goes on."""
    first, second, _ = hosts.cluster(3, 0)
    before = first.status()

    def says(*frames: bytes) -> list[Any]:
        return converse(first, second, *frames)

    newer = PROTOCOL_VERSION + 1
    goodbye = says(encode(Kind.HELLO, newer, newer))
    assert goodbye[:2] == [Kind.GOODBYE, "protocol_violation"]
    assert goodbye[2].endswith(
        f"protocol versions {newer} to {newer} offered, 1 to 1 spoken here: upgrade the node that refuses"
    )
    # A newer one that still speaks the old protocol is spoken with.
    answer = says(encode(Kind.HELLO, newer, PROTOCOL_VERSION), encode(Kind.CALL, 1, "ca.root", None))
    assert answer[0] == Kind.RESULT

    goodbye = says(HELLO, raw(99, "what", "ever"))
    assert goodbye[:2] == [Kind.GOODBYE, "protocol_violation"]
    assert "unknown kind 99" in goodbye[2]

    answer = says(HELLO, encode(Kind.CALL, 1, "raft.future", None))
    assert (answer[0], answer[2]) == (Kind.ERROR, "not_found")
    assert "no call method 'raft.future' on this node: is it of an older version, or a worker?" in answer[3]

    term = before["raft"]["term"] + 50
    row = [99, 1, 2, term, *([0] * 14)]
    answer = says(HELLO, encode(Kind.NOTIFY, "raft.messages", [row]), encode(Kind.CALL, 1, "ca.root", None))
    assert answer[0] == Kind.RESULT
    until(lambda: first.status()["leader"], "there is a leader")
    assert first.status()["raft"]["term"] < term


def rewrite(host: Host, change: Callable[[SqliteLog, StoredState], Any]) -> None:
    """Change the log of a stopped manager, as the daemon itself would."""

    async def run() -> None:
        storage = SqliteLog(host.data_dir / "raft", host.ring)
        stored = await storage.load()
        await change(storage, stored)
        await storage.close()

    asyncio.run(run())


def last_words(host: Host, code: int) -> str:
    """What a daemon that ends at its start says."""
    host._start("node", "run", *host.own)
    until(lambda: not host.is_up, f"{host.name} ends")
    assert host._started[-1].wait(timeout=1) == code
    assert "Traceback" not in host.log
    return host.log.splitlines()[-1]


def test_what_is_on_the_disk(hosts: Hosts) -> None:
    """An entry, a kind of entry, a snapshot and a node.json of newer versions: exit code 78, and the disk stays."""
    hosts_with = [hosts.new() for _ in range(4)]
    for host in hosts_with:
        host.init()
        host.kill(signal.SIGTERM)
    entry, kind, snapshot, state = hosts_with

    def appended(**what: Any) -> Callable[[SqliteLog, StoredState], Any]:
        def change(storage: SqliteLog, stored: StoredState) -> Any:
            hard_state = HardState(term=stored.hard_state.term, vote=stored.hard_state.vote)
            last = stored.entries[-1]
            return storage.append(hard_state, (Entry(term=last.term, index=last.index + 1, **what),))

        return change

    rewrite(entry, appended(data=bytes([NEWER]) + codec.pack({"changes": []})))
    words = last_words(entry, 78)
    assert f"of the raft log has schema version {NEWER}, this swarmpy reads up to {NEWER - 1}: upgrade it" in words
    assert last_words(entry, 78) == words, "it does not go on the second time"

    rewrite(kind, appended(data=b"x"))
    change_kind(kind, 7)
    assert "is of kind 7, which this swarmpy does not know: upgrade it" in last_words(kind, 78)

    def newer_snapshot(storage: SqliteLog, stored: StoredState) -> Any:
        assert stored.snapshot is not None
        last = stored.entries[-1]
        made = Snapshot(index=last.index, term=last.term, conf=stored.snapshot.conf, data=bytes([NEWER]) + b"rest")
        return storage.save_snapshot(made, last.index + 1)

    rewrite(snapshot, newer_snapshot)
    assert f"the snapshot has schema version {NEWER}, this swarmpy reads up to {NEWER - 1}: upgrade it" in last_words(
        snapshot, 78
    )

    path = state.data_dir / "node.json"
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"version": 3}))
    assert "was written by a newer swarmpy (format 3, this one reads 2): upgrade this node" in last_words(state, 78)
    path.write_text(text)
    state.resume()
    until(lambda: state.is_manager, "its own version goes on")


def change_kind(host: Host, kind: int) -> None:
    """Give the last entry another kind, with the checksum that belongs to it."""
    with closing(sqlite3.connect(host.data_dir / "raft" / "raft.db", isolation_level=None)) as db:
        last = db.execute("SELECT idx, term, data, key FROM entries ORDER BY idx DESC LIMIT 1")
        index, term, data, key = last.fetchone()
        checksum = entry_checksum(index, term, kind, data, key)
        db.execute("UPDATE entries SET kind = ?, crc = ? WHERE idx = ?", (kind, checksum, index))

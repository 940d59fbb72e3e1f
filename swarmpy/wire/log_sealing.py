"""How a Raft log is sealed: each entry and each snapshot by itself, bound to its place in this log.

Bound are: which member of which cluster the log is of, and of an entry its index, term and kind; of a snapshot its
index, term and membership. Those stay readable, as do vote and commit: they are what a log needs to be looked after.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import attrs

from swarmpy.errors import LogCorrupted, SealBroken
from swarmpy.raft.messages import Entry
from swarmpy.security.sealing import PLAIN, KeyRing, names_of, pieces_of

Ring = Callable[[], KeyRing | None]


@attrs.frozen(repr=False)
class LogSeal:
    """Seals and opens for one log; without a ring everything stays as it is. Made by :func:`seal_of`."""

    ring: KeyRing | None = None
    _log: bytes = b""

    @property
    def key(self) -> int:
        """The number of the key that seals."""
        return PLAIN if self.ring is None else self.ring.current

    def entry(self, entry: Entry) -> bytes:
        """The data of an entry as it is stored."""
        if self.ring is None:
            return entry.data
        return self.ring.seal(entry.data, self._about_entry(entry.index, entry.term, entry.kind))

    def open_entry(self, index: int, term: int, kind: int, key: int, stored: bytes) -> bytes:
        """The data of an entry that was stored with the key of that number. Raises LogCorrupted."""
        if key == PLAIN and self.ring is None:
            return stored
        try:
            return self._having(key).open(key, stored, self._about_entry(index, term, kind))
        except SealBroken as error:
            raise LogCorrupted(f"entry {index} cannot be opened: {error}") from None

    def snapshot(self, index: int, term: int, conf: str, data: bytes) -> Iterator[bytes]:
        """The file of a snapshot, in pieces."""
        if self.ring is None:
            return iter((data,))
        return self.ring.seal_long(data, self._about_snapshot(index, term, conf))

    def open_snapshot(self, index: int, term: int, conf: str, key: int, stored: bytes) -> bytes:
        """A snapshot's data, from its file. Raises LogCorrupted."""
        if key == PLAIN and self.ring is None:
            return stored
        try:
            return self._having(key).open_long(key, stored, self._about_snapshot(index, term, conf))
        except SealBroken as error:
            raise LogCorrupted(f"the snapshot at {index} cannot be opened: {error}") from None

    def seals_for(self, size: int) -> int:
        """How often the key seals for a snapshot of so many bytes."""
        return 0 if self.ring is None else pieces_of(size)

    def _having(self, key: int) -> KeyRing:
        if self.ring is None:
            raise SealBroken(f"it is sealed with key {key}, and this node has no keys")
        return self.ring

    def _about_entry(self, index: int, term: int, kind: int) -> bytes:
        return self._log + struct.pack(">cqqq", b"e", index, term, kind)

    def _about_snapshot(self, index: int, term: int, conf: str) -> bytes:
        return self._log + b"s" + names_of(index, term, conf)


def seal_of(ring: KeyRing | None, owner: str) -> LogSeal:
    """For the log of ``owner``: the cluster, the node and the member whose log it is."""
    return LogSeal(ring, names_of("swarmpy raft log", owner))

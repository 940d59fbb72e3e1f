"""What a peer sends, cut into the records of TLS, so that OpenSSL gets a few at a time and it is known what they gave.

OpenSSL deals with records that carry no data, such as changes of keys, one after the other until one comes that does,
or until there are no more: whoever sends thousands of them holds up everybody else. Pure: bytes in, bytes out. It reads
no more than the lengths; what is no record is handed on as it is, for OpenSSL to say so.
"""

from __future__ import annotations

HEAD_BYTES = 5
MAX_BYTES = HEAD_BYTES + 16 * 1024 + 256
"""Of a record (RFC 8446, 5.2)."""
AT_ONCE = 16
"""Records that are looked at before it is asked what they gave."""
MAX_IDLE = 32
"""Records without data that a peer may send before it has sent ENOUGH with data. A change of keys is due after millions
of them."""
ENOUGH = 1024
_KINDS = frozenset({20, 21, 22, 23, 24})
_MAJOR = 3


class Records:
    """One direction of one connection."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._idle = 0
        self._useful = 0

    def __len__(self) -> int:
        """Bytes that wait."""
        return len(self._waiting)

    def add(self, data: bytes | memoryview) -> None:
        """Take in what has come."""
        self._waiting += data

    def next(self, most: int = AT_ONCE) -> tuple[bytes, int]:
        """The next whole records, so many at most, and how many they are; nothing and 0 when there is none."""
        data, at, count = self._waiting, 0, 0
        while count < most and (size := self._size_at(at)):
            at, count = at + size, count + 1
        if not count:
            return b"", 0
        taken = bytes(memoryview(data)[:at])
        del data[:at]
        return taken, count

    def gave(self, records: int, data: int) -> bool:
        """Of so many records so many had data in them. False when too many had none."""
        self._idle += records - data
        self._useful += data
        if self._useful >= ENOUGH:
            self._idle = self._useful = 0
        return self._idle <= MAX_IDLE

    def _size_at(self, at: int) -> int:
        """Bytes of the record that begins there; 0 when it is not whole yet."""
        data = self._waiting
        left = len(data) - at
        if left <= 0:
            return 0
        if data[at] not in _KINDS or (left > 1 and data[at + 1] != _MAJOR):
            return left
        if left < HEAD_BYTES:
            return 0
        size = HEAD_BYTES + (data[at + 3] << 8 | data[at + 4])
        if size > MAX_BYTES:
            return left
        return size if size <= left else 0

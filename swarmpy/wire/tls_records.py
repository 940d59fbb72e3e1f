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
_DATA = 23
_MAJOR = 3


class Records:
    """One direction of one connection."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._waiting_at = 0
        """Of what waits so much was handed on already."""
        self._come = memoryview(b"")
        """What has just come, behind what waits."""
        self._idle = 0
        self._useful = 0

    def __len__(self) -> int:
        """Bytes that wait."""
        return len(self._waiting) - self._waiting_at + len(self._come)

    def is_next(self, data: memoryview) -> bool:
        """True when ``data`` is one whole record and nothing waits before it, as mostly: it need not be added."""
        size = len(data)
        return (
            size > HEAD_BYTES
            and not len(self)
            and data[0] == _DATA
            and data[1] == _MAJOR
            and size == HEAD_BYTES + (data[3] << 8 | data[4])
        )

    def add(self, data: bytes | memoryview) -> None:
        """Take in what has come; it must stay what it is until :meth:`keep`."""
        self.keep()
        self._come = memoryview(data)

    def keep(self) -> None:
        """Make a copy of what has come and was not handed on: it will be something else."""
        if self._waiting_at:
            del self._waiting[: self._waiting_at]
            self._waiting_at = 0
        self._waiting += self._come
        self._come = self._come[:0]

    def next(self, most: int = AT_ONCE) -> tuple[bytes | memoryview, int]:
        """The next whole records, so many at most, and how many they are; nothing and 0 when there is none."""
        if self._waiting_at < len(self._waiting):
            end, count = _whole(self._waiting, self._waiting_at, most)
            if not count:
                self._complete()
                end, count = _whole(self._waiting, self._waiting_at, 1)
            taken: bytes | memoryview = bytes(self._waiting[self._waiting_at : end]) if count else b""
            self._waiting_at = end
            return taken, count
        end, count = _whole(self._come, 0, most)
        taken, self._come = self._come[:end], self._come[end:]
        return taken, count

    def gave(self, records: int, data: int) -> bool:
        """Of so many records so many had data in them. False when too many had none."""
        self._idle = max(0, self._idle + records - data)
        self._useful += data
        if self._useful >= ENOUGH:
            self._idle = self._useful = 0
        return self._idle <= MAX_IDLE

    def _complete(self) -> None:
        """Add to the record that waits what it lacks."""
        for _ in range(2):
            # First of its head, which says how long it is.
            left = len(self._waiting) - self._waiting_at
            lacks = HEAD_BYTES - left if left < HEAD_BYTES else _size(self._waiting, self._waiting_at) - left
            self._waiting += self._come[: max(0, lacks)]
            self._come = self._come[max(0, lacks) :]


def _whole(data: bytearray | memoryview, at: int, most: int) -> tuple[int, int]:
    """Where the whole records end that begin at ``at``, so many at most, and how many they are."""
    count, end = 0, len(data)
    while count < most and at < end:
        left = end - at
        if data[at] not in _KINDS or (left > 1 and data[at + 1] != _MAJOR):
            return end, count + 1
        if left < HEAD_BYTES:
            break
        size = _size(data, at)
        if size > MAX_BYTES:
            return end, count + 1
        if size > left:
            break
        at, count = at + size, count + 1
    return at, count


def _size(data: bytearray | memoryview, at: int) -> int:
    return HEAD_BYTES + (data[at + 3] << 8 | data[at + 4])

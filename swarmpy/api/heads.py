"""How far the head of an HTTP request has come: a count of bytes and lines, in step with the parser behind it.

The HTTP server bounds each line of a head; this bounds the whole, and tells a head that is under way from one that is
complete. Pure: bytes in, a state out. It does not read what the lines say, so it cannot disagree about that.
"""

from __future__ import annotations

import enum

END = b"\r\n\r\n"


class Head(enum.Enum):
    """Where the head of the next request is."""

    NONE = "none"
    """Not a byte of it has come."""
    BEGUN = "begun"
    COMPLETE = "complete"
    TOO_LARGE = "too large"


class HeadMeter:
    """Follows one head; :meth:`reset` it for the next."""

    def __init__(self, *, most_bytes: int, most_lines: int) -> None:
        self._most_bytes = most_bytes
        self._most_lines = most_lines
        self._state = Head.NONE
        self._size = 0
        self._lines = 0
        self._tail = b""

    @property
    def state(self) -> Head:
        """As of the last :meth:`feed`."""
        return self._state

    def reset(self) -> None:
        """The next request begins."""
        self._state = Head.NONE
        self._size = self._lines = 0
        self._tail = b""

    def feed(self, data: bytes) -> Head:
        """Take in what has come. What follows a head that is complete is not looked at."""
        if self._state is Head.NONE and data[:1] not in (b"", b"\r", b"\n"):
            # Nearly always it comes whole, and first.
            end = data.find(END, 0, self._most_bytes)
            if end >= 0 and data.count(b"\n", 0, end) <= self._most_lines - 2:
                self._state = Head.COMPLETE
                return self._state
        if self._state in (Head.COMPLETE, Head.TOO_LARGE) or not data:
            return self._state
        size = len(data)
        if not self._lines and not self._tail:
            # Blank lines before a request are allowed, and are no end of anything.
            data = data.lstrip(b"\r\n")
        joined = self._tail + data if self._tail else data
        end = joined.find(END)
        is_whole = end >= 0
        size -= len(joined) - end - len(END) if is_whole else 0
        self._size += size
        self._lines += joined.count(b"\n", len(self._tail), end + len(END) if is_whole else len(joined))
        if self._size > self._most_bytes or self._lines > self._most_lines:
            self._state = Head.TOO_LARGE
        elif is_whole:
            self._state = Head.COMPLETE
        else:
            self._state = Head.BEGUN
            self._tail = joined[-len(END) + 1 :]
        return self._state

"""Messages that have come and wait to be stepped into the core. Bounded: what is too much is lost, as on a network."""

from __future__ import annotations

from collections import deque

from swarmpy.raft.frames import size_of
from swarmpy.raft.messages import Message

MAX_MESSAGES = 10_000
MAX_BYTES = 64 * 1024 * 1024


class Inbox:
    """First in, first out."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Message, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> bool:
        """Take a message; False when there is no room for it."""
        size = size_of(message)
        if len(self._messages) >= MAX_MESSAGES or self._bytes + size > MAX_BYTES:
            return False
        self._messages.append((message, size))
        self._bytes += size
        return True

    def take(self) -> Message:
        """The oldest. Raises IndexError when there is none."""
        message, size = self._messages.popleft()
        self._bytes -= size
        return message

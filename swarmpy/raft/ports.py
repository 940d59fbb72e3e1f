"""What the driver needs of the rest of the house."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from swarmpy.raft.messages import Member, Message


class StateMachine(Protocol):
    """What the log is applied to, on every member in the same order. Must be deterministic and must not fail."""

    def apply(self, index: int, data: bytes) -> None:
        """Apply the committed entry ``index``."""

    async def snapshot(self) -> bytes:
        """The state exactly as of the call, up to its first await; encoded in slices that yield to the loop."""

    async def restore(self, data: bytes) -> None:
        """Replace the state by that of a snapshot, in one step at the end; decoded in slices that yield to the loop."""


class RaftTransport(Protocol):
    """Brings messages to other members, best effort and in order; lost, late or repeated ones do no harm."""

    def send(self, to: Member, messages: Sequence[Message]) -> None:
        """Send, or drop when there is no connection or its buffer is full.

        Never blocks and never raises. What is handed over in one call fits one frame (about 2 MiB at most).
        """

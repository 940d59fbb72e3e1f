"""What a network between the nodes must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import attrs

Blocked = AbstractSet[tuple[str, str]]
"""Directions in which nothing arrives: sender and receiver."""


@attrs.frozen(kw_only=True)
class Addresses:
    """Where a node listens, what others reach it at, and where its status page is."""

    listen: str
    advertise: str
    status: str


class Network(ABC):
    """Connects the nodes, and cuts them off from each other."""

    name: str

    @abstractmethod
    async def open(self) -> None:
        """Make it. Raises OSError where that is not possible."""

    @abstractmethod
    async def close(self) -> None:
        """Remove it; what ran in it has ended."""

    @abstractmethod
    def addresses(self, name: str) -> Addresses:
        """Of a node."""

    @abstractmethod
    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """What to run instead of ``command``, so that it is on this network."""

    @abstractmethod
    def started(self, name: str, pid: int) -> None:
        """A node's daemon runs as this process."""

    @abstractmethod
    def block(self, blocked: Blocked) -> None:
        """From now on exactly these directions are cut. Raises OSError."""


def around(names: AbstractSet[str], everybody: Sequence[str]) -> set[tuple[str, str]]:
    """All directions between ``names`` and the others."""
    others = [name for name in everybody if name not in names]
    return {pair for name in names for other in others for pair in ((name, other), (other, name))}

"""The warden of a process runtime, and its successor when it has died."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from swarmpy.runtime.leftovers import kill_marked
from swarmpy.runtime.warden_link import WardenLink

log = structlog.get_logger(__name__)


class WardenKeeper:
    """Of one directory, by which the processes of its runtime are known."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.link: WardenLink | None = None
        """To the present one, which may be lost."""
        self._changing = asyncio.Lock()

    async def present(self) -> WardenLink:
        """The warden, a new one when there is none or it has died. Raises RuntimeUnavailable."""
        async with self._changing:
            if self.link is not None and self.link.is_lost:
                await kill_marked(self._directory)
            if self.link is None or self.link.is_lost:
                link = WardenLink()
                await link.open(self._directory / "warden.log")
                self.link = link
            return self.link

    async def clear_lost(self, link: WardenLink) -> None:
        """After the death of a warden, end what has survived it (its own children have died with it)."""
        async with self._changing:
            if self.link is link:
                log.error("warden_died", pid=link.pid)
                await kill_marked(self._directory)
                self.link = None

    async def close(self) -> None:
        """End it, and with it whatever still runs."""
        link, self.link = self.link, None
        if link is not None:
            await link.close()

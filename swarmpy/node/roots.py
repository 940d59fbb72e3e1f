"""This node's part in a change of the root CA: it trusts and shows what it is asked to, and tells when it does.

Each step is safe for the others, whatever they know: a new certificate is shown with the chain by which those accept it
who trust only the root before, and a root is given up only when this node's own certificate does not need it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from swarmpy.errors import NotFound, SwarmpyError
from swarmpy.ports import Random
from swarmpy.security.roots import digest_of
from swarmpy.security.tls import Credentials

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0


class RootKeeper:
    """Create it, :meth:`run` it; :meth:`told` it what is asked for, and :meth:`changed` when something else did it."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        renew: Callable[[], Awaitable[None]],
        trust: Callable[[tuple[bytes, ...]], Awaitable[None]],
        confirm: Callable[[list[str]], Awaitable[Any]],
        random: Random,
    ) -> None:
        """``renew`` gets a certificate, with the roots of the moment, and has it in force; ``trust`` has other roots in
        force; ``confirm`` tells the leader which roots (digests) are, over a new connection.
        """
        self._credentials = credentials
        self._renew = renew
        self._trust = trust
        self._confirm = confirm
        self._random = random
        self._wish: tuple[tuple[bytes, ...], str] | None = None
        self._news = asyncio.Event()
        self._confirmed: tuple[str, tuple[str, ...]] | None = None
        self.problem = ""
        """Why what is asked for is not done yet; "" when it is."""

    def told(self, roots: tuple[bytes, ...], issuer: str) -> None:
        """A manager asks for these root CAs (PEM) to be trusted, and for a certificate of the one with this digest."""
        self._wish = roots, issuer
        # Even if there is nothing to be done: they do not know it.
        self._confirmed = None
        self._news.set()

    def changed(self) -> None:
        """Another certificate is in force."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        # The session that is about to be opened tells these.
        self._confirmed = self._in_force()
        retry = RETRY_FIRST_S
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._do()
                self.problem = ""
                retry = RETRY_FIRST_S
            except SwarmpyError as error:
                self.problem = f"this node does not follow the change of the root CA: {error}"
                log.warning("root_ca_not_followed", reason=str(error))
                await asyncio.sleep(self._random.uniform(retry / 2, retry))
                retry = min(2 * retry, RETRY_MOST_S)
                self._news.set()

    def _in_force(self) -> tuple[str, tuple[str, ...]]:
        identity = self._credentials.identity
        return identity.fingerprint, identity.roots

    async def _do(self) -> None:
        wish = self._wish
        if wish is not None:
            await self._follow(*wish)
            if self._wish is wish:
                self._wish = None
        in_force = self._in_force()
        if in_force != self._confirmed:
            # A leader of an older version does not know the question: it remembers nothing of the kind.
            with contextlib.suppress(NotFound):
                await self._confirm(list(in_force[1]))
            self._confirmed = in_force

    async def _follow(self, roots: tuple[bytes, ...], issuer: str) -> None:
        identity = self._credentials.identity
        wanted = next((pem for pem in roots if digest_of(pem) == issuer), None)
        if wanted is not None and not identity.is_of(wanted):
            await self._renew()
        elif {digest_of(pem) for pem in roots} != set(identity.roots):
            await self._trust(roots)
        else:
            return
        log.info("root_ca_followed", node=identity.node_id, issuer=issuer, trusted=self._credentials.identity.roots)

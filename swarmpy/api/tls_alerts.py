"""What asyncio's TLS leaves to be done between it and OpenSSL.

When a handshake fails, OpenSSL has an alert ready that says why ("certificate expired", "certificate required"), and
asyncio closes the connection without sending it: the user sees an end of file. So the alert is sent from here.

asyncio hands OpenSSL all that has come, and that deals with records that carry no data until there are no more. So they
are handed on from here, a few at a time, and who sends many of them is cut off.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from swarmpy.wire.tls_records import AT_ONCE, Records


def telling(context: ssl.SSLContext, sock: socket.socket) -> ssl.SSLContext:
    """What asyncio is to take for ``context`` on the accepted connection ``sock``."""
    return cast("ssl.SSLContext", _Context(context, sock))


class _Context:
    """As much of a context as asyncio asks of one that it did not make: to wrap a pair of buffers."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self._context = context
        self._sock = sock

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **more: Any) -> _Object:
        """As ``ssl.SSLContext.wrap_bio``."""
        return _Object(self._context, incoming, outgoing, self._sock, **more)


class _Object:
    """An ``ssl.SSLObject`` that does not keep an alert to itself, and reads a few records at a time."""

    def __init__(
        self,
        context: ssl.SSLContext,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        sock: socket.socket,
        **more: Any,
    ) -> None:
        self._handed_on = ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._handed_on, outgoing, **more)
        self._incoming = incoming
        self._outgoing = outgoing
        self._sock = sock
        self._records = Records()
        self.write, self.pending = self._inner.write, self._inner.pending

    def read(self, *where: Any) -> Any:
        """As ``ssl.SSLObject.read``; raises ssl.SSLError also for a peer whose records have nothing in them."""
        got = self._reading(lambda: self._inner.read(*where), AT_ONCE)
        self._records.gave(0, 1)
        return got

    def unwrap(self) -> Any:
        """As ``ssl.SSLObject.unwrap``."""
        return self._reading(self._inner.unwrap, AT_ONCE)

    def _reading(self, do: Callable[[], Any], at_once: int) -> Any:
        """What ``do`` gives, which gets more to read until there is no more."""
        while True:
            try:
                return do()
            except ssl.SSLWantReadError:
                if self._incoming.pending:
                    self._records.add(self._incoming.read())
                    self._records.keep()
                records, count = self._records.next(at_once)
                if not count:
                    raise
                self._handed_on.write(records)
                if not self._records.gave(count, 0):
                    raise ssl.SSLError("the peer sends TLS records without anything in them") from None

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises as ``ssl.SSLObject.do_handshake``."""
        try:
            # What comes behind its last record is no matter of the handshake.
            self._reading(self._inner.do_handshake, 1)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            # It is a few bytes; if they do not go out at once, the client learns nothing, as before.
            with contextlib.suppress(OSError):
                self._sock.send(self._outgoing.read())
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

"""Has a client told why its handshake was refused.

When a handshake fails, OpenSSL has an alert ready that says why ("certificate expired", "certificate required"), and
asyncio closes the connection without sending it: the user sees an end of file. So the alert is sent from here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Any, cast


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
        return _Object(self._context.wrap_bio(incoming, outgoing, **more), outgoing, self._sock)


class _Object:
    """An ``ssl.SSLObject`` that does not keep an alert to itself."""

    def __init__(self, inner: ssl.SSLObject, outgoing: ssl.MemoryBIO, sock: socket.socket) -> None:
        self._inner = inner
        self._outgoing = outgoing
        self._sock = sock
        # All that is called often.
        self.read, self.write, self.pending = inner.read, inner.write, inner.pending

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises as ``ssl.SSLObject.do_handshake``."""
        try:
            self._inner.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            # It is a few bytes; if they do not go out at once, the client learns nothing, as before.
            with contextlib.suppress(OSError):
                self._sock.send(self._outgoing.read())
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

"""TLS between a TCP transport of the event loop and a protocol: as asyncio's own, for less.

All cryptography is OpenSSL's, by way of ``ssl.SSLObject``; what is here carries bytes to and fro. asyncio's TLS
(``asyncio/sslproto.py``) is for any protocol on any loop, and dear where hundreds of connections come at once: it
keeps a quarter of a megabyte for each, asks for as much again at each read, and reads the peer's certificate into a
dictionary. This one is for TLS 1.3 and for :class:`~swarmpy.wire.connection.Connection`, whose timers bound how long
closing takes.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import ssl
import threading
from typing import Any

from swarmpy.wire.tls_records import Records

MAX_RECORD_BYTES = 16 * 1024
"""What one record holds at most (RFC 8446, 5.1); a read gives no more than one."""
RECEIVE_BYTES = 256 * 1024
"""What is received at once, at most."""
READ_AHEAD_BYTES = 64 * 1024
"""Who has stopped reading has so much taken in, and what is received at once; more stays with the peer."""
UNWANTED_BYTES = 256 * 1024
"""What may be on its way while this end closes. Who goes on sending does not want to be told why, either."""


class _Receiving(threading.local):
    """The buffer of all connections of an event loop: what was received is taken out of it before anybody else runs."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_BYTES))


_RECEIVING = _Receiving()


class _Stage(enum.IntEnum):
    HANDSHAKE = 0
    OPEN = 1
    CLOSING = 2
    """This end has said that it closes, and waits to hear the same."""
    GONE = 3


# Looking a member up in its class takes longer than all else that is done with it for each message.
_HANDSHAKE, _OPEN, _CLOSING, _GONE = _Stage


class TlsStream(asyncio.Transport, asyncio.BufferedProtocol):
    """One end. The protocol of the transport below it, and the transport of the protocol above it.

    ``above`` gets ``connection_made`` when the handshake is done, and nothing at all when it fails.
    """

    def __init__(self, above: asyncio.Protocol, context: ssl.SSLContext, *, server_side: bool) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._above = above
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._received = _RECEIVING.view
        self._records = Records()
        self._is_server = server_side
        self._below: asyncio.Transport | None = None
        self._stage = _HANDSHAKE
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        # Nobody may be left to hear why: who connects may have been cancelled before it waits for the handshake.
        self._shaken.add_done_callback(lambda shaken: shaken.cancelled() or shaken.exception())
        self._is_paused = False
        self._is_at_end = False
        """The peer has closed its half of the TCP connection."""
        self._unwanted_bytes = 0

    async def established(self, timeout: float | None) -> None:
        """Return when the handshake is done. ``timeout``: seconds it may take; None: the caller bounds it.

        Raises ssl.SSLError, or another OSError when it fails otherwise; the connection is cut then.
        """
        timer = None
        if timeout is not None:
            late = ConnectionAbortedError(f"the TLS handshake was not done within {timeout:g} s")
            timer = self._loop.call_later(timeout, self._break, late)
        try:
            await self._shaken
        except BaseException:
            self.abort()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    # -- the protocol of the transport below ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP stands."""
        assert isinstance(transport, asyncio.Transport)
        self._below = transport
        if not self._is_server:
            self._shake_hands()

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Where to put what the peer has sent."""
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        """The peer has sent so many bytes."""
        data = self._received[:nbytes]
        if self._stage is _OPEN and not self._is_paused and self._records.is_next(data):
            self._incoming.write(data)
            self._read(1)
            return
        self._records.add(data)
        if self._stage is _OPEN:
            self._read()
        elif self._stage is _HANDSHAKE:
            self._shake_hands()
        elif self._stage is _CLOSING:
            self._await_close(nbytes)
        # The buffer is everybody's.
        self._records.keep()

    def eof_received(self) -> bool:
        """The peer sends nothing more. Without having said so in TLS: what follows may have been cut off."""
        if self._stage is _HANDSHAKE:
            self._break(ConnectionResetError("the peer closed the connection during the TLS handshake"))
        elif self._stage is _OPEN:
            self._is_at_end = True
            self._read()
        # Who does not read now is told when it does.
        return self._stage is _OPEN

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP is gone."""
        was, self._stage = self._stage, _GONE
        if was is _HANDSHAKE:
            self._settle(exc or ConnectionResetError("the peer closed the connection during the TLS handshake"))
        elif was is not _GONE:
            self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport below has much to send."""
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """It has little to send again."""
        self._above.resume_writing()

    # -- the handshake ----------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        try:
            while not self._is_shaken():
                # One at a time: what comes behind the last one is no matter of the handshake.
                record, count = self._records.next(1)
                if not count:
                    self._flush()
                    return
                self._incoming.write(record)
                if not self._records.gave(count, 0):
                    self._break(_too_idle())
                    return
        except ssl.SSLError as error:
            self._break(error)
            return
        if self._shaken.done():
            return  # Whoever waited for it has gone.
        self._stage = _OPEN
        try:
            self._above.connection_made(self)
        except Exception as defect:  # noqa: BLE001  # it is raised to whoever waits for the handshake
            self._stage = _HANDSHAKE
            self._break(defect)
            return
        self._shaken.set_result(None)
        # Later, so that it goes out together with what the protocol above has to say first.
        self._loop.call_soon(self._flush)
        self._read()

    def _is_shaken(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _break(self, error: Exception) -> None:
        """Cut the connection for a reason."""
        if self._stage is _HANDSHAKE:
            self._settle(error)
            self.abort()
        elif self._stage is not _GONE and self._below is not None:
            self._stage = _GONE
            self._below.abort()
            # Later: it may be the protocol above that called.
            self._loop.call_soon(self._above.connection_lost, error)

    def _settle(self, error: Exception) -> None:
        if not self._shaken.done():
            self._shaken.set_exception(error)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self, fed: int = 0) -> None:
        """Give on what has come, after the ``fed`` records that OpenSSL has got already."""
        if self._stage is not _OPEN:
            return
        if self._is_paused:
            if len(self._records) >= READ_AHEAD_BYTES and self._below is not None:
                self._below.pause_reading()
            return
        chunks, is_over = self._decrypt(fed)
        if chunks:
            self._above.data_received(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        self._flush()
        if is_over and self._stage is _OPEN:
            self._above.eof_received()
            self.close()

    def _decrypt(self, fed: int = 0) -> tuple[list[bytes], bool]:
        """What has come, and True when nothing more will."""
        chunks: list[bytes] = []
        try:
            while self._decrypt_some(chunks, fed):
                fed = 0
                if chunks and not chunks[-1]:
                    chunks.pop()
                    return chunks, True
        except (ssl.SSLError, ConnectionAbortedError) as error:
            # What came before it counts no more: the peer, or somebody between, does not speak TLS.
            self._break(error)
            return [], False
        return chunks, self._is_at_end

    def _decrypt_some(self, chunks: list[bytes], count: int = 0) -> bool:
        """Add what the next few records hold, and b"" for the end. False when there are none.

        ``count``: they are so many, and OpenSSL has got them already. Raises ssl.SSLError, and ConnectionAbortedError
        for a peer whose records hold nothing.
        """
        if not count:
            records, count = self._records.next()
            if not count:
                return False
            self._incoming.write(records)
        before = len(chunks)
        try:
            while self._incoming.pending:
                chunks.append(self._ssl.read(MAX_RECORD_BYTES))
                if not chunks[-1]:
                    return True
        except ssl.SSLWantReadError:
            pass
        if not self._records.gave(count, len(chunks) - before):
            raise _too_idle()
        return True

    def _go_on(self) -> None:
        self._read()
        if not self._is_paused and self._below is not None:
            self._below.resume_reading()

    # -- the transport of the protocol above ------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``ssl_object``, or what the transport below knows."""
        if name == "ssl_object":
            return self._ssl
        return default if self._below is None else self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """True when nothing is sent any more."""
        return self._stage >= _CLOSING

    def pause_reading(self) -> None:
        """Give the protocol above nothing until :meth:`resume_reading`."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Give it what has come, soon."""
        if self._is_paused:
            self._is_paused = False
            self._loop.call_soon(self._go_on)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol above is told to pause writing, in bytes that are not sent yet."""
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that are not sent yet."""
        return 0 if self._below is None else self._below.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send, or do nothing when this end closes."""
        if self._stage is not _OPEN or not data:
            return
        sent = self._ssl.write(data)
        while sent < len(data):
            sent += self._ssl.write(memoryview(data)[sent:])
        self._flush()

    def close(self) -> None:
        """Send what is to be sent, say that this end closes, and close when the peer says the same.

        Who cannot wait for that calls :meth:`abort` after a while.
        """
        if self._stage is _HANDSHAKE:
            self.abort()
        if self._stage is not _OPEN or self._below is None:
            return
        # What has come and was not read is nobody's any more, and in the way of what is to come after it.
        _, is_over = self._decrypt()
        if self.is_closing():
            return
        self._stage = _CLOSING
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            # Mostly: the peer has not said it yet.
            pass
        else:
            is_over = True
        self._flush()
        if is_over:
            self._below.close()
        else:
            self._below.resume_reading()

    def abort(self) -> None:
        """Cut the connection. What is not sent is lost."""
        if self._below is not None:
            self._below.abort()

    def _await_close(self, size: int) -> None:
        self._unwanted_bytes += size
        if self._unwanted_bytes > UNWANTED_BYTES:
            self.abort()
            return
        chunks: list[bytes] = []
        try:
            while self._decrypt_some(chunks):
                if chunks and not chunks[-1]:
                    break
                chunks.clear()
            else:
                return
        except (ssl.SSLError, ConnectionAbortedError):
            self.abort()
            return
        if self._below is not None:
            self._below.close()

    def _flush(self) -> None:
        if self._outgoing.pending and self._below is not None:
            self._below.write(self._outgoing.read())


def _too_idle() -> ConnectionAbortedError:
    return ConnectionAbortedError("the peer sends TLS records without anything in them")


async def accepted(
    sock: socket.socket, above: asyncio.Protocol, context: ssl.SSLContext, *, timeout: float | None
) -> None:
    """Speak TLS with who has connected, as the server. Raises as :meth:`TlsStream.established`."""
    stream = TlsStream(above, context, server_side=True)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: stream, sock)
    await stream.established(timeout)


async def connected(host: str, port: int, above: asyncio.Protocol, context: ssl.SSLContext, *, source: str) -> None:
    """Connect and speak TLS, as the client. ``source``: the address to connect from; "" leaves it to the system.

    Raises as :meth:`TlsStream.established`, UnicodeError for a host that cannot be one.
    """
    stream = TlsStream(above, context, server_side=False)
    local = (source, 0) if source else None
    await asyncio.get_running_loop().create_connection(lambda: stream, host, port, local_addr=local)
    await stream.established(None)

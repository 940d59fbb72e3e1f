"""Clients that ask a published port through every node without a break, and keep account of what was not answered.

Some make a connection for each request, the others keep theirs for as long as the server lets them. What counts as a
failure is what a user would see:

- A connection that is refused by a node that is known to be away is none: a client that has several addresses takes the
  next one (``moved``). Refused by any other node it is.
- A request that a node has taken must be answered in whole, unless the node was killed (``lost with the node``).
- A kept connection may be closed between two requests. A request that crosses the closing at a node that is being
  stopped, and of which no byte was answered, is sent once more on a new connection, as RFC 9110 (9.2.2) has clients do
  (``repeated``).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import time
from collections.abc import AsyncIterator, Sequence

NOTHING = "nothing"
"""Done at the time."""
TIMEOUT_S = 15.0
PAUSE_S = 0.01
"""Between two requests of a client: some machines have two cores for everything."""
SLOW_EVERY = 20
"""One request of so many takes the server SLOW_MS, so that some are always open when it is told to stop."""
SLOW_MS = 300


class Fate(enum.Enum):
    """What is known of a node."""

    HERE = "here"
    STOPPING = "stopping"
    """It was told to stop, or is away: it need take no connection, but answers what it has taken."""
    KILLED = "killed"
    """What it has taken is lost."""


class Broken(Exception):
    """A request was not answered. ``answered``: the part of the answer that came, in bytes."""

    def __init__(self, reason: str, answered: int = 0) -> None:
        super().__init__(reason)
        self.answered = answered


class Refused(Broken):
    """No connection."""


class Connection:
    """One connection to a published port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.requests = 0
        self.is_last = False
        """The server has said that it answers nothing more."""

    @classmethod
    async def to(cls, address: str, port: int) -> Connection:
        """Raises Refused."""
        try:
            return cls(*await asyncio.open_connection(address, port))
        except OSError as error:
            raise Refused(f"no connection: {error.strerror or error}") from error

    @property
    def is_closed(self) -> bool:
        """The other side has closed it, as far as is known."""
        return self.is_last or self._reader.at_eof() or self._reader.exception() is not None

    async def ask(self, ms: int, *, keep: bool) -> str:
        """The answer to one request, which takes the server ``ms`` milliseconds. Raises Broken."""
        self.requests += 1
        close = b"" if keep else b"Connection: close\r\n"
        head = b""
        try:
            self._writer.write(b"GET /%d HTTP/1.1\r\nHost: load\r\n%s\r\n" % (ms, close))
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            body = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise Broken("closed without an answer", len(head) + len(error.partial)) from error
        except OSError as error:
            raise Broken(f"broken: {error.strerror or error}", len(head)) from error
        if not head.startswith(b"HTTP/1.1 200 "):
            raise Broken(f"answered {head.splitlines()[0]!r}", len(head))
        self.is_last = b"\r\nconnection: close" in head.lower()
        return body.decode()

    async def close(self) -> None:
        """Let go of it."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


class Load:
    """What the clients have seen."""

    def __init__(self, addresses: Sequence[str], port: int) -> None:
        self.addresses = tuple(addresses)
        self.port = port
        self.fates = dict.fromkeys(addresses, Fate.HERE)
        self.answered: collections.Counter[str] = collections.Counter()
        """By kind of connection."""
        self.forgiven: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.worst_s: dict[str, float] = collections.defaultdict(float)
        """The longest that a request took, by what was done at the time."""
        self.doing = NOTHING
        self.servers: set[str] = set()
        self.last_answer: dict[str, float] = {}
        """When each address was last answered through, as :func:`time.monotonic`."""
        self._began = time.monotonic()

    def summary(self) -> dict[str, object]:
        """What there is to say of it."""
        return {
            "answered": self.answered.total(),
            **{f"answered_{kind}": count for kind, count in sorted(self.answered.items())},
            "failed": len(self.failures),
            "forgiven": dict(self.forgiven),
            "seconds": round(time.monotonic() - self._began, 1),
        }

    @contextlib.asynccontextmanager
    async def clients(self, each: int = 1, *, pause_s: float = PAUSE_S) -> AsyncIterator[None]:
        """Ask meanwhile: through each node, ``each`` clients of either kind. They end with what they have begun."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number, address in enumerate(self.addresses):
                for client in range(each):
                    for keep in (False, True):
                        group.create_task(self._client(address, number * each + client, stop, keep, pause_s))
            try:
                yield
            finally:
                stop.set()

    async def _client(self, home: str, number: int, stop: asyncio.Event, keep: bool, pause_s: float) -> None:
        kind = "kept" if keep else "short"
        kept: dict[str, Connection] = {}
        count = number  # so that the slow ones do not come all at once
        while not stop.is_set():
            count += 1
            ms = 0 if count % SLOW_EVERY else SLOW_MS
            began = time.monotonic()
            step = self.doing
            if await self._request(home, ms, kept, keep):
                self.answered[kind] += 1
                self.worst_s[step] = max(self.worst_s[step], time.monotonic() - began - ms / 1000)
            await asyncio.sleep(pause_s)
        for connection in kept.values():
            await connection.close()

    async def _request(self, home: str, ms: int, kept: dict[str, Connection], keep: bool) -> bool:
        first = self.addresses.index(home)
        for address in (*self.addresses[first:], *self.addresses[:first]):
            while True:
                connection = kept.pop(address, None)
                if connection is not None and connection.is_closed:
                    await connection.close()
                    continue
                again = connection is not None
                before = self.fates[address]
                try:
                    async with asyncio.timeout(TIMEOUT_S):
                        connection = connection or await Connection.to(address, self.port)
                        server = await connection.ask(ms, keep=keep)
                except (Broken, TimeoutError) as error:
                    if connection is not None:
                        await connection.close()
                    verdict = self._judge(address, {before, self.fates[address]}, error, again)
                    if verdict == "repeated":
                        continue
                    if verdict == "moved":
                        break
                    return False
                self.servers.add(server)
                self.last_answer[address] = time.monotonic()
                if keep:
                    kept[address] = connection
                else:
                    await connection.close()
                return True
        self._fail(home, "every node refused")
        return False

    def _judge(self, address: str, fates: set[Fate], error: Broken | TimeoutError, again: bool) -> str:
        if isinstance(error, Refused) and fates != {Fate.HERE}:
            self.forgiven["moved"] += 1
            return "moved"
        if Fate.KILLED in fates and not isinstance(error, TimeoutError):
            self.forgiven["lost with the node"] += 1
            return "moved"
        if Fate.STOPPING in fates and again and isinstance(error, Broken) and not error.answered:
            self.forgiven["repeated"] += 1
            return "repeated"
        self._fail(address, str(error) or f"no answer within {TIMEOUT_S:g} s", again=again)
        return "failed"

    def _fail(self, address: str, reason: str, *, again: bool = False) -> None:
        at = time.monotonic() - self._began
        on = "a kept connection" if again else "a new connection"
        self.failures.append(f"{at:.3f} s, while {self.doing}: through {address}, on {on}: {reason}")

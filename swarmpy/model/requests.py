"""What makes a repeated write recognisable: a client's session, a number in it, and the answer that was given.

After Ongaro's thesis ("Consensus: Bridging Theory and Practice", 2014), chapter 6.3: the replicated state remembers the
answers of the requests that it has applied, so that a request that is repeated after its answer was lost is answered
and not done again.
"""

from __future__ import annotations

import attrs

from swarmpy.errors import InvalidArgument

MAX_SESSION_LENGTH = 255
MAX_DIGEST_BYTES = 32


@attrs.frozen(kw_only=True)
class RequestId:
    """One request of one client, the same however often it is sent. Raises InvalidArgument for values out of range."""

    session: str
    """Who asks; nobody else uses it. 1 to 255 characters."""
    sequence: int
    """Counts the requests of the session, from 1."""
    answered_below: int = 1
    """The client has the answers of all requests below this one: they may be forgotten. At most ``sequence``."""
    digest: bytes = b""
    """What is asked for, in short: the same id with another digest is refused, as it would get a stranger's answer."""

    def __attrs_post_init__(self) -> None:
        if not 1 <= len(self.session) <= MAX_SESSION_LENGTH:
            raise InvalidArgument(f"a session has 1 to {MAX_SESSION_LENGTH} characters, not {len(self.session)}")
        if not 1 <= self.answered_below <= self.sequence < 1 << 63:
            raise InvalidArgument(
                f"request {self.sequence} with answers below {self.answered_below}: "
                "requests count from 1, and none is answered before it is sent"
            )
        if len(self.digest) > MAX_DIGEST_BYTES:
            raise InvalidArgument(f"a request's digest has at most {MAX_DIGEST_BYTES} bytes, not {len(self.digest)}")

    @property
    def key(self) -> tuple[str, int]:
        """What the request is found by."""
        return self.session, self.sequence


@attrs.frozen(kw_only=True)
class Answered:
    """A request as the log carries it: with the answer that is true once its entry is applied."""

    request: RequestId
    answer: bytes
    """Plain data as msgpack."""
    time_ns: int
    """When the leader ran it, nanoseconds since the Unix epoch."""

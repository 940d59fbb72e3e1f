"""Join tokens: ``SWMTKN-1-<digest of the root CA>-<secret>`` (Docker Swarm's form).

The digest lets a new node recognise its cluster before it sends anything; the secret says which role it gets. Tokens
are secrets: no error message quotes one.
"""

from __future__ import annotations

import hmac

import attrs

from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import ID_BYTES, ID_LENGTH, base36
from swarmpy.model.objects import JoinTokens
from swarmpy.model.states import Role
from swarmpy.ports import Random
from swarmpy.security.ca import DIGEST_LENGTH

PREFIX = "SWMTKN"
VERSION = "1"
INVALID = 'invalid join token: "swarm join-token worker" on a manager shows the present one'
_DIGITS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")


@attrs.frozen(kw_only=True)
class ParsedToken:
    """The parts of a join token."""

    ca_digest: str
    secret: str = attrs.field(repr=False)


def make_token(ca_digest: str, random: Random) -> str:
    """A new join token for the cluster whose root CA has this digest. ``random`` must be a SystemRandom in earnest."""
    return f"{PREFIX}-{VERSION}-{ca_digest}-{base36(random.randbytes(ID_BYTES), ID_LENGTH)}"


def make_tokens(ca_digest: str, random: Random) -> JoinTokens:
    """New join tokens for both roles."""
    return JoinTokens(worker=make_token(ca_digest, random), manager=make_token(ca_digest, random))


def parse_token(text: str) -> ParsedToken:
    """The parts of a token. Raises InvalidArgument."""
    parts = text.strip().split("-")
    if len(parts) != 4 or parts[0] != PREFIX or parts[1] != VERSION:
        raise InvalidArgument(INVALID)
    digest, secret = parts[2], parts[3]
    if len(digest) != DIGEST_LENGTH or len(secret) != ID_LENGTH or not _DIGITS.issuperset(digest + secret):
        raise InvalidArgument(INVALID)
    return ParsedToken(ca_digest=digest, secret=secret)


def role_of_token(text: str, tokens: JoinTokens) -> Role | None:
    """The role that a presented token gives, or None. Takes the same time whatever is wrong with it."""
    given = text.strip().encode("utf-8", "surrogatepass")
    is_manager = hmac.compare_digest(given, tokens.manager.encode())
    is_worker = hmac.compare_digest(given, tokens.worker.encode())
    if is_manager:
        return Role.MANAGER
    return Role.WORKER if is_worker else None

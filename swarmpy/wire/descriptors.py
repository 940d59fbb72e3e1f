"""File descriptors: how many this process may have, and who of those that strangers can fill gets how many.

Whoever connects takes one. A daemon that has none left can neither write its log nor reach anybody, so connections are
refused long before that.
"""

from __future__ import annotations

import contextlib
import resource

import attrs
import structlog

log = structlog.get_logger(__name__)

WANTED = 65_536
ENOUGH = 4_096
_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)


@attrs.frozen(kw_only=True)
class Shares:
    """Most connections of each kind."""

    cluster_port: int
    waiting: int
    """For their handshake on the cluster port."""
    published_ports: int
    """Of clients; each takes two descriptors."""


def raise_limit() -> int:
    """Have as many as this process may, up to WANTED. Returns how many it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # A container may be forbidden what its limits allow; then it is as it was.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    limit = WANTED if soft == resource.RLIM_INFINITY else soft
    if limit < ENOUGH:
        consequence = "few connections are taken"
        log.warning("few_file_descriptors", limit=limit, consequence=consequence, remedy="a higher LimitNOFILE")
    return limit


def restore_limit(pid: int) -> None:
    """Give a child the limit that this process had at its start: programs may be slow, or fail, with more."""
    with contextlib.suppress(OSError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _AT_START)


def shares() -> Shares:
    """Out of the descriptors that there are: a quarter for the cluster port, a half for published ports."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return shares_of(WANTED if soft == resource.RLIM_INFINITY else soft)


def shares_of(limit: int) -> Shares:
    """The same out of ``limit``."""
    return Shares(
        cluster_port=min(8192, limit // 4), waiting=min(512, limit // 16), published_ports=min(10_000, limit // 4)
    )

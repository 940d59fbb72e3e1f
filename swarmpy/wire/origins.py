"""Where a connection comes from, as far as strangers are told apart by it: what is counted and bounded by it.

Everybody has a whole /64 of IPv6 addresses, so they count as one; an IPv4 address counts by itself, however it is
written. Many machines behind one address are one origin.
"""

from __future__ import annotations

import ipaddress


def origin_of(address: str) -> str:
    """The origin of a peer at ``host:port`` or ``[host]:port``; anything else is an origin by itself."""
    host, colon, _ = address.rpartition(":")
    host = host.strip("[]") if colon else address
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))

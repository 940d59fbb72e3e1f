"""What a machine can be called by: the addresses of its network interfaces, and its host name. Asks only the kernel."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

from swarmpy.node import addresses
from swarmpy.security.api_certificates import is_server_name

SIOCGIFADDR = 0x8915
IF_INET6 = Path("/proc/net/if_inet6")
MAX_NAMES = 200
"""In one certificate: a machine with many containers may have any number of addresses."""


def names_of(host: str, *names: str) -> list[str]:
    """What clients may call a server that listens on ``host``: that address, or for "any" all there are, and
    ``names``. What cannot stand in a certificate is left out.
    """
    found = list(names)
    if host not in addresses.ANY:
        found.append(host)
    if host in addresses.ANY or ipaddress.ip_address(host).is_loopback:
        found += ["localhost", socket.gethostname()]
    if host in addresses.ANY:
        found += [*interface_addresses()]
    unique = dict.fromkeys(name.lower() for name in found if is_server_name(name))
    return list(unique)[:MAX_NAMES]


def interface_addresses() -> list[str]:
    """The addresses of this machine, loopback first; link-local ones of IPv6 are of no use without their interface."""
    found = ["127.0.0.1", "::1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    with contextlib.suppress(OSError):
        for line in IF_INET6.read_text().splitlines():
            address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
            if not address.is_link_local:
                found.append(str(address))
    return list(dict.fromkeys(found))

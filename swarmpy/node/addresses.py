"""``host:port`` texts: how they are read, and which address of this machine others can reach."""

from __future__ import annotations

import ipaddress
import socket

from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.model.wildcards import ANY_IPV4, ANY_IPV6

DEFAULT_PORT = 2377
"""Docker Swarm's cluster port."""
ANY = frozenset({ANY_IPV4, ANY_IPV6})


def parse(text: str, *, what: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of ``HOST``, ``HOST:PORT``, ``[V6]:PORT`` or an interface's name. Raises InvalidArgument."""
    host, port_text = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidArgument(f"{what}: {text!r} is not HOST:PORT")
        port_text = rest[1:]
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    if not host:
        raise InvalidArgument(f"{what}: {text!r} has no host: write HOST:PORT")
    if ":" in host and not _is_address(host):
        raise InvalidArgument(f"{what}: {text!r} is not HOST:PORT")
    if not port_text:
        return host, default_port
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise InvalidArgument(f"{what}: {port_text!r} is not a port (1-65535)")
    return host, int(port_text)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def join(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, *, what: str) -> str:
    """The IP address of ``host``, which may be an address, a name or a network interface. Raises InvalidArgument."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise InvalidArgument(f"{what}: cannot resolve {host!r}: give an IP address") from None
    return str(found[0][4][0])


def own_address(toward: str = "192.0.2.1") -> str:
    """The address this machine uses toward ``toward`` (an address nobody has, by default).

    Raises InvalidArgument when there is no route: then the operator must choose with --advertise-addr.
    """
    family = socket.AF_INET6 if ":" in toward else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only asks the kernel for the route.
            probe.connect((toward, DEFAULT_PORT))
            return str(probe.getsockname()[0])
        except OSError:
            raise InvalidArgument(
                "could not choose an IP address to advertise: give one of this machine with --advertise-addr"
            ) from None


def is_here(host: str) -> bool:
    """True when ``host`` (an IP address) is one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def is_chosen(listen: str, advertise: str) -> bool:
    """True when :func:`choose` has to look for an address to advertise by itself."""
    return not advertise and parse(listen or ANY_IPV4, what="--listen-addr")[0] in ANY


def move(
    was: tuple[str, str], listen: str, advertise: str, manager: str, *, was_chosen: bool
) -> tuple[tuple[str, str], bool]:
    """Where a node that was at ``was`` (listen, advertise) is now, and whether its address was chosen for it.

    ``listen`` and ``advertise`` are what the user gave now, or "": what hung together before hangs together still.
    Without either, an address that was chosen and that this machine has no longer is chosen anew. Raises
    InvalidArgument. Asks the resolver: not to be called on the event loop.
    """
    was_listen, was_advertise = was
    if not listen and not advertise:
        if not was_chosen or is_here(parse(was_advertise, what="address")[0]):
            return was, was_chosen
        return choose(was_listen, "", manager), True
    was_together = parse(was_listen, what="address")[0] == parse(was_advertise, what="address")[0]
    if advertise and not listen:
        listen = was_listen
        if was_together:
            # It listened only where it was to be found.
            port = parse(was_listen, what="address")[1]
            listen = join(resolve(parse(advertise, what="--advertise-addr")[0], what="--advertise-addr"), port)
    elif not advertise and not was_together and not was_chosen:
        advertise = was_advertise
    return choose(listen, advertise, manager), is_chosen(listen, advertise)


def choose(listen: str, advertise: str, manager: str) -> tuple[str, str]:
    """Where to listen and what to be called by, from what the user gave; ``manager`` is who is to be reached, or "".

    Raises InvalidArgument and FailedPrecondition. Asks the resolver: not to be called on the event loop.
    """
    listen_host, port = parse(listen or ANY_IPV4, what="--listen-addr")
    listen_host = resolve(listen_host, what="--listen-addr")
    # A worker listens nowhere before it is promoted: it would not notice by itself.
    if listen_host not in ANY and not is_here(listen_host):
        raise InvalidArgument(
            f"cannot listen on {listen_host}: it is not an address of this machine; give one with --listen-addr"
        )
    if advertise:
        host, advertise_port = parse(advertise, what="--advertise-addr", default_port=port)
        host = resolve(host, what="--advertise-addr")
    elif listen_host not in ANY:
        host, advertise_port = listen_host, port
    elif manager:
        what = "manager address"
        host = own_address(resolve(parse(manager, what=what)[0], what=what))
        advertise_port = port
    else:
        host, advertise_port = own_address(), port
    if host in ANY:
        raise FailedPrecondition(f"other nodes cannot reach this one at {host}: give its address with --advertise-addr")
    return join(listen_host, port), join(host, advertise_port)


def check_free(listen: str, present: str) -> None:
    """Raises InvalidArgument when a node that listens on ``present`` could not listen on ``listen`` instead."""
    host, port = parse(listen, what="--listen-addr")
    if parse(present, what="--listen-addr")[1] == port and present != listen:
        # The port is this node's own, on some address or on all; only whether the address is ours can be told.
        port = 0
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidArgument(
                f"cannot listen on {listen}: {(error.strerror or str(error)).lower()}; choose another address"
            ) from error

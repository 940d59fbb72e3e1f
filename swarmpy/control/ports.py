"""Published ports: which are taken, and which a service gets.

An ingress port answers on every node, so it belongs to one service. Host-mode ports are the business of placement,
except that no service may publish one that the ingress uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from swarmpy.errors import AlreadyExists, FailedPrecondition
from swarmpy.model.defaults import DYNAMIC_PORT_FIRST, DYNAMIC_PORT_LAST
from swarmpy.model.objects import Service
from swarmpy.model.specs import PortConfig
from swarmpy.store.view import View

INGRESS = "ingress"
HOST = "host"


def wanted_ports(service: Service) -> tuple[PortConfig, ...]:
    """The ports as the spec asks for them."""
    return service.spec.endpoint.ports if service.spec.endpoint else ()


def is_allocated(service: Service) -> bool:
    """True when ``service.ports`` are the ports of its spec with every ingress port chosen."""
    wanted = wanted_ports(service)
    return len(wanted) == len(service.ports) and all(map(_fulfils, service.ports, wanted))


def _fulfils(port: PortConfig, wanted: PortConfig) -> bool:
    if wanted.publish_mode != INGRESS or wanted.published_port:
        return port == wanted
    return port.published_port > 0 and attrs.evolve(port, published_port=0) == wanted


def exclusive_port(service: Service) -> PortConfig | None:
    """A port that two tasks of a slot could not have side by side on one node."""
    return next((p for p in service.ports if p.publish_mode == HOST and p.published_port), None)


def starts_first(service: Service) -> bool:
    """True when a new task is to run before the old one of its slot stops."""
    order = None if service.spec.update is None else service.spec.update.order
    return order == "start-first" and exclusive_port(service) is None


class PortTable:
    """Who holds which published port, in a view and in what was added to it since."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._added: dict[tuple[str, int], list[Service]] = {}
        self._held: dict[int, tuple[Service, frozenset[tuple[str, int, str]]]] = {}
        """What a service holds, by its identity: some have thousands of ports, and are asked for each."""

    def add(self, service: Service) -> None:
        """The service holds its allocated ports."""
        for port in service.ports:
            if port.published_port:
                self._added.setdefault((port.protocol, port.published_port), []).append(service)

    def _owner(self, key: tuple[str, int], mode: str) -> Service | None:
        holders: tuple[Service, ...] = (*self._view.services_on_port(*key), *self._added.get(key, ()))
        for service in holders:
            if (*key, mode) in self._held_by(service):
                return service
        return None

    def _held_by(self, service: Service) -> frozenset[tuple[str, int, str]]:
        if id(service) not in self._held:
            ports = ((port.protocol, port.published_port, port.publish_mode) for port in service.ports)
            self._held[id(service)] = service, frozenset(ports)
        return self._held[id(service)][1]

    def allocate(self, service: Service) -> tuple[PortConfig, ...]:
        """The ports of the service's spec, all chosen. A port that the cluster chose before is kept.

        Raises AlreadyExists when a port is another service's, FailedPrecondition when no dynamic port is left.
        """
        wanted = wanted_ports(service)
        if not wanted:
            return ()
        taken = {(port.protocol, port.published_port) for port in wanted if port.published_port}
        kept = self._kept(service, wanted, taken)
        taken.update((port.protocol, number) for port, number in kept.items())
        chosen = []
        # What was not free for one port of the service is not free for the next one.
        left = {port.protocol: iter(range(DYNAMIC_PORT_FIRST, DYNAMIC_PORT_LAST + 1)) for port in wanted}
        for port in wanted:
            if port.published_port:
                self._check(service, port)
                chosen.append(port)
            elif port.publish_mode == INGRESS:
                number = kept.get(port) or self._choose(service, port, taken, left[port.protocol])
                taken.add((port.protocol, number))
                chosen.append(attrs.evolve(port, published_port=number))
            else:
                chosen.append(port)
        return tuple(chosen)

    def _kept(
        self, service: Service, wanted: tuple[PortConfig, ...], named: set[tuple[str, int]]
    ) -> dict[PortConfig, int]:
        """The ports that the cluster chose for the service before and that it still wants."""
        before = {attrs.evolve(port, published_port=0): port.published_port for port in service.ports}
        kept = {}
        for port in wanted:
            number = before.get(port, 0)
            key = (port.protocol, number)
            if (
                port.publish_mode == INGRESS
                and _is_dynamic(number)
                and key not in named
                and self._is_free(service, key)
            ):
                kept[port] = number
        return kept

    def _is_free(self, service: Service, key: tuple[str, int]) -> bool:
        owners = (self._owner(key, INGRESS), self._owner(key, HOST))
        return all(owner is None or owner.id == service.id for owner in owners)

    def _check(self, service: Service, port: PortConfig) -> None:
        key = (port.protocol, port.published_port)
        others = [(INGRESS, "an ingress port")]
        if port.publish_mode == INGRESS:
            others.append((HOST, "a host-published port"))
        for mode, what in others:
            owner = self._owner(key, mode)
            if owner is not None and owner.id != service.id:
                holder = f"service '{owner.spec.name}' ({owner.id})"
                raise AlreadyExists(f"port '{port.published_port}' is already in use by {holder} as {what}")

    def _choose(self, service: Service, port: PortConfig, taken: set[tuple[str, int]], left: Iterator[int]) -> int:
        for number in left:
            key = (port.protocol, number)
            if key not in taken and self._is_free(service, key):
                return number
        raise FailedPrecondition(
            f"no free published port for port {port.target_port}/{port.protocol} of service '{service.spec.name}': "
            f"all of {DYNAMIC_PORT_FIRST}-{DYNAMIC_PORT_LAST} are in use; name a port or remove a service"
        )


def _is_dynamic(number: int) -> bool:
    return DYNAMIC_PORT_FIRST <= number <= DYNAMIC_PORT_LAST

"""Specs whose every field is right and that still mean nothing: more reserved than allowed, a limit that is two.

They are refused at the door only. What was stored before there was a check runs on: on the node, what means nothing has
never done anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from swarmpy.errors import InvalidArgument
from swarmpy.model import grammar
from swarmpy.model.grammar import shown
from swarmpy.model.specs import ContainerSpec, GenericResource, ResourceRequirements, Resources

MIN_NANO_CPUS = 1_000_000
MIN_MEMORY_BYTES = 4 * 1024 * 1024
NO_PIDS_LIMIT = -1
"""As much as 0, and what ``docker run`` has for it; Docker Swarm takes it, too."""
MAX_GENERIC = 1 << 20
"""Of one kind, for one task."""


def check_resources(wanted: ResourceRequirements) -> None:
    """Raises InvalidArgument, with Docker's words and the field at their end."""
    limits, reservations = wanted.limits or Resources(), wanted.reservations or Resources()
    if limits.generic:
        raise InvalidArgument("generic resources can be reserved, and have no limits (Limits.GenericResources)")
    for word, amount in (("Limits", limits), ("Reservations", reservations)):
        _check_amount(word, amount)
    _check_generic(reservations.generic)
    if limits.memory_bytes and limits.memory_bytes < reservations.memory_bytes:
        raise InvalidArgument(
            f"invalid memory value {reservations.memory_bytes}: more is reserved than the limit of "
            f"{limits.memory_bytes} allows (Reservations.MemoryBytes)"
        )
    if limits.nano_cpus and limits.nano_cpus < reservations.nano_cpus:
        raise InvalidArgument(
            f"invalid cpu value {reservations.nano_cpus / 1e9:g}: more is reserved than the limit of "
            f"{limits.nano_cpus / 1e9:g} allows (Reservations.NanoCPUs)"
        )


def _check_amount(word: str, amount: Resources) -> None:
    if amount.memory_bytes and amount.memory_bytes < MIN_MEMORY_BYTES:
        raise InvalidArgument(f"invalid memory value {amount.memory_bytes}: Must be at least 4MiB ({word}.MemoryBytes)")
    if amount.nano_cpus and amount.nano_cpus < MIN_NANO_CPUS:
        least = f"{MIN_NANO_CPUS / 1e9:g}"
        raise InvalidArgument(
            f"invalid cpu value {amount.nano_cpus / 1e9:g}: Must be at least {least} ({word}.NanoCPUs)"
        )
    if amount.pids < NO_PIDS_LIMIT:
        raise InvalidArgument(f"invalid pids limit {amount.pids}: {NO_PIDS_LIMIT} is no limit ({word}.Pids)")


def _check_generic(reserved: Iterable[GenericResource]) -> None:
    kinds: set[str] = set()
    for each in reserved:
        if not grammar.is_name(each.kind) or each.kind in kinds:
            raise InvalidArgument(f"invalid generic resource {shown(each.kind)}: give each kind a name, and once")
        if each.names or not 1 <= each.count <= MAX_GENERIC:
            raise InvalidArgument(f"invalid generic resource {shown(each.kind)}: reserve a count of 1-{MAX_GENERIC}")
        kinds.add(each.kind)


def check_meant(container: ContainerSpec) -> None:
    """Raises InvalidArgument for a limit of processes that is given twice."""
    names: set[str] = set()
    for limit in container.ulimits:
        if limit.name in names:
            raise InvalidArgument(f"ContainerSpec: Ulimits: {limit.name} is given twice")
        names.add(limit.name)

"""Amounts of resources as Docker's JSON, both ways: of tasks, of nodes, and what a task got of its node's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarmpy.api.json_fields import Fields, given
from swarmpy.control.meaning import NO_PIDS_LIMIT
from swarmpy.errors import InvalidArgument
from swarmpy.model.specs import GenericResource, ResourceRequirements, Resources

_NAMED = "NamedResourceSpec"
_DISCRETE = "DiscreteResourceSpec"


def requirements_from_json(fields: Fields) -> ResourceRequirements:
    """``TaskTemplate.Resources``. Raises InvalidArgument."""
    fields.refuse("SwapBytes", "MemorySwappiness")
    limits, reservations = fields.maybe_nested("Limits"), fields.maybe_nested("Reservations")
    return ResourceRequirements(
        limits=_limits_from_json(limits) if limits else None,
        reservations=_reservations_from_json(reservations) if reservations else None,
    )


def requirements_to_json(requirements: ResourceRequirements) -> dict[str, Any]:
    """As it was sent."""
    out = {}
    if requirements.limits is not None:
        out["Limits"] = resources_to_json(requirements.limits)
    if requirements.reservations is not None:
        out["Reservations"] = resources_to_json(requirements.reservations)
    return out


def resources_to_json(resources: Resources) -> dict[str, Any]:
    """An amount of resources; what is 0 stays out."""
    return given(
        NanoCPUs=resources.nano_cpus,
        MemoryBytes=resources.memory_bytes,
        Pids=resources.pids,
        GenericResources=generic_to_json(resources.generic),
    )


def generic_to_json(resources: Iterable[GenericResource]) -> list[dict[str, Any]]:
    """``GenericResources``: each name an entry of its own, or a kind with its count."""
    out: list[dict[str, Any]] = []
    for each in resources:
        if each.names:
            out += [{_NAMED: {"Kind": each.kind, "Value": name}} for name in each.names]
        else:
            out.append({_DISCRETE: {"Kind": each.kind, "Value": each.count}})
    return out


def _limits_from_json(fields: Fields) -> Resources:
    fields.refuse("GenericResources", reason="they can be reserved, and have no limits")
    return _amount_from_json(fields)


def _reservations_from_json(fields: Fields) -> Resources:
    fields.refuse("Pids", reason="they have limits, and cannot be reserved")
    return _amount_from_json(fields, _generic_from_json(fields))


def _amount_from_json(fields: Fields, generic: tuple[GenericResource, ...] = ()) -> Resources:
    return Resources(
        nano_cpus=fields.integer("NanoCPUs"),
        memory_bytes=fields.integer("MemoryBytes"),
        pids=fields.integer("Pids", least=NO_PIDS_LIMIT),
        generic=generic,
    )


def _generic_from_json(fields: Fields) -> tuple[GenericResource, ...]:
    found = []
    for entry in fields.nested_list("GenericResources"):
        if entry.has(_NAMED):
            kind = entry.nested(_NAMED).string("Kind")
            raise InvalidArgument(
                f"{entry.path_of(_NAMED)}: which {kind[:60]!r} a task gets is up to its node: reserve a number of them"
            )
        discrete = entry.nested(_DISCRETE)
        found.append(GenericResource(kind=discrete.string("Kind"), count=discrete.integer("Value")))
    return tuple(found)

"""Nodes and their specs as Docker's JSON."""

from __future__ import annotations

from typing import Any

import attrs

from swarmpy.api.json_fields import Fields, given
from swarmpy.api.resources_json import resources_to_json
from swarmpy.api.timestamps import meta_to_json
from swarmpy.errors import InvalidArgument
from swarmpy.model.objects import Node, NodeDescription, NodeStatus
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Availability, Role


@attrs.frozen(kw_only=True)
class ManagerView:
    """What consensus says of one manager; it is not part of the stored node."""

    leader: bool
    reachable: bool | None
    """None: this manager cannot tell."""


def node_spec_from_json(data: object) -> NodeSpec:
    """The node spec that a client sent: the whole, not a change of it. Raises InvalidArgument."""
    fields = Fields(data)
    role, availability = fields.string("Role"), fields.string("Availability")
    if role not in list(Role):
        raise InvalidArgument(f'invalid Role: "{role}" (use {", ".join(Role)})')
    return NodeSpec(
        name=fields.string("Name"),
        labels=fields.string_map("Labels"),
        role=Role(role),
        availability=availability_from_json(availability),
    )


def availability_from_json(text: str) -> Availability:
    """``active`` when empty. Raises InvalidArgument."""
    if text and text not in list(Availability):
        raise InvalidArgument(f'invalid Availability: "{text}" (use {", ".join(Availability)})')
    return Availability(text or "active")


def node_spec_to_json(spec: NodeSpec) -> dict[str, Any]:
    """Docker's JSON of a node's spec."""
    return {
        **given(Name=spec.name),
        "Labels": dict(spec.labels),
        "Role": str(spec.role),
        "Availability": str(spec.availability),
    }


def node_to_json(node: Node, *, manager: ManagerView | None, tls_info: dict[str, str]) -> dict[str, Any]:
    """A node as ``GET /nodes`` shows it. ``manager``: None for a worker, which has no ``ManagerStatus``."""
    out = {
        "ID": node.id,
        **meta_to_json(node.meta),
        "Spec": node_spec_to_json(node.spec),
        "Description": _description_to_json(node.description, tls_info),
        "Status": {
            "State": str(node.status.state),
            **given(Message=message_of(node.status)),
            "Addr": node.status.address,
        },
    }
    if manager is not None and node.manager is not None:
        out["ManagerStatus"] = {
            **given(Leader=manager.leader),
            "Reachability": _REACHABILITY[manager.reachable],
            "Addr": node.manager.address,
        }
    return out


def message_of(status: NodeStatus) -> str:
    """What there is to say of a node beside its state, in one line; "" for nothing."""
    leaving = "its tasks move to other nodes, as it is about to leave or restart" if status.leaving else ""
    return "; ".join(filter(None, (leaving, status.message)))


_REACHABILITY = {True: "reachable", False: "unreachable", None: "unknown"}


def _description_to_json(description: NodeDescription, tls_info: dict[str, str]) -> dict[str, Any]:
    return {
        "Hostname": description.hostname,
        "Platform": {"Architecture": description.platform.architecture, "OS": description.platform.os},
        "Resources": resources_to_json(description.resources),
        "Engine": {
            "EngineVersion": description.engine_version or description.runtime,
            **given(Labels=description.engine_labels),
            "Plugins": [{"Type": plugin.type.capitalize(), "Name": plugin.name} for plugin in description.plugins],
        },
        "TLSInfo": tls_info,
    }

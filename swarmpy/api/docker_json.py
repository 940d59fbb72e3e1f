"""All shapes of Docker's JSON, by one door; they are defined by object in the ``*_json`` modules beside it."""

from __future__ import annotations

from swarmpy.api.json_fields import parse_json
from swarmpy.api.node_json import ManagerView, node_spec_from_json, node_spec_to_json, node_to_json
from swarmpy.api.service_json import service_spec_from_json, service_spec_to_json, service_to_json
from swarmpy.api.task_json import task_to_json
from swarmpy.api.timestamps import rfc3339_nano

__all__ = [
    "ManagerView",
    "node_spec_from_json",
    "node_spec_to_json",
    "node_to_json",
    "parse_json",
    "rfc3339_nano",
    "service_spec_from_json",
    "service_spec_to_json",
    "service_to_json",
    "task_to_json",
]

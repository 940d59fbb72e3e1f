"""Placeholders such as ``{{.Task.Slot}}`` in a task's spec: Docker's, in Go's template notation.

Pure. Docker expands them in the environment, the hostname and the mounts; ``expand`` does so and refuses what it does
not know, since a literal ``{{.Task.Slto}}`` in a path or a name is a mistake. Docker hands command and arguments over
as they are; ``expand_known`` expands there what it knows and leaves the rest alone, because braces in an argument may
well be meant for the program itself.
"""

from __future__ import annotations

import re

import attrs

from swarmpy.errors import TaskRejected
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_LABEL_BY_INDEX = re.compile(r'index\s+\.Service\.Labels\s+"([^"]*)"')
_LABEL_BY_FIELD = re.compile(r"\.Service\.Labels\.(\w+)")


@attrs.frozen(kw_only=True)
class NodeFacts:
    """What a spec may ask of the node that runs it."""

    id: NodeId
    hostname: str = ""
    address: str = ""
    """The address other nodes reach this node at, without a port."""
    os: str = "linux"
    architecture: str = ""


def expand(text: str, task: Task, node: NodeFacts) -> str:
    """``text`` with every placeholder replaced. Raises TaskRejected naming one that does not exist."""

    def replace(match: re.Match[str]) -> str:
        value = _value(match.group(1), task, node)
        if value is None:
            known = ", ".join((*_fields(task, node), _BY_INDEX))
            raise TaskRejected(f"unknown placeholder {match.group(0)} in {text!r}: known are {known}")
        return value

    return _PLACEHOLDER.sub(replace, text)


def expand_known(text: str, task: Task, node: NodeFacts) -> str:
    """``text`` with the placeholders that exist replaced and everything else as it is."""

    def replace(match: re.Match[str]) -> str:
        value = _value(match.group(1), task, node)
        return match.group(0) if value is None else value

    return _PLACEHOLDER.sub(replace, text)


_LABELS = ".Service.Labels"
_BY_INDEX = 'index .Service.Labels "key"'


def _fields(task: Task, node: NodeFacts) -> dict[str, str]:
    return {
        ".Service.ID": task.service_id,
        ".Service.Name": task.service_name,
        # As Go prints a map: sorted by key.
        _LABELS: "map[" + " ".join(f"{key}:{value}" for key, value in sorted(task.service_labels.items())) + "]",
        ".Task.ID": task.id,
        ".Task.Name": task.name,
        # A task of a global service has no slot: its node is the slot.
        ".Task.Slot": str(task.slot or node.id),
        ".Node.ID": node.id,
        ".Node.Hostname": node.hostname,
        ".Node.Platform.OS": node.os,
        ".Node.Platform.Architecture": node.architecture,
    }


def _value(expression: str, task: Task, node: NodeFacts) -> str | None:
    label = _LABEL_BY_INDEX.fullmatch(expression) or _LABEL_BY_FIELD.fullmatch(expression)
    if label is not None:
        return task.service_labels.get(label.group(1), "")
    return _fields(task, node).get(expression)

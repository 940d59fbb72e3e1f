"""Placeholders such as ``{{.Task.Slot}}`` in a task's spec: Docker's, in Go's template notation.

Pure, and no template language: a placeholder is one of a few known words, looked up in a table. Nothing is called, no
attribute is followed, and what a placeholder stands for is not looked at again.

Docker expands them in the environment, the hostname and the mounts (source, target, and the values of a volume's labels
and options); ``expand`` does so and refuses what it does not
know, since a literal ``{{.Task.Slto}}`` in a path or a name is a mistake. Docker hands command and arguments over
as they are; ``expand_known`` expands there what it knows and leaves the rest alone, because braces in an argument may
well be meant for the program itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import attrs

from swarmpy.errors import TaskRejected
from swarmpy.model.grammar import bare, shown
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Task
from swarmpy.model.specs import ContainerSpec, Mount

MAX_EXPANDED = 128 * 1024
"""Characters of a text with its placeholders replaced. No program can be given a longer argument or variable."""

# Every character is looked at once only: a text may have many braces, and come from anybody.
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
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


FIELDS: Mapping[str, Callable[[Task, NodeFacts], str]] = {
    ".Service.ID": lambda task, _: task.service_id,
    ".Service.Name": lambda task, _: task.service_name,
    # As Go prints a map: sorted by key.
    ".Service.Labels": lambda task, _: (
        "map[" + " ".join(f"{key}:{value}" for key, value in sorted(task.service_labels.items())) + "]"
    ),
    ".Task.ID": lambda task, _: task.id,
    ".Task.Name": lambda task, _: task.name,
    # A task of a global service has no slot: its node is the slot.
    ".Task.Slot": lambda task, node: str(node.id) if task.shown_slot is None else str(task.shown_slot),
    ".Node.ID": lambda _, node: node.id,
    ".Node.Hostname": lambda _, node: node.hostname,
    ".Node.Platform.OS": lambda _, node: node.os,
    ".Node.Platform.Architecture": lambda _, node: node.architecture,
}
"""What a placeholder alone stands for."""
_KNOWN = ", ".join((*FIELDS, 'index .Service.Labels "key"'))


def expand(text: str, task: Task, node: NodeFacts) -> str:
    """``text`` with every placeholder replaced. Raises TaskRejected naming one that does not exist."""
    try:
        return _replaced(text, lambda expression: _value(expression, task, node), keep_unknown=False)
    except ValueError as error:
        raise TaskRejected(str(error)) from None


def expand_known(text: str, task: Task, node: NodeFacts) -> str:
    """``text`` with the placeholders that exist replaced and everything else as it is.

    Raises TaskRejected when that becomes longer than anything could be.
    """
    try:
        return _replaced(text, lambda expression: _value(expression, task, node), keep_unknown=True)
    except ValueError as error:
        raise TaskRejected(str(error)) from None


def masked(text: str) -> str:
    """``text`` with an ``x`` for each placeholder: its form, before there is a task.

    Raises ValueError naming one that does not exist.
    """
    return _replaced(text, lambda expression: "x" if _is_known(expression) else None, keep_unknown=False)


def map_templated(spec: ContainerSpec, change: Callable[[str], str]) -> ContainerSpec:
    """The spec with ``change`` done to each text in which every placeholder must exist."""
    return attrs.evolve(
        spec,
        env=tuple(map(change, spec.env)),
        hostname=change(spec.hostname),
        mounts=tuple(_map_mount(mount, change) for mount in spec.mounts),
    )


def _map_mount(mount: Mount, change: Callable[[str], str]) -> Mount:
    return attrs.evolve(
        mount,
        source=change(mount.source),
        target=change(mount.target),
        volume_labels={name: change(value) for name, value in mount.volume_labels.items()},
        volume_driver_opts={name: change(value) for name, value in mount.volume_driver_opts.items()},
    )


def _replaced(text: str, value_of: Callable[[str], str | None], *, keep_unknown: bool) -> str:
    size = len(text)

    def replace(match: re.Match[str]) -> str:
        nonlocal size
        value = value_of(match[1].strip())
        if value is None and not keep_unknown:
            raise ValueError(f"unknown placeholder {bare(match[0])} in {shown(text)}: known are {_KNOWN}")
        if value is None:
            return match[0]
        size += len(value)
        if size > MAX_EXPANDED:
            raise ValueError(f"{shown(text)} with its placeholders replaced has more than {MAX_EXPANDED} characters")
        return value

    return _PLACEHOLDER.sub(replace, text) if "{{" in text else text


def _label(expression: str) -> str | None:
    match = _LABEL_BY_INDEX.fullmatch(expression) or _LABEL_BY_FIELD.fullmatch(expression)
    return None if match is None else match[1]


def _is_known(expression: str) -> bool:
    return expression in FIELDS or _label(expression) is not None


def _value(expression: str, task: Task, node: NodeFacts) -> str | None:
    label = _label(expression)
    if label is not None:
        return task.service_labels.get(label, "")
    field = FIELDS.get(expression)
    return None if field is None else field(task, node)

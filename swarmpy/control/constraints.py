"""Placement constraints: ``key==value`` and ``key!=value``, compared without regard to case.

A key that nodes do not have is never equal to anything: ``==`` refuses every node, ``!=`` none (a label that is not
set), as with Docker.
"""

from __future__ import annotations

import functools
import ipaddress
import re

import attrs

from swarmpy.errors import InvalidArgument
from swarmpy.model.grammar import bare, shown
from swarmpy.model.objects import Node
from swarmpy.model.specs import Placement

NODE_LABEL = "node.labels."
ENGINE_LABEL = "engine.labels."
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Go's names of architectures and the kernel's, which mean the same machine."""

_KEY = re.compile(r"[a-z_][a-z0-9\-_.]+", re.IGNORECASE)
_VALUE = re.compile(r"[a-z0-9:\-_\s.*()?+\[\]\\^$|/]+", re.IGNORECASE)


@attrs.frozen
class Constraint:
    """One parsed constraint."""

    key: str
    is_equal: bool
    """``==``; otherwise ``!=``."""
    value: str

    @staticmethod
    @functools.lru_cache(maxsize=4096)
    def parse(text: str) -> Constraint:
        """The constraint that ``text`` says. Raises InvalidArgument, with Docker's words."""
        for operator in ("==", "!="):
            key, found, value = text.partition(operator)
            if not found:
                continue
            key, value = key.strip(), value.strip()
            if not _KEY.fullmatch(key):
                raise InvalidArgument(f"key '{bare(key)}' is invalid")
            if not _VALUE.fullmatch(value):
                raise InvalidArgument(f"value '{bare(value)}' is invalid")
            return Constraint(key, operator == "==", value)
        raise InvalidArgument(f"constraint expected one operator from ==, != (in {shown(text)})")

    def is_met_by(self, node: Node) -> bool:
        """True when the node may take a task with this constraint."""
        if self.key.lower() == "node.ip":
            return _is_in(node.status.address, self.value) == self.is_equal
        actual = node_value(node, self.key)
        if actual is None:
            return not self.is_equal and _is_label(self.key)
        wanted = self.value.lower()
        if self.key.lower() == "node.platform.arch":
            return (architecture(actual) == architecture(wanted)) == self.is_equal
        return (actual.lower() == wanted) == self.is_equal


def broken_constraint(placement: Placement | None, node: Node) -> str | None:
    """The first constraint that the node does not meet; None when it meets all.

    One that cannot be read cannot be met: specs are validated, old ones may be stored.
    """
    for text in placement.constraints if placement else ():
        try:
            constraint = Constraint.parse(text)
        except InvalidArgument:
            return text
        if not constraint.is_met_by(node):
            return text
    return None


def node_value(node: Node, key: str) -> str | None:
    """What the node has under a constraint or preference key; None when it has nothing, or there is no such key."""
    lowered = key.lower()
    if lowered.startswith(NODE_LABEL):
        return node.spec.labels.get(key[len(NODE_LABEL) :])
    if lowered.startswith(ENGINE_LABEL):
        return node.description.engine_labels.get(key[len(ENGINE_LABEL) :])
    values = {
        "node.id": node.id,
        "node.hostname": node.description.hostname,
        "node.role": node.role.value,
        "node.platform.os": node.description.platform.os,
        "node.platform.arch": node.description.platform.architecture,
    }
    return values.get(lowered)


def _is_label(key: str) -> bool:
    return key.lower().startswith((NODE_LABEL, ENGINE_LABEL))


def architecture(name: str) -> str:
    """The kernel's name of an architecture, in lower case."""
    return ARCHITECTURES.get(name.lower(), name.lower())


def _is_in(address: str, value: str) -> bool:
    """True when the address is the given one, or in the given subnet."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(value, strict=False)
    except ValueError:
        return False

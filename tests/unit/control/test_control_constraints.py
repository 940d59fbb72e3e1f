"""Placement constraints."""

from __future__ import annotations

import pytest

from swarmpy.control.constraints import Constraint
from swarmpy.errors import InvalidArgument
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import Node, NodeDescription, NodeStatus, Platform
from swarmpy.model.specs import NodeSpec
from swarmpy.model.states import Role

NODE = Node(
    id=NodeId("abc"),
    role=Role.MANAGER,
    spec=NodeSpec(labels={"zone": "EU", "empty": ""}),
    description=NodeDescription(
        hostname="Host-1",
        platform=Platform(architecture="x86_64", os="linux"),
        engine_labels={"storage": "ssd"},
    ),
    status=NodeStatus(address="10.1.2.3"),
)


@pytest.mark.parametrize(
    ("text", "is_met"),
    [
        ("node.id==abc", True),
        ("node.id == abc", True),
        ("node.id!=abc", False),
        ("node.hostname==host-1", True),
        ("node.role==manager", True),
        ("node.role != manager", False),
        ("node.role==worker", False),
        ("node.platform.os==linux", True),
        ("node.platform.arch==amd64", True),
        ("node.platform.arch==x86_64", True),
        ("node.platform.arch!=arm64", True),
        ("node.labels.zone==eu", True),
        ("node.labels.zone!=eu", False),
        ("node.labels.missing==eu", False),
        ("node.labels.missing!=eu", True),
        ("engine.labels.storage==ssd", True),
        ("engine.labels.storage!=ssd", False),
        ("node.ip==10.1.2.3", True),
        ("node.ip==10.1.0.0/16", True),
        ("node.ip!=10.1.0.0/16", False),
        ("node.ip==10.2.0.0/16", False),
        ("node.unheard==x", False),
        ("node.unheard!=x", False),
    ],
)
def test_constraint_is_met(text: str, *, is_met: bool) -> None:
    """Each key compares what it names, without regard to case; unset labels differ from everything."""
    assert Constraint.parse(text).is_met_by(NODE) is is_met


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node.role", "constraint expected one operator from ==, !="),
        ("node.role=manager", "constraint expected one operator from ==, !="),
        ("==manager", "key '' is invalid"),
        ("1abc==x", "key '1abc' is invalid"),
        ("node.role==", "value '' is invalid"),
        ("node.role==a;b", "value 'a;b' is invalid"),
    ],
)
def test_malformed_constraint_is_refused(text: str, message: str) -> None:
    """What cannot be read is refused in Docker's words."""
    with pytest.raises(InvalidArgument) as caught:
        Constraint.parse(text)
    assert str(caught.value).startswith(message)

"""Placeholders in specs."""

from __future__ import annotations

import pytest

from swarmpy.errors import TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import TaskSpec
from swarmpy.runtime.template import NodeFacts, expand, expand_known

NODE = NodeFacts(id=NodeId("n1"), hostname="host1", os="linux", architecture="x86_64")
TASK = Task(
    id=TaskId("t1"),
    spec=TaskSpec(),
    service_id=ServiceId("s1"),
    service_name="web",
    service_labels={"b": "2", "a.b": "1"},
    slot=4,
)
GLOBAL = Task(id=TaskId("t1"), spec=TaskSpec(), service_id=ServiceId("s1"), service_name="web", node_id=NodeId("n1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain {text}", "plain {text}"),
        ("{{.Service.ID}}/{{.Service.Name}}", "s1/web"),
        ("{{ .Task.ID }} {{.Task.Name}} {{  .Task.Slot}}", "t1 web.4.t1 4"),
        ("{{.Node.ID}} {{.Node.Hostname}}", "n1 host1"),
        ("{{.Node.Platform.OS}}-{{.Node.Platform.Architecture}}", "linux-x86_64"),
        ("{{.Service.Labels}}", "map[a.b:1 b:2]"),
        ('{{index .Service.Labels "a.b"}}{{.Service.Labels.b}}{{.Service.Labels.c}}', "12"),
    ],
)
def test_known_placeholders(text: str, expected: str) -> None:
    """Docker's placeholders are replaced, with or without spaces."""
    assert expand(text, TASK, NODE) == expected
    assert expand_known(text, TASK, NODE) == expected


def test_the_slot_of_a_global_task_is_its_node() -> None:
    """A global service has one slot a node, named by it."""
    assert expand("{{.Task.Slot}}", GLOBAL, NODE) == "n1"


@pytest.mark.parametrize("text", ["{{.Task.Slto}}", "x{{}}y", '{{env "HOME"}}', "{{.Service.Name | upper}}"])
def test_unknown_placeholders(text: str) -> None:
    """A mistake is named where Docker would expand it, and left alone in arguments."""
    with pytest.raises(TaskRejected, match=r"unknown placeholder \{\{"):
        expand(text, TASK, NODE)
    assert expand_known(text, TASK, NODE) == text

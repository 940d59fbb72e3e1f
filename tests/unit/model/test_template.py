"""Placeholders in specs."""

from __future__ import annotations

import time

import attrs
import pytest

from swarmpy.errors import TaskRejected
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import Task
from swarmpy.model.specs import TaskSpec
from swarmpy.model.template import NodeFacts, expand, expand_known, masked

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


def test_what_a_placeholder_stands_for_is_not_looked_at_again() -> None:
    """Text of a label is text, whatever it looks like."""
    task = attrs.evolve(TASK, service_labels={"x": "{{.Task.ID}} {{.Nope}}"})
    assert expand("{{.Service.Labels.x}}", task, NODE) == "{{.Task.ID}} {{.Nope}}"


@pytest.mark.parametrize(
    "expression",
    [
        ".__class__", ".Task.__class__", ".Task.spec", ".Task.ID.__len__", ".Node", ".Node.address", ".Service",
        "index .Service.Labels", 'printf "%s" .Task.ID', "call .Task", ".Task.ID | html", "env", "$.Task.ID",
    ],
)  # fmt: skip
def test_nothing_is_reached_through_a_placeholder(expression: str) -> None:
    """There are a few words and no language: no attribute, no function, no pipe."""
    text = "{{" + expression + "}}"
    with pytest.raises(TaskRejected, match="unknown placeholder"):
        expand(text, TASK, NODE)
    with pytest.raises(ValueError, match="unknown placeholder"):
        masked(text)
    assert expand_known(text, TASK, NODE) == text


def test_a_text_that_grows_without_end_is_refused() -> None:
    """A short text may mean a long label many times."""
    task = attrs.evolve(TASK, service_labels={"x": "y" * 100_000})
    for grow in (expand, expand_known):
        with pytest.raises(TaskRejected, match=r"with its placeholders replaced has more than 131072 characters"):
            grow("{{.Service.Labels.x}}" * 10_000, task, NODE)


@pytest.mark.parametrize("text", ["{{" + " " * 100_000, "{{" * 50_000, "{{" + "{{.x" * 50_000, "{{a" * 30_000 + "}}"])
def test_long_texts_take_no_time(text: str) -> None:
    """No text makes the search for placeholders look at it again and again."""
    began = time.process_time()
    assert expand_known(text, TASK, NODE) == text
    assert time.process_time() - began < 2


def test_the_form_of_a_text() -> None:
    """Each placeholder is as good as a letter."""
    assert masked('/a/{{.Task.Slot}}/{{index .Service.Labels "k"}}{x}') == "/a/x/x{x}"

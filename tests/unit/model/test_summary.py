"""Changes in words: fields by their names, never what is in them."""

from __future__ import annotations

import attrs

from swarmpy.model.changes import create, delete, update
from swarmpy.model.ids import ConfigId, NodeId, SecretId, ServiceId
from swarmpy.model.objects import Config, Meta, Node, NodeDescription, Secret, Service, UpdateStatus
from swarmpy.model.specs import ConfigSpec, ContainerSpec, SecretSpec, ServiceSpec, TaskSpec
from swarmpy.model.states import UpdateState
from swarmpy.model.summary import summary

SERVICE = Service(
    id=ServiceId("s1"), spec=ServiceSpec(name="web", task=TaskSpec(container=ContainerSpec(env=("KEY=secret",))))
)


def test_an_update_names_its_fields() -> None:
    """Fields of fields by their path, containers and what was absent as a whole; what the store sets is left out."""
    container = attrs.evolve(SERVICE.spec.task.container, env=("KEY=other",), labels={"a": "b"})
    after = attrs.evolve(
        SERVICE,
        meta=Meta(version=7),
        spec_version=7,
        spec=attrs.evolve(SERVICE.spec, replicas=2, task=attrs.evolve(SERVICE.spec.task, container=container)),
        update_status=UpdateStatus(state=UpdateState.UPDATING),
    )
    told = summary(update(after), SERVICE)
    assert told.fields == (
        "spec.task.container.labels",
        "spec.task.container.env",
        "spec.replicas",
        "update_status",
    )
    assert str(told) == f"update service web (s1): {', '.join(told.fields)}"
    assert str(summary(update(SERVICE), SERVICE)) == "update service web (s1): nothing"


def test_without_the_state_before() -> None:
    """What an update changes is not known then, nor the name of what is deleted."""
    assert summary(update(SERVICE), None).fields is None
    assert str(summary(update(SERVICE), None)) == "update service web (s1)"
    assert str(summary(delete(SERVICE), None)) == "delete service s1"
    assert str(summary(delete(SERVICE), SERVICE)) == "delete service web (s1)"


def test_a_name_cannot_move_the_cursor() -> None:
    """Whatever a node calls itself, a line stays a line."""
    node = Node(id=NodeId("n1"), description=NodeDescription(hostname="evil\x1b[2J\nname"))
    assert str(summary(create(node), None)) == "create node evil?[2J?name (n1)"


def test_the_data_of_a_secret_is_not_told() -> None:
    """Neither in words nor by the objects themselves, which somebody may print; of credentials not even a name."""
    secret = Secret(id=SecretId("x"), spec=SecretSpec(name="tok", data=b"hunter2"))
    relabelled = attrs.evolve(secret, made_at=7, spec=attrs.evolve(secret.spec, labels={"a": "b"}))
    config = Config(id=ConfigId("c"), spec=ConfigSpec(name="cfg", data=b"hunter2"))
    credentials = Secret(id=SecretId("y"), spec=SecretSpec(data=b"hunter2"))
    told = [
        str(summary(create(secret), None)),
        str(summary(update(relabelled), secret)),
        str(summary(create(config), None)),
        str(summary(delete(credentials), credentials)),
    ]
    assert told == [
        "create secret tok (x)",
        "update secret tok (x): spec.labels",
        "create config cfg (c)",
        "delete secret y",
    ]
    assert "hunter2" not in repr((create(secret), update(relabelled), create(config), credentials))

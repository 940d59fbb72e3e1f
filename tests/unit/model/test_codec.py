"""How objects look as bytes: for ever readable, tolerant of newer fields, closed to newer schemas."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmpy.errors import DataDirMismatch, ProtocolViolation
from swarmpy.model import changes, codec
from swarmpy.model.assignments import AssignmentUpdate, Endpoint, EndpointUpdate, PublishedPort, SessionMessage
from swarmpy.model.ids import NodeId, ServiceId, TaskId
from swarmpy.model.objects import ContainerStatus, Meta, Node, NodeDescription, Service, StoreObject, Task, TaskStatus
from swarmpy.model.requests import Answered, RequestId
from swarmpy.model.specs import (
    ContainerSpec,
    EndpointSpec,
    Healthcheck,
    Mount,
    NodeSpec,
    PortConfig,
    ServiceSpec,
    TaskSpec,
    Ulimit,
    UpdateConfig,
)
from swarmpy.model.states import Availability, Role, ServiceMode, TaskState

GOLDEN_TASK = Task(
    id=TaskId("t1"),
    meta=Meta(version=7, created_at_ns=1, updated_at_ns=2),
    spec=TaskSpec(container=ContainerSpec(image="nginx", env=("A=b",), healthcheck=Healthcheck(test=("CMD", "true")))),
    spec_version=3,
    service_id=ServiceId("s1"),
    service_name="web",
    slot=2,
    node_id=NodeId("n1"),
    status=TaskStatus(state=TaskState.RUNNING, timestamp_ns=9, container=ContainerStatus(container_id="c", pid=4)),
    ports=(PortConfig(target_port=80, published_port=8080),),
)
GOLDEN_TASK_HEX = (
    "018aa26964a27431a47370656381a9636f6e7461696e657283a5696d616765a56e67696e78a3656e7691a3413d62ab686561"
    "6c7468636865636b81a47465737492a3434d44a474727565aa736572766963655f6964a27331a46d65746183a77665727369"
    "6f6e07ad637265617465645f61745f6e7301ad757064617465645f61745f6e7302ac737065635f76657273696f6e03ac7365"
    "72766963655f6e616d65a3776562a4736c6f7402a76e6f64655f6964a26e31a673746174757383a57374617465cd0200ac74"
    "696d657374616d705f6e7309a9636f6e7461696e657282ac636f6e7461696e65725f6964a163a370696404a5706f72747391"
    "82ab7461726765745f706f727450ae7075626c69736865645f706f7274cd1f90"
)
GOLDEN_LIST = changes.ChangeList(
    changes=(
        changes.create(Node(id=NodeId("n1"), spec=NodeSpec(role=Role.MANAGER, availability=Availability.DRAIN))),
        changes.delete(Node(id=NodeId("n2"))),
    )
)
GOLDEN_LIST_HEX = (
    "0181a76368616e6765739284a6616374696f6ea6637265617465a46b696e64a46e6f6465a26964a26e31a46e6f646582a269"
    "64a26e31a47370656382a4726f6c65a76d616e61676572ac617661696c6162696c697479a5647261696e83a6616374696f6e"
    "a664656c657465a46b696e64a46e6f6465a26964a26e32"
)
GOLDEN_ANSWERED = changes.ChangeList(
    changes=(changes.delete(Node(id=NodeId("n2"))),),
    answered=Answered(
        request=RequestId(session="c", sequence=5, answered_below=3, digest=b"\x01\x02"), answer=b"\xa2id", time_ns=7
    ),
)
GOLDEN_ANSWERED_HEX = (
    "0282a76368616e6765739183a6616374696f6ea664656c657465a46b696e64a46e6f6465a26964a26e32a8616e7377657265"
    "6483a77265717565737484a773657373696f6ea163a873657175656e636505ae616e7377657265645f62656c6f7703a66469"
    "67657374c4020102a6616e73776572c403a26964a774696d655f6e7307"
)


def test_old_bytes_decode_for_ever() -> None:
    """Bytes written by schema versions 1 and 2 give the object they were made from."""
    assert codec.decode(Task, bytes.fromhex(GOLDEN_TASK_HEX)) == GOLDEN_TASK
    assert codec.decode(changes.ChangeList, bytes.fromhex(GOLDEN_LIST_HEX)) == GOLDEN_LIST
    assert codec.decode(changes.ChangeList, bytes.fromhex(GOLDEN_ANSWERED_HEX)) == GOLDEN_ANSWERED


def test_bytes_are_stable() -> None:
    """Encoding gives the same bytes in every process: they are compared between managers."""
    assert codec.encode(GOLDEN_TASK).hex() == GOLDEN_TASK_HEX
    assert codec.encode(GOLDEN_LIST).hex() == GOLDEN_LIST_HEX
    assert codec.encode(GOLDEN_ANSWERED, codec.REQUESTS_VERSION).hex() == GOLDEN_ANSWERED_HEX


def test_unknown_fields_are_ignored() -> None:
    """What a newer version adds does not stop an older one from reading the rest."""
    plain = codec.to_plain(GOLDEN_TASK)
    plain["new_field"] = {"a": 1}
    plain["spec"]["container"]["new_field"] = [1]
    assert codec.from_plain(Task, plain) == GOLDEN_TASK


def test_unknown_fields_are_refused_in_what_all_managers_hold() -> None:
    """Who left one out would hold another state than the rest, and would write it, too."""
    plain = codec.to_plain(GOLDEN_LIST)
    assert codec.from_stored(changes.ChangeList, plain) == GOLDEN_LIST
    plain["changes"][0]["node"]["spec"]["new_field"] = 1
    with pytest.raises(DataDirMismatch, match=r"NodeSpec has fields .* \(new_field\): upgrade it"):
        codec.from_stored(changes.ChangeList, plain)
    with pytest.raises(ProtocolViolation, match="malformed ChangeList"):
        codec.from_stored(changes.ChangeList, {"changes": 7})


def test_absent_fields_take_their_defaults() -> None:
    """Only what has no default must be there."""
    assert codec.from_plain(Node, {"id": "n"}) == Node(id=NodeId("n"))
    with pytest.raises(ProtocolViolation, match="malformed Node"):
        codec.from_plain(Node, {})


@pytest.mark.parametrize("data", ["", [], "id", ["id"], b"", None, 0])
def test_an_object_is_made_from_a_mapping_only(data: object) -> None:
    """Also where all its fields have defaults, so that nothing is missed."""
    with pytest.raises(ProtocolViolation, match="malformed NodeDescription"):
        codec.from_plain(NodeDescription, data)
    with pytest.raises(ProtocolViolation, match="malformed Node: TypeError: NodeDescription expected"):
        codec.from_plain(Node, {"id": "n", "description": data})


def test_a_newer_schema_is_refused() -> None:
    """Stored bytes of a newer schema say what to do."""
    with pytest.raises(DataDirMismatch, match="schema version 9, this swarmpy reads up to 8: upgrade it"):
        codec.decode(Task, b"\x09" + codec.encode(GOLDEN_TASK)[1:])


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\x01\xc1", b"\x01\x93", b"\x01\x81\x01\x02", b"\x01\xc0", b"\x01\x90"]
)
def test_bytes_that_are_none_of_ours(data: bytes) -> None:
    """Garbage is a ProtocolViolation, never another error."""
    with pytest.raises(ProtocolViolation):
        codec.decode(Task, data)


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    """Any bytes either decode or are refused with a typed error."""
    for cls in (Task, changes.ChangeList, SessionMessage):
        try:
            codec.decode(cls, data)
        except (ProtocolViolation, DataDirMismatch):
            continue


TEXT = st.text(max_size=8)
NS = st.integers(0, 2**63 - 1)
LABELS = st.dictionaries(TEXT, TEXT, max_size=2)
TEXTS = st.lists(TEXT, max_size=2).map(tuple)
PORTS = st.lists(st.builds(PortConfig, target_port=st.integers(0, 65535)), max_size=2).map(tuple)
TASK_SPECS = st.builds(
    TaskSpec,
    container=st.builds(
        ContainerSpec,
        image=TEXT,
        labels=LABELS,
        command=TEXTS,
        init=st.none() | st.booleans(),
        stop_grace_period_ns=st.none() | NS,
        mounts=st.lists(st.builds(Mount, type=TEXT, tmpfs_mode=NS), max_size=1).map(tuple),
        ulimits=st.lists(st.builds(Ulimit, name=TEXT, soft=NS, hard=NS), max_size=1).map(tuple),
    ),
)
SERVICE_SPECS = st.builds(
    ServiceSpec,
    name=TEXT,
    labels=LABELS,
    task=TASK_SPECS,
    mode=st.sampled_from(ServiceMode),
    replicas=st.none() | st.integers(0, 10**6),
    update=st.none() | st.builds(UpdateConfig, max_failure_ratio=st.none() | st.floats(0, 1)),
    endpoint=st.none() | st.builds(EndpointSpec, ports=PORTS),
)
OBJECTS: st.SearchStrategy[StoreObject] = st.one_of(
    st.builds(Node, id=TEXT, meta=st.builds(Meta, version=NS), role=st.sampled_from(Role)),
    st.builds(
        Service, id=TEXT, spec=SERVICE_SPECS, previous_spec=st.none() | SERVICE_SPECS, pending_delete=st.booleans()
    ),
    st.builds(
        Task,
        id=TEXT,
        spec=TASK_SPECS,
        service_id=TEXT,
        slot=st.integers(0, 100),
        node_id=st.none() | TEXT,
        ports=PORTS,
        desired_state=st.sampled_from(TaskState),
        status=st.builds(TaskStatus, state=st.sampled_from(TaskState), err=TEXT),
    ),
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(OBJECTS)
def test_what_is_written_is_what_is_read(obj: StoreObject) -> None:
    """Encoding and decoding gives an equal object of the same class, alone or in a change."""
    assert codec.decode(type(obj), codec.encode(obj)) == obj
    for change in (changes.create(obj), changes.update(obj), changes.delete(obj)):
        entry = changes.ChangeList(changes=(change,))
        assert codec.decode(changes.ChangeList, codec.encode(entry)) == entry
        assert codec.packable(entry) == codec.to_plain(entry)
        assert change.object == (None if change.action is changes.Action.DELETE else obj)


@given(st.lists(TASK_SPECS, min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=8))
def test_parts_that_are_shared_are_their_own(specs: list[TaskSpec], order: list[int]) -> None:
    """Whatever was packed before, and in whichever order: each task has its own spec."""
    tasks = [attrs.evolve(GOLDEN_TASK, spec=specs[number % len(specs)]) for number in order]
    assert [codec.packable(task) for task in tasks] == [codec.to_plain(task) for task in tasks]


def test_plain_data_is_its_reader_s_to_change() -> None:
    """What one gets of an object another one does not see changed."""
    codec.to_plain(GOLDEN_TASK)["spec"]["container"]["image"] = "other"
    assert codec.to_plain(GOLDEN_TASK)["spec"]["container"]["image"] == "nginx"


def test_messages_between_manager_and_agent() -> None:
    """Nested records of a session survive the wire as plain data."""
    endpoint = Endpoint(task_id=TaskId("t1"), node_id=NodeId("n1"), address="10.0.0.1", port=80)
    message = SessionMessage(
        session_id="s",
        managers=(),
        role=Role.WORKER,
        assignments=AssignmentUpdate(sequence=1, tasks=(GOLDEN_TASK,), removed=(TaskId("t0"),)),
        endpoints=EndpointUpdate(version=2, ports=((PublishedPort(port=80), (endpoint,)),)),
    )
    wire = codec.unpack(codec.pack(codec.to_plain(message)))
    assert codec.from_plain(SessionMessage, wire) == message
    assert attrs.evolve(message, managers=None) == codec.from_plain(
        SessionMessage, codec.to_plain(attrs.evolve(message, managers=None))
    )

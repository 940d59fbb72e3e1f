"""``swarm init --force-new-cluster``: where the manager goes on, and who is sent away."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import attrs
import pytest

from swarmpy.api.backend import InitRequest
from swarmpy.errors import InvalidArgument, NotInCluster
from swarmpy.model.assignments import ManagerAddress
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.node.addresses import check_free
from swarmpy.node.datadir import NodeState
from swarmpy.node.forced import manager_of, moves, new_state

EVERYWHERE = NodeState(
    cluster_id=ClusterId("c"),
    node_id=NodeId("n"),
    raft_id=7,
    listen_address="0.0.0.0:2377",
    advertise_address="192.0.2.1:2377",
    runtime="process",
    raft=RaftConfig(),
    managers=(ManagerAddress(node_id=NodeId("lost"), address="192.0.2.9:2377"),),
)
ON_ONE = attrs.evolve(EVERYWHERE, listen_address="192.0.2.1:2399", advertise_address="192.0.2.1:2399")


@pytest.mark.parametrize(
    ("state", "listen", "advertise", "expected"),
    [
        (EVERYWHERE, "", "", ("0.0.0.0:2377", "192.0.2.1:2377")),
        (EVERYWHERE, "", "127.0.0.5", ("0.0.0.0:2377", "127.0.0.5:2377")),
        (EVERYWHERE, "", "127.0.0.5:80", ("0.0.0.0:2377", "127.0.0.5:80")),
        (EVERYWHERE, "127.0.0.5:99", "", ("127.0.0.5:99", "127.0.0.5:99")),
        (ON_ONE, "", "", ("192.0.2.1:2399", "192.0.2.1:2399")),
        (ON_ONE, "", "127.0.0.5", ("127.0.0.5:2399", "127.0.0.5:2399")),
        (ON_ONE, "0.0.0.0:2399", "127.0.0.5", ("0.0.0.0:2399", "127.0.0.5:2399")),
    ],
)
def test_addresses_stay_unless_others_are_asked_for(
    state: NodeState, listen: str, advertise: str, expected: tuple[str, str]
) -> None:
    """It has a new raft id in any case, and knows of no manager but itself."""
    request = InitRequest(listen_addr=listen, advertise_addr=advertise, force_new_cluster=True)
    after = new_state(state, request, 8)
    assert (after.listen_address, after.advertise_address) == expected
    assert after.raft_id == 8
    assert after.managers == (ManagerAddress(node_id=NodeId("n"), address=expected[1]),)
    assert moves(state, after) == (expected != (state.listen_address, state.advertise_address))


def test_a_node_in_no_cluster_is_told_what_to_do() -> None:
    """Found one, or bring one back."""
    with pytest.raises(NotInCluster, match="swarm restore"):
        manager_of(None)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def test_an_address_that_cannot_be_listened_on_is_known_before(taken: int) -> None:
    """One of another machine, or another's port; its own port is free once it lets go of it."""
    with pytest.raises(InvalidArgument, match=r"cannot listen on 192\.0\.2\.1:2377"):
        check_free("192.0.2.1:2377", "0.0.0.0:2377")
    with pytest.raises(InvalidArgument, match="in use"):
        check_free(f"127.0.0.1:{taken}", "127.0.0.1:1")
    check_free(f"127.0.0.1:{taken}", f"0.0.0.0:{taken}")

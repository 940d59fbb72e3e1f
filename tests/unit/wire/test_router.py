"""The table of methods: who may call what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from swarmpy.errors import CertificateRevoked, NodeRemoved, NotFound, PermissionDenied
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.wire.router import MANAGERS, MEMBERS, MethodKind, Route, Router, Standing

NOBODY = Peer(address="10.0.0.9:1")
WORKER = Peer(node_id=NodeId("w"), role=Role.WORKER)
MANAGER = Peer(node_id=NodeId("m"), role=Role.MANAGER)
STANDINGS = {"removed": Standing.REMOVED, "revoked": Standing.REVOKED}


async def answer(peer: Peer, payload: Any) -> Any:
    """A call."""
    return peer.node_id, payload


async def answers(peer: Peer, payload: Any) -> AsyncIterator[Any]:
    """A stream."""
    yield payload


@pytest.fixture
def taken() -> list[Any]:
    """What was notified."""
    return []


@pytest.fixture
def router(taken: list[Any]) -> Router:
    """A router with one method of each kind."""
    router = Router(standing=lambda peer: STANDINGS.get(str(peer.node_id), Standing.GOOD))
    router.call("open", answer, None)
    router.call("member", answer, MEMBERS)
    router.call("manager", answer, MANAGERS)
    router.call("renew", answer, MEMBERS, even_revoked=True)
    router.stream("watch", answers, MEMBERS)
    router.notify("note", lambda peer, payload: taken.append((peer.node_id, payload)), MANAGERS)
    return router


@pytest.mark.parametrize(
    ("peer", "method", "allowed"),
    [
        (NOBODY, "open", True),
        (WORKER, "open", True),
        (NOBODY, "member", False),
        (WORKER, "member", True),
        (MANAGER, "member", True),
        (NOBODY, "manager", False),
        (WORKER, "manager", False),
        (MANAGER, "manager", True),
    ],
)
async def test_roles_decide(router: Router, peer: Peer, method: str, allowed: bool) -> None:
    """A handler runs only for the roles in its row."""
    if allowed:
        assert await router.dispatch_call(peer, method, 1) == (peer.node_id, 1)
    else:
        with pytest.raises(PermissionDenied, match=method):
            await router.dispatch_call(peer, method, 1)


async def test_streams_and_notifications_are_checked_at_once(router: Router, taken: list[Any]) -> None:
    """A forbidden stream raises before its first step; a forbidden notification does not arrive."""
    assert [item async for item in router.dispatch_stream(WORKER, "watch", 5)] == [5]
    with pytest.raises(PermissionDenied):
        router.dispatch_stream(NOBODY, "watch", 5)
    with pytest.raises(PermissionDenied):
        router.dispatch_notify(WORKER, "note", 1)
    router.dispatch_notify(MANAGER, "note", 2)
    assert taken == [("m", 2)]


async def test_unknown_method_or_kind_is_not_found(router: Router) -> None:
    """Only a method of the very kind is found."""
    with pytest.raises(NotFound):
        await router.dispatch_call(MANAGER, "nothing", None)
    with pytest.raises(NotFound):
        await router.dispatch_call(MANAGER, "watch", None)
    with pytest.raises(NotFound):
        router.dispatch_stream(MANAGER, "member", None)
    with pytest.raises(NotFound):
        router.dispatch_notify(MANAGER, "member", None)


async def test_removed_node_is_denied_everything(router: Router) -> None:
    """A removed node's certificate opens nothing, not even what is open to its role."""
    removed = Peer(node_id=NodeId("removed"), role=Role.MANAGER)
    for method in ("open", "member", "manager", "renew"):
        with pytest.raises(NodeRemoved, match="removed was removed from the cluster"):
            await router.dispatch_call(removed, method, None)
    with pytest.raises(NodeRemoved):
        router.admit(removed)


async def test_a_revoked_certificate_opens_one_method_only(router: Router, taken: list[Any]) -> None:
    """That which says so; of the others not even what is open to anybody: it has to be another caller then."""
    revoked = Peer(node_id=NodeId("revoked"), role=Role.MANAGER)
    for method in ("open", "member", "manager"):
        with pytest.raises(CertificateRevoked, match="the manager's certificate of node revoked was revoked"):
            await router.dispatch_call(revoked, method, None)
    with pytest.raises(CertificateRevoked):
        router.dispatch_stream(revoked, "watch", 5)
    with pytest.raises(CertificateRevoked):
        router.dispatch_notify(revoked, "note", 1)
    with pytest.raises(CertificateRevoked):
        router.check_peer(revoked)
    assert taken == []
    assert router.admit(revoked) is Standing.REVOKED
    assert await router.dispatch_call(revoked, "renew", 1) == ("revoked", 1)


def test_table_is_printed_by_name(router: Router) -> None:
    """The table lists every method with who may call it."""
    assert [route.method for route in router.table()] == ["manager", "member", "note", "open", "renew", "watch"]
    lines = [" ".join(str(route).split()) for route in router.table()]
    assert lines == [
        "manager call manager",
        "member call manager, worker",
        "note notify manager",
        "open call anybody",
        "renew call manager, worker, even if revoked",
        "watch stream manager, worker",
    ]
    assert router.table()[2] == Route(method="note", kind=MethodKind.NOTIFY, allow=MANAGERS)


def test_a_method_is_routed_once(router: Router) -> None:
    """Two handlers of one name are a defect."""
    with pytest.raises(AssertionError, match="routed twice"):
        router.call("open", answer, None)

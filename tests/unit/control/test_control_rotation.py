"""When a change of the root CA is over, for whom it waits, and how long the root before is remembered."""

from __future__ import annotations

import attrs
import pytest

from swarmpy.control.rotation import NOT_RENEWED, NOT_TRUSTING, UNSEEN, Wanted, awaited, settled
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Certificate, Cluster, JoinTokens, Node, NodeStatus, NodeTLS, RootCA
from swarmpy.model.states import NodeState, Role
from swarmpy.security import roots
from swarmpy.security.ca import create_root_ca

NOW_NS = 1_790_000_000 * 10**9
HOUR_NS = 3600 * 10**9
OLD = create_root_ca(NOW_NS)
BEFORE = Cluster(id=ClusterId("c"), root_ca=OLD, join_tokens=JoinTokens(worker="w", manager="m"))
DURING = roots.begun(BEFORE, create_root_ca(NOW_NS), NOW_NS)
assert DURING.rotation is not None
NEW = DURING.rotation.root


def node(
    name: str,
    issuer: RootCA | None = OLD,
    trusts: tuple[RootCA, ...] = (OLD,),
    *,
    state: NodeState = NodeState.READY,
    given: RootCA | None = None,
    ends_ns: int = NOW_NS + HOUR_NS,
) -> Node:
    """A node that was seen with a certificate of ``issuer`` (None: was not seen), and was given one by ``given``."""
    digests = tuple(root.cert_digest for root in trusts)
    tls = NodeTLS(certificate=f"{name}-shown", issuer=issuer.cert_digest, roots=digests) if issuer is not None else None
    certificate = None
    if given is not None:
        certificate = Certificate(serial="1", role=Role.WORKER, issuer=given.cert_digest, not_after_ns=ends_ns)
    return Node(id=NodeId(name), status=NodeStatus(state=state), tls=tls, certificate=certificate)


def moved(name: str, **more: NodeState) -> Node:
    """A node that has done its part."""
    return node(name, NEW, (OLD, NEW), **more)


def new_tokens(digest: str) -> JoinTokens:
    """Tokens that show for which root they were made."""
    return JoinTokens(worker=f"w-{digest}", manager=f"m-{digest}")


def after(cluster: Cluster, *nodes: Node, managers: tuple[str, ...] = (), now_ns: int = NOW_NS) -> Cluster:
    """The cluster after the steps that can be taken."""
    return settled(cluster, nodes, {NodeId(name) for name in managers}, new_tokens, now_ns)


# -- for whom it waits ------------------------------------------------------------------------------------------------

WAITING = {
    "it has moved": (moved("n"), ""),
    "it has the certificate of before": (node("n"), NOT_RENEWED),
    "it trusts the new root only after its next confirmation": (node("n", NEW), NOT_TRUSTING),
    "it was never seen": (node("n", None), UNSEEN),
    "it is down": (node("n", state=NodeState.DOWN), ""),
    "it is down and was never seen": (node("n", None, state=NodeState.DOWN), ""),
    "the new leader has not heard of it yet": (node("n", state=NodeState.UNKNOWN), NOT_RENEWED),
    "it was let in and has not come": (node("n", None, state=NodeState.UNKNOWN, given=NEW), ""),
    "it was given a new one and not seen with it": (node("n", given=NEW), NOT_RENEWED),
}


@pytest.mark.parametrize("what", WAITING)
def test_who_is_waited_for_and_why(what: str) -> None:
    """What counts is what a node was seen with; who is away follows later."""
    one, why = WAITING[what]
    assert awaited(DURING, [one, moved("other")], ()) == ([(one, why)] if why else [])
    assert (after(DURING, one, moved("other")).rotation is None) is not bool(why)


def test_a_manager_without_a_session_is_waited_for() -> None:
    """Its engine may be away; the others would refuse it all the same."""
    manager = node("m", state=NodeState.DOWN)
    assert awaited(DURING, [manager], {NodeId("m")}) == [(manager, NOT_RENEWED)]
    assert after(DURING, manager, moved("n"), managers=("m",)) is DURING
    assert after(DURING, moved("m", state=NodeState.DOWN), moved("n"), managers=("m",)).rotation is None


# -- the end of a change ----------------------------------------------------------------------------------------------


def test_the_new_root_is_the_only_one_at_the_end() -> None:
    """With new tokens, and without the key of the one before anywhere."""
    over = after(DURING, moved("a"), moved("b"))
    assert over.root_ca == NEW
    assert over.rotation is None
    assert over.join_tokens == new_tokens(NEW.cert_digest)
    assert OLD.key_pem not in repr(attrs.asdict(over)).encode()
    # Both still trust the root before: it is remembered until they say that they do not.
    assert [roots.digest_of(former.cert_pem) for former in over.former_roots] == [OLD.cert_digest]
    assert after(over, node("a", NEW, (NEW,)), moved("b")) is over
    assert after(over, node("a", NEW, (NEW,)), node("b", NEW, (NEW,))).former_roots == ()


def test_nothing_to_do_changes_nothing() -> None:
    """The same object comes back."""
    assert after(BEFORE, node("a"), node("b", None)) is BEFORE
    assert after(DURING, node("a")) is DURING


def test_a_root_is_remembered_for_those_who_were_away() -> None:
    """Until the last of them has followed, is removed, or its certificate has ended."""
    away = node("away", state=NodeState.DOWN, given=OLD, ends_ns=NOW_NS + 5 * HOUR_NS)
    over = after(attrs.evolve(DURING, spec=attrs.evolve(DURING.spec, node_cert_expiry_ns=HOUR_NS)), moved("a"), away)
    there = node("a", NEW, (NEW,))
    assert over.former_roots[0].until_ns == NOW_NS + 5 * HOUR_NS
    assert roots.chain(over) == (over.former_roots[0].cross_signed_pem,)
    assert after(over, there, away) is over
    assert after(over, there).former_roots == ()
    assert after(over, there, node("away", NEW, (NEW,), given=NEW)).former_roots == ()
    assert after(over, there, away, now_ns=NOW_NS + 5 * HOUR_NS - 1) is over
    assert after(over, there, away, now_ns=NOW_NS + 5 * HOUR_NS).former_roots == ()
    # It was given a certificate of the new root, and has not been seen with it: the answer may have been lost.
    assert after(over, there, node("away", state=NodeState.DOWN, given=NEW)) is over
    # It was not seen with what it was given last, but may have that.
    assert after(over, there, node("away", None, state=NodeState.DOWN, given=OLD)) is over


def test_roots_are_forgotten_in_their_order() -> None:
    """Who trusts the first needs the chain through all that came after it."""
    first = after(DURING, moved("a"), node("away", state=NodeState.DOWN))
    second = roots.begun(first, create_root_ca(NOW_NS), NOW_NS)
    assert second.rotation is not None
    newest = second.rotation.root
    there = node("a", newest, (newest,))
    over = after(second, there, node("away", state=NodeState.DOWN))
    assert [roots.digest_of(former.cert_pem) for former in over.former_roots] == [OLD.cert_digest, NEW.cert_digest]
    assert after(over, there, node("away", state=NodeState.DOWN)) is over
    later = after(over, there, node("late", NEW, (NEW,), state=NodeState.DOWN))
    assert [roots.digest_of(former.cert_pem) for former in later.former_roots] == [NEW.cert_digest]
    assert after(over, there).former_roots == ()


def test_what_is_wanted_of_a_node() -> None:
    """At each step: of whom its certificate is to be, and whom it is to trust."""
    assert Wanted.of(BEFORE) == Wanted(issuer=OLD.cert_digest, roots=frozenset({OLD.cert_digest}))
    assert Wanted.of(DURING) == Wanted(issuer=NEW.cert_digest, roots=frozenset({OLD.cert_digest, NEW.cert_digest}))
    over = Wanted.of(after(DURING, moved("a")))
    assert over == Wanted(issuer=NEW.cert_digest, roots=frozenset({NEW.cert_digest}))
    assert over.is_met_by(node("n", NEW, (NEW,)))
    assert not any(over.is_met_by(other) for other in (moved("n"), node("n"), node("n", OLD, (NEW,)), node("n", None)))

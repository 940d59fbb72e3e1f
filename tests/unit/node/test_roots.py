"""A node that is told which root CAs to trust and whose certificate to show; a joiner that trusts only its token."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from handshakes import cluster_of, node, rotated, rotating, signed

from swarmpy.errors import BadCertificate, DeadlineExceeded, NotFound, PermissionDenied
from swarmpy.manager.joining import Certified
from swarmpy.model import codec
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.objects import Cluster
from swarmpy.model.states import Availability, Role
from swarmpy.node import roots as roots_module
from swarmpy.node.certificate import CertificateKeeper
from swarmpy.node.clock import SystemClock
from swarmpy.node.joining import fetch_identity
from swarmpy.node.roots import RootKeeper
from swarmpy.ports import Peer
from swarmpy.security import roots, tokens
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.identity import load_identity, save_identity
from swarmpy.security.tls import Credentials
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcServer

BEFORE = cluster_of()
DURING = rotating(BEFORE)
AFTER = rotated(DURING)


class World:
    """A node with its files, and a leader that answers, or does not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cluster = BEFORE
        self.refusal: Exception | None = None
        self.confirmed: list[tuple[str, list[str]]] = []
        self.renewals = 0
        self.credentials = Credentials(node(BEFORE, "n"))
        save_identity(directory, self.credentials.identity)
        self.certificate = CertificateKeeper(
            data_dir=directory,
            credentials=self.credentials,
            ask_leader=self._renewed,
            manager=lambda: None,
            on_role_change=lambda: None,
            clock=SystemClock(),
            random=random.Random(1),
        )
        self.keeper = RootKeeper(
            credentials=self.credentials,
            renew=self.certificate.renew,
            trust=self.certificate.trust,
            confirm=self._confirmed,
            random=random.Random(1),
        )
        self.certificate.on_change = self.keeper.changed

    async def _renewed(self, method: str, payload: Any) -> Any:
        assert method == "ca.renew"
        assert payload["schema"] == codec.SCHEMA_VERSION
        if self.refusal is not None:
            raise self.refusal
        self.renewals += 1
        certified = Certified(
            node_id=NodeId("n"),
            role=Role.MANAGER,
            cluster_id=ClusterId("c1"),
            cert_pem=issue(
                roots.signing_root(self.cluster),
                payload["csr_pem"],
                node_id=NodeId("n"),
                role=Role.MANAGER,
                cluster_id="c1",
                number=self.renewals,
                expiry_ns=10**14,
                now_ns=time.time_ns(),
            ),
            raft=RaftConfig(),
            chain=roots.chain(self.cluster),
            roots=roots.trusted_pem(self.cluster),
        )
        return codec.to_plain(certified)

    async def _confirmed(self, digests: list[str]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.confirmed.append((self.credentials.identity.fingerprint, digests))

    def tell(self, cluster: Cluster) -> None:
        """What the leader of this cluster says."""
        self.cluster = cluster
        self.keeper.told(roots.trusted_pem(cluster), roots.signing_root(cluster).cert_digest)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something to become true; files and memory always agree."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)
        assert load_identity(self.directory) == self.credentials.identity


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A node of the cluster as it was before the change, which runs."""
    monkeypatch.setattr(roots_module, "RETRY_FIRST_S", 0.02)
    made = World(tmp_path)
    task = asyncio.create_task(made.keeper.run())
    await asyncio.sleep(0)
    yield made
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def digests(cluster: Cluster) -> list[str]:
    """Of the roots to be trusted."""
    return [root.cert_digest for root in roots.trusted(cluster)]


async def test_a_change_from_the_first_step_to_the_last(world: World) -> None:
    """A new certificate with its chain and both roots; then the new root alone, with the same certificate."""
    world.tell(DURING)
    await world.until(lambda: world.confirmed)
    identity = world.credentials.identity
    assert identity.is_of(roots.signing_root(DURING).cert_pem)
    assert roots.split(identity.chain_pem) == roots.chain(DURING)
    assert world.confirmed == [(identity.fingerprint, digests(DURING))]
    world.tell(AFTER)
    await world.until(lambda: len(world.confirmed) == 2)
    assert world.confirmed[1] == (identity.fingerprint, digests(AFTER))
    assert world.credentials.identity == attrs.evolve(identity, ca_pem=AFTER.root_ca.cert_pem)
    assert world.renewals == 1


async def test_who_was_away_takes_all_steps_at_once(world: World) -> None:
    """It is told of the new root alone, and needs the old one until it has another certificate."""
    world.tell(AFTER)
    await world.until(lambda: world.confirmed)
    assert world.confirmed == [(world.credentials.identity.fingerprint, digests(AFTER))]
    assert world.renewals == 1


async def test_what_is_done_already_is_confirmed_all_the_same(world: World) -> None:
    """Who tells it does not know it."""
    world.tell(BEFORE)
    await world.until(lambda: world.confirmed)
    assert world.confirmed == [(world.credentials.identity.fingerprint, digests(BEFORE))]
    assert world.renewals == 0
    world.tell(BEFORE)
    await world.until(lambda: len(world.confirmed) == 2)


async def test_a_renewal_that_was_due_is_confirmed(world: World) -> None:
    """Nobody asked for it."""
    await world.certificate.renew()
    await world.until(lambda: world.confirmed)
    assert world.confirmed == [(world.credentials.identity.fingerprint, digests(BEFORE))]
    assert world.renewals == 1


async def test_what_was_told_is_done_once_only(world: World) -> None:
    """A renewal of later, by another root than the one that was told of long ago, is not undone."""
    world.tell(DURING)
    await world.until(lambda: world.confirmed)
    world.cluster = rotating(AFTER)
    await world.certificate.renew()
    await world.until(lambda: len(world.confirmed) == 2)
    await asyncio.sleep(0.1)
    assert world.renewals == 2
    assert world.confirmed[1] == (world.credentials.identity.fingerprint, digests(world.cluster))


async def test_it_is_tried_until_it_succeeds_and_says_why_it_does_not(world: World) -> None:
    """The reason is told with the node's problems, and gone when it has worked."""
    world.refusal = DeadlineExceeded("no leader answered")
    before = world.credentials.identity
    world.tell(DURING)
    await world.until(lambda: world.keeper.problem)
    assert world.keeper.problem == "this node does not follow the change of the root CA: no leader answered"
    assert world.credentials.identity == before
    world.refusal = None
    await world.until(lambda: world.confirmed)
    await world.until(lambda: not world.keeper.problem)
    assert world.renewals == 1


async def test_a_leader_of_an_older_version_is_not_asked_again(world: World) -> None:
    """It does not know the question; another one will ask for it."""
    world.refusal = NotFound("no call method 'ca.confirm' on this node")
    world.tell(BEFORE)
    await world.until(lambda: world.keeper._confirmed)
    assert world.keeper.problem == ""
    world.refusal = None
    world.tell(BEFORE)
    await world.until(lambda: world.confirmed)


async def test_roots_without_the_one_it_lives_by_are_not_taken(world: World) -> None:
    """It would not accept itself: nothing changes, and it says so."""
    stranger = create_root_ca(time.time_ns())
    before = world.credentials.identity
    world.keeper.told((stranger.cert_pem,), "")
    await world.until(lambda: world.keeper.problem)
    assert "not signed by the cluster's root CA" in world.keeper.problem
    assert world.credentials.identity == before
    world.tell(DURING)
    await world.until(lambda: not world.keeper.problem)


# -- joining while the root is changed --------------------------------------------------------------------------------


class Door:
    """A manager that joiners call at, and what they get from it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.shown_roots = list(roots.trusted_pem(cluster))
        self.first_root = cluster.root_ca.cert_pem
        self.identity = node(cluster, "manager")
        self.tokens_seen: list[str] = []

    async def root(self, _peer: Peer, _payload: Any) -> Any:
        """``ca.root``."""
        return {"cert_pem": self.first_root, "roots": self.shown_roots}

    async def join(self, _peer: Peer, payload: Any) -> Any:
        """``ca.join``."""
        self.tokens_seen.append(payload["token"])
        if tokens.parse_token(payload["token"]).ca_digest != self.cluster.root_ca.cert_digest:
            raise PermissionDenied(tokens.INVALID)
        _, cert_pem = signed(roots.signing_root(self.cluster), node_id="joiner", csr_pem=payload["csr_pem"])
        certified = Certified(
            node_id=NodeId("joiner"),
            role=Role.WORKER,
            cluster_id=ClusterId("c1"),
            cert_pem=cert_pem,
            raft=RaftConfig(),
            chain=roots.chain(self.cluster),
            roots=roots.trusted_pem(self.cluster),
        )
        return codec.to_plain(certified)

    async def join_with(self, digest: str) -> Any:
        """What becomes of a joiner whose token names the root of this digest."""
        router = Router()
        router.call("ca.root", self.root, None)
        router.call("ca.join", self.join, None)
        server = RpcServer(router, Credentials(self.identity), host="127.0.0.1", port=0)
        await server.start()
        try:
            token = tokens.make_token(digest, random.Random(1))
            return await fetch_identity(
                [server.address],
                token,
                hostname="joiner",
                availability=Availability.ACTIVE,
                random=random.Random(3),
                patience_s=0,
            )
        finally:
            await server.stop()


async def test_a_token_of_before_is_good_until_the_change_is_over() -> None:
    """The manager shows a certificate of the new root; the joiner trusts it by the chain, and then both roots."""
    identity, _ = await Door(DURING).join_with(BEFORE.root_ca.cert_digest)
    assert identity.roots == tuple(digests(DURING))
    assert identity.is_of(roots.signing_root(DURING).cert_pem)
    assert roots.split(identity.chain_pem) == roots.chain(DURING)
    with pytest.raises(BadCertificate, match="of before the root CA was changed"):
        await Door(AFTER).join_with(BEFORE.root_ca.cert_digest)
    identity, _ = await Door(AFTER).join_with(AFTER.root_ca.cert_digest)
    assert identity.roots == tuple(digests(AFTER))


async def test_a_manager_that_is_behind_is_known_by_the_new_root_too() -> None:
    """It has not heard of the end of the change yet: the joiner finds the root of its token among those it is shown."""
    door = Door(DURING)
    with pytest.raises(PermissionDenied, match="invalid join token"):
        await door.join_with(AFTER.root_ca.cert_digest)
    assert len(door.tokens_seen) == 1


async def test_a_joiner_trusts_the_root_of_its_token_and_no_other_that_it_is_shown() -> None:
    """Somebody in between shows the right root beside his own: he gets no token."""
    evil = cluster_of()
    door = Door(evil)
    for shown, first in (
        ([evil.root_ca.cert_pem, BEFORE.root_ca.cert_pem], evil.root_ca.cert_pem),
        ([BEFORE.root_ca.cert_pem, evil.root_ca.cert_pem], BEFORE.root_ca.cert_pem),
        ([BEFORE.root_ca.cert_pem + evil.root_ca.cert_pem], BEFORE.root_ca.cert_pem + evil.root_ca.cert_pem),
    ):
        door.shown_roots, door.first_root = shown, first
        with pytest.raises(BadCertificate):
            await door.join_with(BEFORE.root_ca.cert_digest)
    assert door.tokens_seen == []

"""Joining with tokens that are right, wrong, old and repeated, at a real store that commits at once."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from manager_world import ROOT, MovedClock, make_store
from structlog.testing import capture_logs

from swarmpy.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotLeader,
    PermissionDenied,
    ProtocolViolation,
    SwarmpyError,
    Unavailable,
)
from swarmpy.manager import joining
from swarmpy.manager.joining import Certified, JoinCall, Registrar
from swarmpy.model import codec
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import tokens
from swarmpy.security.ca import create_root_ca
from swarmpy.security.identity import new_key_and_csr
from swarmpy.store.memory import Store

CSR = new_key_and_csr()[1]


@attrs.define
class Office:
    """A leader that certifies, and who comes to it."""

    registrar: Registrar
    store: Store
    clock: MovedClock
    leads: bool = True

    async def join(self, token: str, *, host: str = "10.0.0.7", csr_pem: bytes = CSR, **more: Any) -> Certified:
        """What a joiner at ``host`` gets."""
        payload = codec.to_plain(JoinCall(token=token, csr_pem=csr_pem, schema=codec.SCHEMA_VERSION, **more))
        return codec.from_plain(Certified, await self.ask(payload, host=host))

    async def ask(self, payload: Any, host: str = "10.0.0.7") -> Any:
        """The answer to any payload."""
        return await self.registrar.join(Peer(address=f"{host}:40000"), payload)

    async def refused(self, token: str, host: str = "10.0.0.7") -> str:
        """Why a joiner is not let in."""
        with pytest.raises((PermissionDenied, Unavailable)) as caught:
            await self.join(token, host=host)
        return caught.value.message

    @property
    def tokens(self) -> Any:
        """The tokens in force."""
        return self.store.view().cluster().join_tokens

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self.store.view().nodes())


@pytest.fixture
async def office() -> Office:
    """A leader with an empty cluster."""
    clock = MovedClock()
    store, _ = await make_store(clock)
    office: list[Office] = []

    def require_leader() -> None:
        if not office[0].leads:
            raise NotLeader

    registrar = Registrar(
        store=store,
        clock=clock,
        random=random.Random(1),
        managers=tuple,
        require_leader=require_leader,
    )
    office.append(Office(registrar, store, clock))
    return office[0]


async def rotate(office: Office) -> None:
    """Both tokens are others now."""
    fresh = tokens.make_tokens(ROOT.cert_digest, random.Random(9))
    await office.store.update(lambda tx: tx.update(attrs.evolve(tx.cluster(), join_tokens=fresh)))


async def test_each_token_gives_its_role(office: Office) -> None:
    """A node of that role is there."""
    for token, role in ((office.tokens.worker, Role.WORKER), (office.tokens.manager, Role.MANAGER)):
        certified = await office.join(token, csr_pem=new_key_and_csr()[1])
        assert certified.role is role
        node = office.store.view().node(certified.node_id)
        assert node is not None
        assert node.spec.role is role


async def test_a_wrong_token_is_wrong_and_nothing_else(office: Office) -> None:
    """Whether it was right once, or is half right, or of another cluster, or of the other role's half: one text."""
    old = office.tokens
    await rotate(office)
    right = office.tokens
    other = tokens.make_tokens(create_root_ca(10**18).cert_digest, random.Random(3))
    wrong = [
        old.worker,
        old.manager,
        other.worker,
        other.manager,
        right.worker[:-1] + ("a" if right.worker[-1] != "a" else "b"),
        right.manager[:-1] + ("a" if right.manager[-1] != "a" else "b"),
        right.worker.upper(),
        right.worker + "0",
        "",
        "\x00",
        "SWMTKN-1-é",
    ]
    texts = {await office.refused(token, host=f"10.0.1.{number}") for number, token in enumerate(wrong)}
    assert texts == {tokens.INVALID}
    assert office.nodes == 0


async def test_failures_are_limited_by_where_they_come_from(office: Office) -> None:
    """Ten wrong ones, then one a second; what is too much is not even looked at, and others are not touched."""
    for _ in range(10):
        assert await office.refused("wrong") == tokens.INVALID
    with pytest.raises(Unavailable, match="too many attempts to join from this address have failed"):
        await office.join(office.tokens.worker)
    assert "too many attempts" in await office.refused("wrong")
    assert await office.refused("wrong", host="10.0.0.8") == tokens.INVALID
    office.clock.seconds += 1.0
    assert await office.refused("wrong") == tokens.INVALID
    assert "too many attempts" in await office.refused("wrong")
    office.clock.seconds += 2.0
    assert (await office.join(office.tokens.worker)).role is Role.WORKER


async def test_the_addresses_of_one_network_are_one(office: Office) -> None:
    """Everybody has a whole /64, so that counts as one."""
    for number in range(10):
        await office.refused("wrong", host=f"[2001:db8:1:2::{number:x}]")
    assert "too many" in await office.refused("wrong", host="[2001:db8:1:2:ffff::1]")
    assert await office.refused("wrong", host="[2001:db8:1:3::1]") == tokens.INVALID


async def test_those_who_succeed_are_not_slowed_down(office: Office) -> None:
    """Three hundred machines behind one address join at once, also where somebody has mistyped the token before."""
    for _ in range(9):
        await office.refused("wrong")
    for _ in range(300):
        await office.join(office.tokens.worker, csr_pem=new_key_and_csr()[1])
    assert office.nodes == 300


async def test_failures_fill_neither_log_nor_memory(office: Office) -> None:
    """From one address a few lines; from thousands, some; and no table grows with them."""
    with capture_logs() as logs:
        for _ in range(1000):
            await office.refused("wrong")
        for number in range(6000):
            await office.refused("wrong", host=f"10.{number >> 8}.{number & 255}.1")
    assert {line["event"] for line in logs} == {"join_refused"}
    assert len(logs) <= 20
    assert "wrong" not in str(logs)


async def test_a_repeated_request_makes_one_node(office: Office) -> None:
    """The same request again and again, by whoever has it: one node, one certificate, nothing written."""
    first = await office.join(office.tokens.worker, hostname="h")
    version = office.store.version
    for number in range(50):
        assert await office.join(office.tokens.worker, hostname="h", host=f"10.0.2.{number}") == first
    assert (office.nodes, office.store.version) == (1, version)


async def test_a_repeated_request_gives_nothing_that_was_taken(office: Office) -> None:
    """Neither with a token that counts no more nor for a node that was removed is the old answer given."""
    token = office.tokens.worker
    first = await office.join(token)
    await rotate(office)
    assert await office.refused(token) == tokens.INVALID
    again = await office.join(office.tokens.worker)
    assert again.node_id != first.node_id
    await office.store.update(lambda tx: tx.delete(tx.node(again.node_id)))
    assert (await office.join(office.tokens.worker)).node_id not in (first.node_id, again.node_id)


async def test_answers_are_remembered_for_a_while(office: Office) -> None:
    """And no more than so many of them."""
    first = await office.join(office.tokens.worker)
    office.clock.seconds += 601
    assert await office.join(office.tokens.worker) != first
    assert office.nodes == 2


async def test_a_token_makes_so_many_nodes(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a token cannot fill the managers' memory with nodes; the error says what to do."""
    monkeypatch.setattr(joining, "MAX_NODES", 3)
    for _ in range(3):
        await office.join(office.tokens.worker, csr_pem=new_key_and_csr()[1])
    with pytest.raises(FailedPrecondition, match=r"as many as it takes: remove those that are gone"):
        await office.join(office.tokens.worker, csr_pem=new_key_and_csr()[1])
    assert office.nodes == 3


@pytest.mark.parametrize("hostname", ["x" * 256, "a\nb", "a\x1b[31mred", "a\x00b", "\u202eabc"])
async def test_a_hostname_is_a_word_in_a_table(office: Office, hostname: str) -> None:
    """It is shown on terminals, and stored by every manager."""
    with pytest.raises(InvalidArgument, match="hostname of this node"):
        await office.join(office.tokens.worker, hostname=hostname)
    assert office.nodes == 0


@pytest.mark.parametrize("csr_pem", [b"", b"x" * 100_000, b"-----BEGIN CERTIFICATE REQUEST-----\n", CSR[:-40]])
async def test_a_request_that_is_none_makes_no_node(office: Office, csr_pem: bytes) -> None:
    """The holder of a token has to ask properly, too."""
    with pytest.raises(InvalidArgument):
        await office.join(office.tokens.worker, csr_pem=csr_pem)
    assert office.nodes == 0


@pytest.mark.parametrize("payload", [None, 7, [], {}, {"token": 1}, {"token": "x", "csr_pem": 10**12}])
async def test_junk_is_a_failure_like_others(office: Office, payload: Any) -> None:
    """It is refused by type, and counted."""
    for _ in range(10):
        with pytest.raises(ProtocolViolation):
            await office.ask(payload)
    with pytest.raises(Unavailable, match="too many attempts"):
        await office.ask(payload)


async def test_only_the_leader_looks_at_tokens(office: Office) -> None:
    """Others say so, whatever the token is, and count nothing."""
    office.leads = False
    for _ in range(20):
        with pytest.raises(NotLeader):
            await office.join("wrong")
    office.leads = True
    assert await office.refused("wrong") == tokens.INVALID


async def test_no_text_quotes_a_secret(office: Office) -> None:
    """Neither errors nor logs have a token in them."""
    secret = office.tokens.manager.rsplit("-", 1)[1]
    almost = office.tokens.manager + "x"
    with capture_logs() as logs:
        for _ in range(12):
            with pytest.raises(SwarmpyError) as caught:
                await office.join(almost)
            assert secret not in caught.value.message
        office.clock.seconds += 60
        await office.join(office.tokens.manager)
    assert secret not in str(logs)

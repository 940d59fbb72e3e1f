"""Somebody else answers where a manager should: the joiner sends nothing secret, and says what is wrong."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives import serialization

from swarmpy.errors import BadCertificate, SwarmpyError
from swarmpy.model import codec
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Availability, Role
from swarmpy.node.joining import fetch_identity
from swarmpy.ports import Peer
from swarmpy.security import tokens
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.certificates import load_certificate
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.tls import Credentials
from swarmpy.wire.router import Router
from swarmpy.wire.rpc import RpcServer

TRUE, FALSE = create_root_ca(time.time_ns()), create_root_ca(time.time_ns())
TOKEN = tokens.make_token(TRUE.cert_digest, random.Random(1))
SECRET = TOKEN.rsplit("-", 1)[1]


def credentials(root: RootCA, role: Role = Role.MANAGER) -> Credentials:
    """What a node of the cluster of ``root`` shows; both clusters have the same names."""
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = issue(
        root,
        csr_pem,
        node_id=NodeId("n" * 25),
        role=role,
        cluster_id="cluster",
        expiry_ns=3600 * 10**9,
        now_ns=time.time_ns(),
    )
    return Credentials(NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem))


@attrs.define
class Man:
    """Answers as a manager, with whatever it likes; keeps what it is sent."""

    shows: Credentials
    root: Any
    heard: list[Any] = attrs.Factory(list)
    server: RpcServer | None = None

    async def on_root(self, _: Peer, payload: Any) -> Any:
        self.heard.append(payload)
        return self.root

    async def on_join(self, _: Peer, payload: Any) -> Any:
        self.heard.append(payload)
        raise SwarmpyError("thank you")


MeetMan = Callable[..., Awaitable[tuple[str, Man]]]


@pytest.fixture
async def meet() -> AsyncIterator[MeetMan]:
    """Makes a man in the middle; gives where he listens."""
    servers = []

    async def make(root: Any, shows: Credentials) -> tuple[str, Man]:
        man = Man(shows, root)
        router = Router()
        router.call("ca.root", man.on_root, None)
        router.call("ca.join", man.on_join, None)
        server = RpcServer(router, shows, host="127.0.0.1", port=0)
        await server.start()
        servers.append(server)
        return server.address, man

    yield make
    for server in servers:
        await server.stop()


async def join(address: str) -> Any:
    """What a joiner gets."""
    async with asyncio.timeout(20):
        return await fetch_identity(
            [address], TOKEN, hostname="h", availability=Availability.ACTIVE, random=random.Random(1)
        )


ROOTS = {
    "his own": FALSE.cert_pem,
    "his own before the true one": FALSE.cert_pem + TRUE.cert_pem,
    "the true one, which he has no certificate of": TRUE.cert_pem,
    "his own behind the true one": TRUE.cert_pem + FALSE.cert_pem,
    "his own behind the true one, with words between": TRUE.cert_pem + b"\nany words\n" + FALSE.cert_pem,
    "the true one in binary, and his own": load_certificate(TRUE.cert_pem).public_bytes(serialization.Encoding.DER)
    + FALSE.cert_pem,
}


@pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS.keys())
@pytest.mark.parametrize("place", ["cert_pem", "roots"])
async def test_nothing_secret_is_sent_to_another_cluster(meet: MeetMan, root: bytes, place: str) -> None:
    """Whichever root he shows, or roots: only the question for it was ever sent, and the error is of certificates."""
    answer = (
        {"cert_pem": root} if place == "cert_pem" else {"cert_pem": FALSE.cert_pem, "roots": [root, FALSE.cert_pem]}
    )
    address, man = await meet(answer, credentials(FALSE))
    with pytest.raises(BadCertificate) as caught:
        await join(address)
    assert man.heard == [None]
    assert SECRET not in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_wrong_root_is_told_in_dockers_words(meet: MeetMan) -> None:
    """The operator sees which of the two does not fit, and what may be the matter."""
    address, _ = await meet({"cert_pem": FALSE.cert_pem}, credentials(FALSE))
    with pytest.raises(BadCertificate, match="fingerprint in the join token: the token is of another cluster"):
        await join(address)


async def test_a_worker_of_the_cluster_is_no_manager_to_a_joiner(meet: MeetMan) -> None:
    """A worker with a true certificate does not get to see tokens by listening."""
    address, man = await meet({"cert_pem": TRUE.cert_pem}, credentials(TRUE, Role.WORKER))
    with pytest.raises(BadCertificate, match="is not a manager"):
        await join(address)
    assert man.heard == [None]


@pytest.mark.parametrize(
    "root",
    [
        None,
        7,
        [],
        {"cert_pem": 10**12},
        {"cert_pem": "text"},
        {"cert_pem": b""},
        {"cert_pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
        {"cert_pem": b"\x30\x82" * 40_000},
        {"cert_pem": TRUE.cert_pem[:-100]},
        {"cert_pem": b"x" * 3_000_000},
    ],
    ids=lambda root: codec.pack(root)[:12].hex(),
)
async def test_an_answer_that_is_none_is_one_line(meet: MeetMan, root: Any) -> None:
    """Whatever the answer is, it is a typed error of one line, and nothing secret was sent."""
    address, man = await meet(root, credentials(FALSE))
    with pytest.raises(SwarmpyError) as caught:
        await join(address)
    assert man.heard == [None]
    assert len(caught.value.message) < 500
    assert "\n" not in caught.value.message

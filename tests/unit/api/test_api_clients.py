"""Client certificates as transactions: what is in the cluster's state counts, and nothing else."""

from __future__ import annotations

import ssl
from typing import Any

import attrs
import pytest
from api_world import World, ask, decoded, request

from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound
from swarmpy.manager import clients
from swarmpy.manager.clients import find_clients, give_client, revoke_client
from swarmpy.model.objects import ClientCertificate
from swarmpy.model.states import ApiRole
from swarmpy.security.api_certificates import read_client
from swarmpy.security.certificates import check_issued_by, load_certificate
from swarmpy.security.identity import new_key_and_csr

HOUR_NS = 3600 * 1_000_000_000
_, CSR = new_key_and_csr()


@pytest.fixture
async def world() -> World:
    """Two managers that read of clients; m1 leads."""
    world = World("m1", "m2")
    world.elect("m1")
    await world.found(schema=6)
    return world


async def given(world: World, name: str = "alice", role: ApiRole = ApiRole.ADMIN, expiry_ns: int = HOUR_NS) -> str:
    """The serial number of a new certificate."""
    pem = await give_client(world.leader.store, CSR, name=name, role=role, expiry_ns=expiry_ns)
    return read_client(ssl.PEM_cert_to_DER_cert(pem.decode())).serial


def known(world: World, name: str = "m2") -> dict[str, ClientCertificate]:
    """Those that count, as a manager sees it."""
    return world.manager(name).store.view().cluster().clients


async def test_a_certificate_that_is_given_counts_on_every_manager(world: World) -> None:
    """Signed by the CA, and remembered with its name, role and end."""
    serial = await given(world, role=ApiRole.VIEWER)
    (entry,) = known(world).items()
    assert entry[0] == serial
    assert (entry[1].name, entry[1].role) == ("alice", ApiRole.VIEWER)
    assert abs(entry[1].not_after_ns - entry[1].issued_at_ns - HOUR_NS) <= 1_000_000_000


async def test_taking_back(world: World) -> None:
    """By serial number, by name (all of it), or by the beginning of a serial number; what is not there is said so."""
    first, second, third = await given(world), await given(world), await given(world, "bob")
    assert sorted(find_clients(world.leader.store.view().cluster(), "alice")) == sorted([first, second])
    await revoke_client(world.leader.store, first)
    assert sorted(known(world)) == sorted([second, third])
    await revoke_client(world.leader.store, third[:30].upper())
    assert list(known(world)) == [second]
    await given(world)
    await revoke_client(world.leader.store, "alice")
    assert known(world) == {}
    for reference in ("alice", first, ""):
        with pytest.raises(NotFound, match=r"client certificate .*not found"):
            await revoke_client(world.leader.store, reference)


async def test_a_beginning_that_means_two_is_refused(world: World) -> None:
    """Rather than taking back another one than was meant."""
    cluster = world.leader.store.view().cluster()
    entry = ClientCertificate(name="x", role=ApiRole.ADMIN, issued_at_ns=1, not_after_ns=2)
    with pytest.raises(InvalidArgument, match="ambiguous"):
        find_clients(attrs.evolve(cluster, clients={"abc1": entry, "abc2": entry}), "abc")


async def test_there_are_not_any_number_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have run out make room."""
    monkeypatch.setattr(clients, "MAX_CLIENTS", 2)
    await given(world, expiry_ns=60 * 1_000_000_000)
    await given(world)
    with pytest.raises(FailedPrecondition, match="there are 2 client certificates: revoke some"):
        await given(world)
    world.clock.now_ns += 2 * 60 * 1_000_000_000
    serial = await given(world, "bob")
    assert serial in known(world)
    assert len(known(world)) == 2


async def test_not_before_all_managers_read_of_it() -> None:
    """An older manager would stop at what it does not know."""
    world = World("m1", "m2")
    world.elect("m1")
    await world.found()
    with pytest.raises(FailedPrecondition, match="needs schema version 6"):
        await given(world)
    assert known(world) == {}


# -- the API of it --------------------------------------------------------------------------------------------------


async def test_over_the_api(world: World) -> None:
    """Through a follower: made, listed and taken back; the answer has no secret, and is the same when asked again."""
    body = {"Name": "alice", "Role": "viewer", "Expiry": HOUR_NS, "CSR": CSR.decode()}
    asked = attrs.evolve(request("POST", "/swarm/clients/create", body), headers={"idempotency-key": "k"})
    status, made = decoded(await world.apis["m2"].handle(asked))
    assert status == 201
    certificate, ca = load_certificate(made["Certificate"].encode()), load_certificate(made["CA"].encode())
    check_issued_by(certificate, ca)
    assert certificate.public_key() == load_csr_key()
    assert decoded(await world.apis["m1"].handle(asked)) == (201, made)
    _, rows = await ask(world.apis["m1"], "GET", "/swarm/clients")
    assert [(row["ID"], row["Name"], row["Role"]) for row in rows] == [(made["ID"], "alice", "viewer")]
    assert (await ask(world.apis["m2"], "DELETE", "/swarm/clients/alice"))[0] == 200
    assert (await ask(world.apis["m1"], "GET", "/swarm/clients"))[1] == []
    assert (await ask(world.apis["m1"], "DELETE", "/swarm/clients/alice"))[0] == 404


def load_csr_key() -> Any:
    """The public key of the request."""
    from cryptography import x509

    return x509.load_pem_x509_csr(CSR).public_key()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Name": ""}, "is no name for a client certificate"),
        ({"Role": "root"}, "Role: 'root' is neither admin nor viewer"),
        ({"Role": None}, "is neither admin nor viewer"),
        ({"Expiry": 5}, "one minute at least"),
        ({"Expiry": -5}, "Expiry cannot be negative: -5"),
        ({"CSR": "nonsense"}, "malformed certificate request"),
        ({"CSR": 7}, "CSR: expected string"),
        ({"CSR": "x" * 100_000}, "the limit is 65536"),
    ],
)
async def test_requests_that_are_wrong(world: World, change: dict[str, Any], words: str) -> None:
    """Are refused with the reason, and nothing is made."""
    body = {"Name": "alice", "Role": "viewer", "CSR": CSR.decode(), **change}
    status, answer = await ask(world.apis["m1"], "POST", "/swarm/clients/create", body)
    assert status == 400
    assert words in answer["message"]
    assert known(world) == {}

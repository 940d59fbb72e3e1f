"""The API over TCP: real TLS connections, and certificates that come, go and run out while they are open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from api_world import BenchManager, BenchNode, World, api_of
from cryptography import x509
from key_updates import DATA, Caller
from structlog.testing import capture_logs

from swarmpy.api.connection import Limits
from swarmpy.api.listener import Rate
from swarmpy.api.sparing import Sparing
from swarmpy.api.tcp import LOOK_AGAIN_NS, TcpServer
from swarmpy.errors import FailedPrecondition
from swarmpy.manager.clients import give_client, revoke_client
from swarmpy.model.ids import NodeId
from swarmpy.model.states import ApiRole, Role
from swarmpy.security import roots, tls
from swarmpy.security.api_certificates import issue_client
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.certificates import load_certificate
from swarmpy.security.identity import new_key_and_csr

HOUR_NS = 3600 * 1_000_000_000
ROOT = create_root_ca(time.time_ns())
Context = ssl.SSLContext


class RealClock:
    """The machine's clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def time_ns(self) -> int:
        """Nanoseconds since the epoch."""
        return time.time_ns() + self.ahead_ns

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()


@attrs.frozen
class Desk:
    """A manager's API over TCP, and who comes to it."""

    world: World
    server: TcpServer
    clock: RealClock
    names: list[str]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"https://127.0.0.1:{self.server.port}"

    async def admitted(self, name: str = "alice", role: ApiRole = ApiRole.ADMIN) -> Context:
        """What somebody connects with who has a certificate that counts."""
        key_pem, csr_pem = new_key_and_csr()
        cert_pem = await give_client(self.world.leader.store, csr_pem, name=name, role=role, expiry_ns=HOUR_NS)
        return context(cert_pem, key_pem)

    async def ask(self, shown: Context, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status and JSON of an answer on a connection of its own."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=shown)) as client,
            client.request(method, f"{self.url}{path}", **more) as answer,
        ):
            return answer.status, await answer.json() if answer.content_type == "application/json" else None


def context(cert_pem: bytes, key_pem: bytes, *roots: bytes) -> Context:
    """A client that shows this certificate and trusts these roots."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for root in roots or (ROOT.cert_pem,):
        tls.trust(made, root)
    tls.load_pair(made, cert_pem, key_pem, "a test")
    return made


@contextlib.asynccontextmanager
async def opened(**limits: float) -> AsyncIterator[Desk]:
    """A desk at a leader."""
    clock = RealClock()
    world = World("m1", clock=clock)
    world.elect("m1")
    await world.found(schema=6, root=ROOT)
    names = ["127.0.0.1", "manager.example"]
    server = TcpServer(world.apis["m1"], clock, "127.0.0.1", 0, lambda: names, limits=Limits(**limits))  # type: ignore[arg-type]
    await server.start()
    try:
        yield Desk(world, server, clock, names)
    finally:
        await server.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A desk at a leader."""
    async with opened() as made:
        yield made


@pytest.mark.parametrize("when", ["behind the handshake", "later", "behind a request"])
async def test_changes_of_keys_without_end(desk: Desk, tmp_path: Path, when: str) -> None:
    """Who has a certificate cannot keep the manager busy within TLS: OpenSSL would deal with all that has come
    before it lets anybody else run. A few are taken."""
    shown, many = await desk.admitted("bob", ApiRole.VIEWER), 5000
    head = f"GET /_ping HTTP/1.1\r\nHost: 127.0.0.1:{desk.server.port}\r\n".encode()
    caller = await Caller.connect(
        desk.server.port, shown, tmp_path / "keys", behind=many if when == "behind the handshake" else 2
    )
    if when != "behind the handshake":
        some = [caller.keys.record(DATA, head) + caller.keys.updated(), caller.keys.record(DATA, b"\r\n")]
        caller.writer.write(b"".join(some))
        if when == "later":
            await until(lambda: desk.server.open_connections == 1)
        caller.writer.write(b"".join(caller.keys.updated() for _ in range(many)))
    # Whether the end or what was sent into it comes first, it is the end.
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while await caller.reader.read(65536):
                pass
    await until(lambda: desk.server.open_connections == 0)
    caller.writer.transport.abort()
    assert (await desk.ask(shown, "GET", "/_ping"))[0] == 200


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event, within a deadline."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


SPEC = {"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "busybox"}}}


async def test_admins_may_do_all_and_viewers_look(desk: Desk) -> None:
    """By the role that the state has for the certificate."""
    admin, viewer = await desk.admitted(), await desk.admitted("bob", ApiRole.VIEWER)
    assert (await desk.ask(admin, "POST", "/v1.41/services/create", json=SPEC))[0] == 201
    status, services = await desk.ask(viewer, "GET", "/v1.41/services")
    assert (status, [service["Spec"]["Name"] for service in services]) == (200, ["web"])
    status, answer = await desk.ask(viewer, "DELETE", "/services/web")
    assert status == 403
    assert answer["message"] == "DELETE /services/web is for admins only: the certificate of bob is a viewer's"


# -- certificates that do not count ---------------------------------------------------------------------------------


async def forged(desk: Desk) -> Context:
    """Signed with the CA's own key, behind the cluster's back."""
    key_pem, csr_pem = new_key_and_csr()
    issued = issue_client(
        ROOT,
        csr_pem,
        name="eve",
        role=ApiRole.ADMIN,
        cluster_id="thecluster",
        expiry_ns=HOUR_NS,
        now_ns=time.time_ns(),
    )
    return context(ssl.DER_cert_to_PEM_cert(issued.der).encode(), key_pem)


async def forged_with_a_serial_that_counts(desk: Desk) -> Context:
    """The same, and with the serial number of an admin's: it is no secret, as connections of TLS 1.2 show it."""
    await desk.admitted()
    (serial,) = desk.world.leader.store.view().cluster().clients
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(x509, "random_serial_number", lambda: int(serial, 16))
        return await forged(desk)


async def of_a_manager(desk: Desk) -> Context:
    """A node's, of the highest role."""
    key_pem, csr_pem = new_key_and_csr()
    given = {"node_id": NodeId("m1"), "role": Role.MANAGER, "cluster_id": "thecluster", "expiry_ns": HOUR_NS}
    return context(issue(ROOT, csr_pem, now_ns=time.time_ns(), **given), key_pem)  # type: ignore[arg-type]


async def of_another_cluster(desk: Desk) -> Context:
    """Of a cluster with the same CA: one that was restored elsewhere under another id."""
    made = await desk.admitted()
    cluster = desk.world.leader.store.view().cluster()
    assert len(cluster.clients) == 1
    key_pem, csr_pem = new_key_and_csr()
    issued = issue_client(
        ROOT, csr_pem, name="a", role=ApiRole.ADMIN, cluster_id="another", expiry_ns=HOUR_NS, now_ns=time.time_ns()
    )
    await desk.world.leader.store.update(
        lambda tx: tx.update(attrs.evolve(tx.cluster(), clients={issued.serial: next(iter(cluster.clients.values()))}))
    )
    assert made
    return context(ssl.DER_cert_to_PEM_cert(issued.der).encode(), key_pem)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (forged, "of eve is not one that this cluster knows"),
        (forged_with_a_serial_that_counts, "of eve is not one that this cluster knows"),
        (of_a_manager, "the certificate is a node's, not one of the API's clients"),
        (of_another_cluster, "is not one that this cluster knows"),
    ],
)
async def test_who_does_not_count_is_told_so_and_gets_nothing(
    desk: Desk, make: Callable[[Desk], Any], words: str
) -> None:
    """Not even a ping is answered; what is refused is in the daemon's log."""
    shown = await make(desk)
    with capture_logs() as logs:
        for method, path in (("GET", "/_ping"), ("GET", "/info"), ("POST", "/services/create"), ("GET", "/status")):
            status, answer = await desk.ask(shown, method, path)
            assert (status, words in answer["message"]) == (403, True)
    refused = [line for line in logs if line["event"] == "api_client_refused"]
    assert [line["count"] for line in refused] == [1]
    assert desk.world.leader.store.view().services() == ()


async def test_what_fails_the_handshake(desk: Desk) -> None:
    """Nobody without a certificate, or with one of another CA, is heard; the next one is."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.trust(nobody, ROOT.cert_pem)
    key_pem, csr_pem = new_key_and_csr()
    stranger = create_root_ca(time.time_ns())
    issued = issue_client(
        stranger, csr_pem, name="a", role=ApiRole.ADMIN, cluster_id="c", expiry_ns=HOUR_NS, now_ns=time.time_ns()
    )
    for shown in (nobody, context(ssl.DER_cert_to_PEM_cert(issued.der).encode(), key_pem)):
        with pytest.raises(aiohttp.ClientError):
            await desk.ask(shown, "GET", "/_ping")
    plain = "http" + desk.url.removeprefix("https")
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"{plain}/_ping")
    assert (await desk.ask(await desk.admitted(), "GET", "/_ping"))[0] == 200


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
async def test_who_fails_the_handshake_is_told_why(desk: Desk, most: ssl.TLSVersion) -> None:
    """The docker command shows the alert to its user; without one it would be an end of file."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.maximum_version = most
    tls.trust(nobody, ROOT.cert_pem)

    def look() -> None:
        with (
            socket.create_connection(("127.0.0.1", desk.server.port), timeout=10) as sock,
            nobody.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
        ):
            secured.recv(1)

    with pytest.raises(ssl.SSLError, match=r"(?i)alert (certificate required|handshake failure)"):
        await asyncio.get_running_loop().run_in_executor(None, look)


@contextlib.asynccontextmanager
async def kept(desk: Desk, shown: Context) -> AsyncIterator[Callable[..., Any]]:
    """One connection that stays open; asks on it."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=shown, limit=1)) as client:

        async def ask(path: str = "/info") -> tuple[int, Any]:
            async with client.get(f"{desk.url}{path}") as answer:
                return answer.status, await answer.json()

        assert (await ask())[0] == 200
        yield ask


async def test_a_certificate_that_is_taken_back_counts_no_more_on_open_connections(desk: Desk) -> None:
    """From the next request on."""
    async with kept(desk, await desk.admitted()) as ask:
        await revoke_client(desk.world.leader.store, "alice")
        status, answer = await ask()
        assert (status, "was revoked" in answer["message"]) == (403, True)


async def test_one_that_runs_out_counts_no_more_on_open_connections(desk: Desk) -> None:
    """TLS looks at it only when the connection is made."""
    async with kept(desk, await desk.admitted()) as ask:
        desk.clock.ahead_ns = HOUR_NS
        status, answer = await ask()
        assert (status, "has run out" in answer["message"]) == (403, True)


async def test_the_role_is_the_states(desk: Desk) -> None:
    """What the certificate says of it is for people to read."""
    async with kept(desk, await desk.admitted()) as ask:

        def demote(tx: Any) -> None:
            clients = {s: attrs.evolve(c, role=ApiRole.VIEWER) for s, c in tx.cluster().clients.items()}
            tx.update(attrs.evolve(tx.cluster(), clients=clients))

        await desk.world.leader.store.update(demote)
        assert (await ask("/swarm/backup"))[0] == 403


async def test_a_manager_that_is_behind_lets_nobody_do_anything_who_was_shut_out(desk: Desk) -> None:
    """It may not have heard of it; the leader has, and what changes this node alone waits until it has."""
    shown = await desk.admitted()
    world = desk.world
    world.nodes["m2"] = BenchNode("m2", BenchManager(world, "m2"))
    world.apis["m2"] = api_of(world.nodes["m2"])
    behind, leading = world.manager("m1"), world.manager("m2")
    leading.store.restore_at_once(await behind.store.snapshot())
    world.log.stores = [leading.store]
    world.elect("m2")
    await revoke_client(leading.store, "alice")
    assert len(behind.store.view().cluster().clients) == 1
    status, answer = await desk.ask(shown, "POST", "/services/create", json=SPEC)
    assert (status, "was revoked" in answer["message"]) == (403, True)
    assert leading.store.view().services() == ()
    world.elect(None)
    assert (await desk.ask(shown, "POST", "/swarm/leave?force=1"))[0] == 503
    assert world.nodes["m1"].leaves == []
    # As soon as its state is current it refuses, too: so it is after the barrier.
    behind.store.restore_at_once(await leading.store.snapshot())
    for method, path in (("POST", "/swarm/leave?force=1"), ("GET", "/services")):
        assert (await desk.ask(shown, method, path))[0] == 403


async def test_a_node_that_is_no_manager_lets_nobody_in(desk: Desk) -> None:
    """Neither on open connections nor on new ones; it does again when it is one again."""
    shown = await desk.admitted()
    node = desk.world.nodes["m1"]
    async with kept(desk, shown) as ask:
        manager, node.manager = node.manager, None
        assert (await ask())[0] == 403
        with pytest.raises(aiohttp.ClientError):
            await desk.ask(shown, "GET", "/_ping")
        node.manager = manager
        assert (await desk.ask(shown, "GET", "/_ping"))[0] == 200
        assert (await ask())[0] == 200


# -- the server's own certificate -----------------------------------------------------------------------------------


def served(desk: Desk, shown: Context, name: str = "127.0.0.1") -> Any:
    """The certificate that the server shows."""

    def look() -> Any:
        with (
            socket.create_connection(("127.0.0.1", desk.server.port), timeout=10) as sock,
            shown.wrap_socket(sock, server_hostname=name) as secured,
        ):
            return load_certificate(secured.getpeercert(binary_form=True) or b"")

    return asyncio.get_running_loop().run_in_executor(None, look)


async def test_it_is_renewed_in_time_and_not_before(desk: Desk) -> None:
    """At half of its life, and when the clock was put back behind its beginning."""
    shown = await desk.admitted()
    # OpenSSL does not know of the manager's clock.
    shown.check_hostname, shown.verify_mode = False, ssl.CERT_NONE
    first = await served(desk, shown)
    assert (await served(desk, shown)).serial_number == first.serial_number
    cluster = desk.world.leader.store.view().cluster()
    desk.clock.ahead_ns = cluster.spec.node_cert_expiry_ns // 2 + 60 * 1_000_000_000
    second = await served(desk, shown)
    assert second.serial_number != first.serial_number
    assert second.not_valid_after_utc > first.not_valid_after_utc
    desk.clock.ahead_ns = 0
    assert (await served(desk, shown)).serial_number not in (first.serial_number, second.serial_number)


async def test_it_follows_the_names_of_the_machine(desk: Desk) -> None:
    """A new address is known within a minute, and is then an allowed Host as well."""
    shown = await desk.admitted()
    first = await served(desk, shown)
    desk.names.append("new.example")
    assert (await served(desk, shown)).serial_number == first.serial_number
    desk.clock.ahead_ns = LOOK_AGAIN_NS + 1
    second = await served(desk, shown, "new.example")
    assert second.serial_number != first.serial_number
    assert (await desk.ask(shown, "GET", "/_ping", headers={"Host": "new.example:2376"}))[0] == 200


async def test_it_follows_the_root_ca(desk: Desk) -> None:
    """While the root is changed, clients of both are let in and know the server; then only those of the new one."""
    old = await desk.admitted()
    new_root = create_root_ca(time.time_ns())
    store = desk.world.leader.store
    await store.update(lambda tx: tx.update(roots.begun(tx.cluster(), new_root, time.time_ns())))
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = await give_client(store, csr_pem, name="new", role=ApiRole.ADMIN, expiry_ns=HOUR_NS)
    new = context(cert_pem, key_pem, new_root.cert_pem)
    for shown in (old, new):
        assert (await desk.ask(shown, "GET", "/_ping"))[0] == 200
    await store.update(
        lambda tx: tx.update(roots.finished(tx.cluster(), tx.cluster().join_tokens, time.time_ns() + HOUR_NS))
    )
    assert (await desk.ask(new, "GET", "/_ping"))[0] == 200
    # The server it knows still, by the cross-signed certificate; it is the server that does not take its certificate.
    with pytest.raises(aiohttp.ClientError, match=r"(?i)alert unknown ca"):
        await desk.ask(old, "GET", "/_ping")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "127.0.0.2", "localhost", ""])
async def test_other_host_names_are_refused(desk: Desk, host: str) -> None:
    """A name that somebody points at this machine is none of its own."""
    status, answer = await desk.ask(await desk.admitted(), "GET", "/info", headers={"Host": host})
    assert status in (400, 403)
    if host:
        assert "goes by other names" in answer["message"]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_pages_in_a_browser_that_has_a_certificate(desk: Desk, headers: dict[str, str]) -> None:
    """The browser shows the user's certificate to this server, whoever's page asked for it."""
    shown = await desk.admitted()
    for method, path in (("POST", "/swarm/leave?force=1"), ("GET", "/swarm")):
        assert (await desk.ask(shown, method, path, headers=headers))[0] == 403
    assert desk.world.nodes["m1"].leaves == []


async def test_an_address_that_is_taken(desk: Desk) -> None:
    """It is named."""
    second = TcpServer(desk.world.apis["m1"], desk.clock, "127.0.0.1", desk.server.port, lambda: ["x"])
    with pytest.raises(FailedPrecondition, match=f"cannot serve the API on 127.0.0.1:{desk.server.port}"):
        await second.start()


# -- floods ---------------------------------------------------------------------------------------------------------


async def test_connections_that_never_shake_hands_do_not_keep_others_out() -> None:
    """They are ended in time, and no more of them are held than are allowed."""
    async with opened(handshakes=4, handshake_s=1.0, handshakes_per_s=1000) as desk:
        shown = await desk.admitted()
        with contextlib.ExitStack() as stack:
            for _ in range(12):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", desk.server.port))
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        if (await desk.ask(shown, "GET", "/_ping"))[0] == 200:
                            break
                    await asyncio.sleep(0.05)


async def test_one_client_does_not_take_all_the_connections() -> None:
    """A viewer who opens as many as he can keeps no admin out."""
    async with opened(connections=20, per_client=5, handshakes_per_s=1000) as desk:
        viewer, admin = await desk.admitted("bob", ApiRole.VIEWER), await desk.admitted()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(12):
                connector = aiohttp.TCPConnector(ssl=viewer)
                client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.get(f"{desk.url}/_ping") as answer:
                        assert answer.status == 200
            assert desk.server.open_connections <= 5
            assert (await desk.ask(admin, "GET", "/_ping"))[0] == 200


def test_a_flood_does_not_fill_the_log() -> None:
    """The first is told, and then from time to time how many there were."""
    sparing = Sparing(10.0)
    assert [sparing.count(now) for now in (0.0, 0.1, 9.9, 10.0, 10.1, 50.0)] == [1, 0, 0, 3, 0, 2]


def test_handshakes_have_a_rate() -> None:
    """So many a second in the long run, and twice as many after a rest; time that stands still brings none."""

    def taken(rate: Rate, times: Iterable[float]) -> int:
        return sum(rate.take(now) for now in times)

    rate = Rate(8.0, 0.0)
    assert taken(rate, [0.0] * 100) == 16
    assert taken(rate, [0.0] * 100) == 0
    assert taken(rate, (n / 64 for n in range(1, 641))) == 80
    assert taken(rate, [1000.0] * 100) == 16

"""When a certificate is renewed, and what becomes of one that could not be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from swarmpy.errors import CertificateRevoked, NotLeader, ProtocolViolation
from swarmpy.manager.joining import Certified
from swarmpy.model import codec
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.ids import ClusterId, NodeId
from swarmpy.model.states import Role
from swarmpy.node import certificate
from swarmpy.node.certificate import CertificateKeeper, Due
from swarmpy.security import ca
from swarmpy.security.certificates import SKEW_NS
from swarmpy.security.identity import NodeIdentity, csr_for, load_identity, new_key_and_csr, save_identity
from swarmpy.security.tls import Credentials

NS = 10**9
HALF_HOUR_NS = 1800 * NS
NOW_NS = 1_790_000_000 * NS
ROOT = ca.create_root_ca(NOW_NS)
DEADLINE_S = 10.0


class TwoClocks:
    """The one on the wall may be set."""

    def __init__(self, now_ns: int = NOW_NS) -> None:
        self.wall_ns = now_ns
        self.seconds = 500.0

    def time_ns(self) -> int:
        """As set."""
        return self.wall_ns

    def monotonic(self) -> float:
        """Never back."""
        return self.seconds

    def pass_s(self, seconds: float) -> None:
        """Time passes on both."""
        self.seconds += seconds
        self.wall_ns += int(seconds * NS)


class Cluster:
    """A leader that answers, or does not, and the node that asks."""

    def __init__(self, directory: Path, clock: TwoClocks, *, expiry_ns: int, issued_ns: int) -> None:
        self.directory = directory
        self.clock = clock
        self.leader_ahead_ns = 0
        self.expiry_ns = expiry_ns
        self.role = Role.WORKER
        self.node_id = NodeId("n")
        self.refusal: Exception | None = None
        self.asked: list[float] = []
        self.keys: list[bytes] = []
        self.role_changes = 0
        key_pem, csr_pem = new_key_and_csr()
        self.credentials = Credentials(self._identity(key_pem, csr_pem, issued_ns))
        save_identity(directory, self.credentials.identity)
        self.keeper = self.new_keeper()

    def new_keeper(self, manager: Callable[[], Any] = lambda: None) -> CertificateKeeper:
        """As after a start of the daemon."""
        return CertificateKeeper(
            data_dir=self.directory,
            credentials=self.credentials,
            ask_leader=self._answer,
            manager=manager,
            on_role_change=self._changed,
            clock=self.clock,
            random=random.Random(len(self.asked)),
        )

    def _changed(self) -> None:
        self.role_changes += 1

    def _certify(self, csr_pem: bytes, now_ns: int) -> bytes:
        return ca.issue(
            ROOT, csr_pem, node_id=self.node_id, role=self.role, cluster_id="c", expiry_ns=self.expiry_ns, now_ns=now_ns
        )

    def _identity(self, key_pem: bytes, csr_pem: bytes, now_ns: int) -> NodeIdentity:
        cert_pem = self._certify(csr_pem, now_ns)
        return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=ROOT.cert_pem)

    async def _answer(self, method: str, payload: Any) -> Any:
        assert method == "ca.renew"
        self.asked.append(self.clock.seconds)
        self.keys.append(ca.public_key_der(ca.public_key_of(payload["csr_pem"])))
        if self.refusal is not None:
            raise self.refusal
        cert_pem = self._certify(payload["csr_pem"], self.clock.wall_ns + self.leader_ahead_ns)
        return codec.to_plain(
            Certified(
                node_id=self.node_id, role=self.role, cluster_id=ClusterId("c"), cert_pem=cert_pem, raft=RaftConfig()
            )
        )

    @property
    def identity(self) -> NodeIdentity:
        """What the node shows."""
        return self.credentials.identity


@pytest.fixture
def clock() -> TwoClocks:
    """At the time of issue."""
    return TwoClocks()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the clock, which the test moves, all the time."""
    monkeypatch.setattr(certificate, "LOOK_S", 0.001)


@pytest.fixture
def running(fast: None) -> Any:
    """Runs a keeper while the test moves the clock."""

    class Running:
        def __init__(self, keeper: CertificateKeeper) -> None:
            self._keeper = keeper

        async def __aenter__(self) -> Self:
            self._task = asyncio.create_task(self._keeper.run())
            return self

        async def __aexit__(self, *exc: object) -> None:
            self._task.cancel()
            await asyncio.wait([self._task])

    return Running


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the keeper does."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def settled() -> None:
    """The keeper has looked at its clock, and more than once."""
    for _ in range(20):
        await asyncio.sleep(0.001)


def half_hours(directory: Path, clock: TwoClocks, issued_ns: int = NOW_NS) -> Cluster:
    """Certificates of the shortest life."""
    return Cluster(directory, clock, expiry_ns=HALF_HOUR_NS, issued_ns=issued_ns)


def test_the_earlier_of_two_clocks_counts(clock: TwoClocks) -> None:
    """One is set, and one stands still while the machine sleeps."""
    due = Due.within(100.0, clock)
    assert due.left_s(clock) == 100.0
    clock.wall_ns += 30 * NS
    assert due.left_s(clock) == 70.0
    clock.wall_ns -= 3600 * NS
    assert due.left_s(clock) == 100.0
    clock.seconds += 99.0
    assert due.left_s(clock) == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_renewal_is_due_between_half_and_four_fifths_of_the_life(tmp_path: Path, clock: TwoClocks, seed: int) -> None:
    """Counted from the issue, not from the hour before it that the certificate is valid from already."""
    cluster = half_hours(tmp_path, clock)
    cluster.asked = [0.0] * seed
    keeper = cluster.new_keeper()
    assert 900 <= keeper._due.left_s(clock) <= 1440
    clock.pass_s(800)
    assert 100 <= keeper._due.left_s(clock) <= 640


async def test_short_lives_are_renewed_again_and_again_and_no_more_often(
    tmp_path: Path, clock: TwoClocks, running: Any
) -> None:
    """Half-hour certificates: every 15 to 24 minutes, each saved and shown before the one before has ended."""
    cluster = half_hours(tmp_path, clock)
    async with running(cluster.keeper):
        for _ in range(6):
            before, since = cluster.identity, len(cluster.asked)
            clock.pass_s(899)
            await settled()
            assert len(cluster.asked) == since
            clock.pass_s(1440 - 899)
            await until(lambda before=before: cluster.identity is not before)
            assert not before.is_expired(clock.wall_ns)
            assert load_identity(tmp_path) == cluster.identity
            await settled()
            assert len(cluster.asked) == since + 1
    assert len(set(cluster.keys)) == 6
    assert cluster.role_changes == 0


@pytest.mark.parametrize("ahead_h", [-1, 1])
async def test_a_leader_an_hour_off_makes_no_storm(
    tmp_path: Path, clock: TwoClocks, running: Any, ahead_h: int
) -> None:
    """By its own clock a node got its certificate just now, whatever the time in it. After a start it may ask once."""
    cluster = half_hours(tmp_path, clock, issued_ns=NOW_NS + ahead_h * 3600 * NS)
    cluster.leader_ahead_ns = ahead_h * 3600 * NS
    async with running(cluster.keeper):
        if ahead_h > 0:
            clock.pass_s(1440)
        await settled()
        first = len(cluster.asked)
        assert first <= 1
        for _ in range(20):
            clock.pass_s(60)
            await settled()
        assert len(cluster.asked) <= first + 1
        clock.pass_s(240)
        await until(lambda: len(cluster.asked) >= first + 1)
        assert not cluster.identity.is_expired(clock.wall_ns)
        assert cluster.identity.not_before_ns <= clock.wall_ns


async def test_a_life_without_length_makes_no_storm(tmp_path: Path, clock: TwoClocks, running: Any) -> None:
    """Where the root ends, certificates are over when they are issued; then it is one a minute."""
    late_ns = NOW_NS + 20 * 365 * 24 * 3600 * NS - 600 * NS
    clock.wall_ns = late_ns
    cluster = half_hours(tmp_path, clock, issued_ns=late_ns)
    assert cluster.identity.life_ns == 0
    async with running(cluster.keeper):
        before = cluster.identity
        await until(lambda: cluster.identity is not before)
        for count in (1, 2, 3):
            before = cluster.identity
            clock.pass_s(59)
            await settled()
            assert len(cluster.asked) == count
            clock.pass_s(1)
            await until(lambda before=before: cluster.identity is not before)


async def test_a_failure_is_tried_again_for_the_same_key(tmp_path: Path, clock: TwoClocks, running: Any) -> None:
    """The leader may have given a certificate for it whose answer was lost. There is time for several tries."""
    cluster = half_hours(tmp_path, clock)
    cluster.refusal = NotLeader()
    async with running(cluster.keeper):
        clock.pass_s(1440)
        for tries in range(1, 6):
            await until(lambda tries=tries: len(cluster.asked) >= tries)
            clock.pass_s(90)
        assert cluster.keeper.needs_help
        assert "not renewed: this manager is not the leader" in cluster.keeper.problems()[0]
        assert cluster.keeper.error == ""
        cluster.refusal = None
        clock.pass_s(90)
        await until(lambda: not cluster.keeper.needs_help)
    assert len(set(cluster.keys)) == 1
    assert cluster.keeper.problems() == ()


async def test_a_change_of_role_is_told(tmp_path: Path, clock: TwoClocks) -> None:
    """Whoever asks for the certificate: the node has to be what it says."""
    cluster = half_hours(tmp_path, clock)
    cluster.role = Role.MANAGER
    await cluster.keeper.renew()
    assert (cluster.identity.role, cluster.role_changes) == (Role.MANAGER, 1)
    await cluster.keeper.renew()
    assert cluster.role_changes == 1


async def test_a_certificate_of_another_node_is_not_used(tmp_path: Path, clock: TwoClocks) -> None:
    """Whatever the leader says."""
    cluster = half_hours(tmp_path, clock)
    before = cluster.identity
    cluster.node_id = NodeId("x")
    with pytest.raises(ProtocolViolation, match="was given that of node x"):
        await cluster.keeper.renew()
    assert cluster.identity == before == load_identity(tmp_path)


async def test_an_expired_node_says_what_to_do(tmp_path: Path, clock: TwoClocks, running: Any) -> None:
    """And asks nobody, as nobody would listen."""
    cluster = half_hours(tmp_path, clock)
    clock.wall_ns += HALF_HOUR_NS + SKEW_NS
    async with running(cluster.keeper):
        await settled()
        assert cluster.asked == []
        assert cluster.keeper.needs_help
        assert cluster.keeper.error.startswith("the certificate of this node expired on 2026-09-2")
        assert 'run here what "swarm join-token worker" on a manager shows' in cluster.keeper.error
        assert cluster.keeper.problems() == (cluster.keeper.error,)


async def test_a_refused_node_says_so(tmp_path: Path, clock: TwoClocks) -> None:
    """Its certificate was revoked and replaced: it may have been copied."""
    cluster = half_hours(tmp_path, clock)
    cluster.refusal = CertificateRevoked("it was replaced")
    with pytest.raises(CertificateRevoked):
        await cluster.keeper.renew()
    assert cluster.keeper.is_refused
    assert cluster.keeper.problems() == (cluster.keeper.error,) == ("it was replaced",)


class Manager:
    """The manager half of a node that has the CA's key."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.is_loaded = asyncio.Event()
        self.may = True

    async def wait_cluster(self) -> None:
        """Until it has read its log."""
        await self.is_loaded.wait()

    def extended(self, identity: NodeIdentity) -> NodeIdentity | None:
        """By its own state."""
        cert_pem = self.cluster._certify(csr_for(identity.key_pem), self.cluster.clock.wall_ns)
        again = NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=identity.key_pem, ca_pem=ROOT.cert_pem)
        return again if self.may else None


@pytest.fixture
async def manager(tmp_path: Path, clock: TwoClocks) -> Manager:
    """One whose certificate has ended."""
    cluster = half_hours(tmp_path, clock)
    cluster.role = Role.MANAGER
    await cluster.keeper.renew()
    cluster.asked.clear()
    made = Manager(cluster)
    cluster.keeper = cluster.new_keeper(lambda: made)
    clock.pass_s(100 * 24 * 3600)
    return made


async def test_an_expired_manager_helps_itself_and_then_asks_a_leader(manager: Manager, running: Any) -> None:
    """With its own key still, as soon as its log is read; only what a leader gives is for a new one."""
    cluster = manager.cluster
    cluster.refusal = NotLeader()
    before = cluster.identity
    async with running(cluster.keeper):
        await settled()
        assert cluster.identity is before
        manager.is_loaded.set()
        await until(lambda: bool(cluster.asked))
        extended = cluster.identity
        assert not cluster.keeper.is_expired
        assert extended.key_pem == before.key_pem
        assert load_identity(cluster.directory) == extended
        cluster.refusal = None
        cluster.clock.pass_s(5)
        await until(lambda: cluster.identity is not extended)
        assert cluster.identity.key_pem != before.key_pem


async def test_who_is_no_manager_by_its_own_log_does_not_help_itself(manager: Manager, running: Any) -> None:
    """It waits for an operator, as a worker does."""
    manager.may = False
    manager.is_loaded.set()
    async with running(manager.cluster.keeper):
        await settled()
        assert manager.cluster.keeper.is_expired
        assert "swarm join-token manager" in manager.cluster.keeper.error

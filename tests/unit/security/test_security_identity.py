"""A node's identity on disk and in TLS."""

from __future__ import annotations

import contextlib
import ssl
import stat
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from handshakes import cluster_of, ends, meet, node, rotated, rotating

from swarmpy.errors import BadCertificate, DataDirMismatch, StorageError
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Role
from swarmpy.ports import Peer
from swarmpy.security import private_files, roots
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.identity import (
    CA_FILE,
    CERT_FILE,
    DIRECTORY,
    KEY_FILE,
    NEW_KEY_FILE,
    NodeIdentity,
    csr_for,
    load_identity,
    new_key_and_csr,
    next_key,
    save_identity,
    save_roots,
)
from swarmpy.security.tls import (
    Credentials,
    check_peer,
    client_context,
    joiner_context,
    server_context,
    unverified_context,
)

NOW_NS = 1_800_000_000_000_000_000
HOUR_NS = 3600 * 1_000_000_000
DAY_NS = 24 * HOUR_NS


@pytest.fixture(scope="module")
def root() -> RootCA:
    """A root CA."""
    return create_root_ca(NOW_NS)


def make(
    root: RootCA, node_id: str = "node1", role: Role = Role.MANAGER, *, key_pem: bytes | None = None
) -> NodeIdentity:
    """A node's identity, valid for ten days."""
    key_pem = key_pem or new_key_and_csr()[0]
    cert_pem = issue(
        root,
        csr_for(key_pem),
        node_id=NodeId(node_id),
        role=role,
        cluster_id="c1",
        expiry_ns=10 * DAY_NS,
        now_ns=NOW_NS,
    )
    return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=root.cert_pem)


def test_identity_is_read_from_its_certificate(root: RootCA) -> None:
    """Node id, role, cluster and times are the certificate's; the key is never shown."""
    identity = make(root)
    assert (identity.node_id, identity.role, identity.cluster_id) == ("node1", Role.MANAGER, "c1")
    assert not identity.is_expired(NOW_NS)
    assert not identity.is_expired(NOW_NS + 10 * DAY_NS + HOUR_NS - 1)
    assert identity.is_expired(NOW_NS + 10 * DAY_NS + HOUR_NS)
    assert "PRIVATE" not in repr(identity)


def test_a_life_is_what_was_asked_for(root: RootCA) -> None:
    """It begins when the certificate is issued, not at the hour before that it is valid from already."""
    identity = make(root)
    assert (identity.issued_at_ns, identity.life_ns) == (NOW_NS, 10 * DAY_NS)
    late = attrs.evolve(identity, not_after_ns=NOW_NS + HOUR_NS // 2)  # the root has ended it
    assert (late.issued_at_ns, late.life_ns) == (NOW_NS, 0)


def test_parts_that_do_not_fit_are_refused(root: RootCA) -> None:
    """Another key or another CA makes no identity."""
    one, two = make(root), make(root, "node2")
    with pytest.raises(BadCertificate, match="not for the private key"):
        NodeIdentity.from_pem(cert_pem=one.cert_pem, key_pem=two.key_pem, ca_pem=one.ca_pem)
    with pytest.raises(BadCertificate, match="not signed by"):
        NodeIdentity.from_pem(cert_pem=one.cert_pem, key_pem=one.key_pem, ca_pem=create_root_ca(NOW_NS).cert_pem)
    with pytest.raises(BadCertificate, match="not an unencrypted private key"):
        NodeIdentity.from_pem(cert_pem=one.cert_pem, key_pem=b"junk", ca_pem=one.ca_pem)


def test_saved_identity_is_private_and_loads(root: RootCA, tmp_path: Path) -> None:
    """What was saved is loaded; files are 0600 in a 0700 directory, with nothing left over."""
    identity = make(root)
    assert load_identity(tmp_path) is None
    save_identity(tmp_path, identity)
    assert load_identity(tmp_path) == identity
    directory = tmp_path / DIRECTORY
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert sorted(path.name for path in directory.iterdir()) == sorted([KEY_FILE, CERT_FILE, CA_FILE])
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


@pytest.mark.parametrize("stop_after", range(8))
def test_interrupted_renewal_leaves_one_matching_pair(
    root: RootCA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    """Wherever a renewal is cut off, the old or the new identity is found, and the next renewal works."""
    old, new, newest = make(root), make(root), make(root)
    save_identity(tmp_path, old)
    steps = 0
    real = private_files.sync_directory

    def cut(path: Path) -> None:
        nonlocal steps
        steps += 1
        if steps > stop_after:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(private_files, "sync_directory", cut)
    with contextlib.suppress(StorageError):
        save_identity(tmp_path, new)
    monkeypatch.setattr(private_files, "sync_directory", real)
    assert load_identity(tmp_path) in (old, new)
    save_identity(tmp_path, newest)
    assert load_identity(tmp_path) == newest


CRASH_POINTS = range(7)


@pytest.mark.parametrize("stop_after", CRASH_POINTS)
@pytest.mark.parametrize("step", ["rotation", "back after it"])
def test_an_interrupted_change_of_the_root_leaves_an_identity_of_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, stop_after: int
) -> None:
    """Wherever it is cut off, certificate, chain and roots go together; the other nodes accept what is found."""
    before = cluster_of()
    during = rotating(before)
    after = rotated(during)
    reached = {"rotation": during, "back after it": after}[step]
    old, new, other = node(before), node(reached), node(reached, "other")
    save_identity(tmp_path, old)
    steps = 0
    real = private_files.sync_directory

    def cut(path: Path) -> None:
        nonlocal steps
        steps += 1
        if steps > stop_after:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr(private_files, "sync_directory", cut)
    with contextlib.suppress(StorageError):
        save_identity(tmp_path, new)
    monkeypatch.setattr(private_files, "sync_directory", real)
    found = load_identity(tmp_path)
    assert found is not None
    assert (found.cert_pem, found.chain_pem) in ((old.cert_pem, b""), (new.cert_pem, new.chain_pem))
    credentials = Credentials(other)
    # Managers let former roots through, and know this node's certificate.
    credentials.trust_more((before.root_ca.cert_pem,))
    meet(found, credentials)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / DIRECTORY).iterdir()} == {0o600}
    save_identity(tmp_path, new)
    assert load_identity(tmp_path) == new
    assert (tmp_path / DIRECTORY / CA_FILE).read_bytes() == new.ca_pem


def test_the_crash_points_are_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the root has no more steps than are tried above."""
    before = cluster_of()
    save_identity(tmp_path, node(before))
    seen: list[Path] = []
    real = private_files.sync_directory
    monkeypatch.setattr(private_files, "sync_directory", lambda path: (seen.append(path), real(path)))
    save_identity(tmp_path, node(rotated(rotating(before))))
    assert len(seen) == len(CRASH_POINTS) - 1


def test_only_the_roots_are_replaced(tmp_path: Path) -> None:
    """When the change is over, the root before is given up; certificate and key stay."""
    before = cluster_of()
    during = rotating(before)
    identity = node(during)
    save_identity(tmp_path, identity)
    after = identity.trusting(roots.trusted_pem(rotated(during)))
    save_roots(tmp_path, after)
    assert load_identity(tmp_path) == after
    assert (after.cert_pem, after.chain_pem) == (identity.cert_pem, identity.chain_pem)


@pytest.mark.parametrize("damage", [CERT_FILE, KEY_FILE, CA_FILE])
def test_damaged_files_are_a_clear_error(root: RootCA, tmp_path: Path, damage: str) -> None:
    """A damaged or missing file says which directory and what to do."""
    save_identity(tmp_path, make(root))
    (tmp_path / DIRECTORY / damage).write_bytes(b"junk")
    with pytest.raises(DataDirMismatch, match="certificates"):
        load_identity(tmp_path)
    if damage != CERT_FILE:
        (tmp_path / DIRECTORY / damage).unlink()
        with pytest.raises(DataDirMismatch, match="restore it"):
            load_identity(tmp_path)


def test_the_next_key_stays_until_it_is_in_use(root: RootCA, tmp_path: Path) -> None:
    """Whoever asks again asks for the same key; what is damaged is replaced, as no certificate is for it."""
    old = make(root)
    save_identity(tmp_path, old)
    key_pem = next_key(tmp_path)
    assert key_pem == next_key(tmp_path) != old.key_pem
    assert load_identity(tmp_path) == old
    assert stat.S_IMODE((tmp_path / DIRECTORY / NEW_KEY_FILE).stat().st_mode) == 0o600
    extended = make(root, key_pem=old.key_pem)
    save_identity(tmp_path, extended)
    assert load_identity(tmp_path) == extended
    assert next_key(tmp_path) == key_pem
    new = make(root, key_pem=key_pem)
    save_identity(tmp_path, new)
    assert load_identity(tmp_path) == new
    assert next_key(tmp_path) != key_pem
    (tmp_path / DIRECTORY / NEW_KEY_FILE).write_bytes(b"junk")
    assert next_key(tmp_path) == next_key(tmp_path) != b"junk"


def test_interrupted_first_save_is_no_identity(root: RootCA, tmp_path: Path) -> None:
    """A key without a certificate is a node that has not joined."""
    directory = tmp_path / DIRECTORY
    directory.mkdir()
    (directory / NEW_KEY_FILE).write_bytes(make(root).key_pem)
    assert load_identity(tmp_path) is None


def test_contexts_are_strict(root: RootCA) -> None:
    """TLS 1.3 only; who is verified depends on the context."""
    identity = make(root)
    server, client, joiner = server_context(identity), client_context(identity), joiner_context(root.cert_pem)
    contexts = (server, client, joiner, unverified_context())
    assert {context.minimum_version for context in contexts} == {ssl.TLSVersion.TLSv1_3}
    assert [context.verify_mode for context in contexts] == [
        ssl.CERT_OPTIONAL,
        ssl.CERT_REQUIRED,
        ssl.CERT_REQUIRED,
        ssl.CERT_NONE,
    ]
    assert server.num_tickets == 0


def test_a_certificate_is_shown_with_what_it_goes_back_to() -> None:
    """Its root, as OpenSSL would do it; while the root is changed, the link to the one before."""
    cluster = cluster_of()
    identity = node(cluster)
    for end in ends(identity, identity):
        assert sent_by_the_peer(end) == [identity.cert_pem, cluster.root_ca.cert_pem]
    changing = rotating(cluster)
    moved = node(changing)
    for end in ends(moved, moved):
        assert sent_by_the_peer(end) == [moved.cert_pem, *roots.chain(changing)]


def sent_by_the_peer(end: ssl.SSLObject) -> list[bytes]:
    inner = cast("Any", end)._sslobj
    return [found.public_bytes().encode() for found in inner.get_unverified_chain()]


def test_unusable_ca_is_refused() -> None:
    """Bytes that are no certificate make no context."""
    for junk in (b"junk", b"\xff", b""):
        with pytest.raises(BadCertificate):
            joiner_context(junk)


def test_credentials_change_only_whole(root: RootCA) -> None:
    """A replacement that is not usable leaves the old identity in force."""
    credentials = Credentials(make(root))
    before = credentials.server_context()
    broken = make(root, "node2")
    with pytest.raises(BadCertificate):
        credentials.replace(
            NodeIdentity(
                node_id=broken.node_id,
                role=broken.role,
                cluster_id=broken.cluster_id,
                cert_pem=broken.cert_pem,
                key_pem=make(root).key_pem,
                ca_pem=broken.ca_pem,
                serial="1",
                not_before_ns=0,
                not_after_ns=0,
            )
        )
    assert credentials.identity.node_id == "node1"
    assert credentials.server_context() is before


def test_peer_is_checked() -> None:
    """Node id and role of a peer are held against what was expected."""
    peer = Peer(node_id=NodeId("n1"), role=Role.WORKER, cluster_id="c1", address="10.0.0.1:2377")
    check_peer(peer, node_id=NodeId("n1"), role=Role.WORKER)
    check_peer(peer)
    with pytest.raises(BadCertificate, match="is node n1, not n2"):
        check_peer(peer, node_id=NodeId("n2"))
    with pytest.raises(BadCertificate, match="is not a manager"):
        check_peer(peer, role=Role.MANAGER)

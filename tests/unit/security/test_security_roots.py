"""Several root CAs: who accepts whom while the root is changed and after it, and what is never accepted."""

from __future__ import annotations

import datetime as dt
import ssl
import time

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from handshakes import accepts, cluster_of, meet, node, rotated, rotating, shown, signed

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.objects import Cluster, RootCA
from swarmpy.model.states import Role
from swarmpy.security import roots
from swarmpy.security.ca import ca_digest, create_root_ca, load_private_key, private_key_pem
from swarmpy.security.certificates import load_certificate
from swarmpy.security.identity import NodeIdentity
from swarmpy.security.rehearsal import rehearse
from swarmpy.security.tls import Credentials

BEFORE = cluster_of()
DURING = rotating(BEFORE)
AFTER = rotated(DURING)
OLD, NEW = BEFORE.root_ca, AFTER.root_ca
FOREIGN = create_root_ca(time.time_ns())
BOTH = roots.joined((OLD.cert_pem, NEW.cert_pem))
CROSS = roots.chain(DURING)[0]


# -- who accepts whom -------------------------------------------------------------------------------------------------

OLD_ONE, NEW_ONE = node(BEFORE, "old"), node(DURING, "new")
SHOWN = {
    "old": OLD_ONE,
    "new": shown(NEW_ONE, BOTH),
    "new with chain": NEW_ONE,
    "old with chain": shown(OLD_ONE, BOTH, CROSS),
}
ACCEPTED = {
    ("trusts old", "old"): True,
    ("trusts old", "new"): False,
    ("trusts old", "new with chain"): True,
    ("trusts old", "old with chain"): True,
    ("trusts both", "old"): True,
    ("trusts both", "new"): True,
    ("trusts both", "new with chain"): True,
    ("trusts both", "old with chain"): True,
    ("trusts new", "old"): False,
    ("trusts new", "new"): True,
    ("trusts new", "new with chain"): True,
    ("trusts new", "old with chain"): False,
}
TRUSTED = {"trusts old": OLD.cert_pem, "trusts both": BOTH, "trusts new": NEW.cert_pem}


@pytest.mark.parametrize(("trust", "what"), ACCEPTED)
def test_every_pair_of_what_is_trusted_and_what_is_shown(trust: str, what: str) -> None:
    """In particular: who trusts only the old root accepts the new certificate with its chain, and not without."""
    verifier = shown(NEW_ONE, TRUSTED[trust], CROSS)
    assert accepts(verifier, SHOWN[what], BOTH) is ACCEPTED[trust, what]


def test_no_step_of_a_change_parts_two_nodes_that_are_there() -> None:
    """Whatever of the steps each of two nodes has taken, and each has taken the first when one takes the last."""
    steps = [OLD_ONE, OLD_ONE.trusting(roots.split(BOTH)), NEW_ONE, NEW_ONE.trusting((NEW.cert_pem,))]
    joined_meanwhile = node(DURING, "joined")
    joined_after = node(AFTER, "later")
    for one in (*steps[:3], joined_meanwhile):
        for other in (*steps[:3], joined_meanwhile):
            meet(one, other)
    for one in (*steps[2:], joined_meanwhile, joined_after):
        for other in (*steps[2:], joined_meanwhile, joined_after):
            meet(one, other)


def test_a_foreign_root_is_refused_by_everybody() -> None:
    """Also with a chain, and also when its CA has the same name."""
    key_pem, cert_pem = signed(FOREIGN)
    stranger = NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=FOREIGN.cert_pem)
    for trust in TRUSTED.values():
        verifier = shown(NEW_ONE, trust, CROSS)
        for chain in ((), (CROSS,), (FOREIGN.cert_pem,), (FOREIGN.cert_pem, CROSS)):
            assert not accepts(verifier, shown(stranger, BOTH, *chain), BOTH)


def test_a_cross_signed_certificate_is_of_use_only_below_its_signer() -> None:
    """Somebody's certificate for the new root's key makes nobody trust somebody."""
    by_foreign = roots.cross_sign(FOREIGN, NEW.cert_pem)
    assert not accepts(shown(OLD_ONE, OLD.cert_pem), shown(NEW_ONE, BOTH, by_foreign), BOTH)
    assert not accepts(shown(NEW_ONE, NEW.cert_pem), shown(OLD_ONE, BOTH, by_foreign), BOTH)


def test_who_was_away_for_many_changes_accepts_the_others() -> None:
    """By a chain of all that were meanwhile: the path length of the first root does not count those of its own name."""
    cluster = BEFORE
    for _ in range(roots.MAX_FORMER_ROOTS):
        cluster = rotated(rotating(cluster))
    assert len(roots.chain(cluster)) == roots.MAX_FORMER_ROOTS
    latest = node(cluster, "latest")
    peer, _ = meet(OLD_ONE, attrs.evolve(latest, ca_pem=OLD.cert_pem))
    assert (peer.signers[0], peer.signers[-1]) == (roots.key_of(cluster.root_ca.cert_pem), roots.key_of(OLD.cert_pem))
    assert len(peer.signers) == roots.MAX_FORMER_ROOTS + 1
    cluster = rotated(rotating(cluster))
    assert len(cluster.former_roots) == roots.MAX_FORMER_ROOTS
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(OLD_ONE, node(cluster, "too late"))


# -- what a node may not do -------------------------------------------------------------------------------------------


def sign_by_hand(
    signer: bytes, signer_key: bytes, name: x509.Name, *, ca: bool, length: int | None = None
) -> tuple[bytes, bytes]:
    """A key and a certificate (PEM) for it by anybody's key."""
    by, key = load_certificate(signer), ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(by.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)  # type: ignore[arg-type]
    )
    cert_pem = builder.sign(load_private_key(signer_key), hashes.SHA256()).public_bytes(Encoding.PEM)
    return private_key_pem(key), cert_pem


def manager_name(node_id: str) -> x509.Name:
    """The name of a manager's certificate."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "c1"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"),
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
        ]
    )


@pytest.mark.parametrize("cluster", [BEFORE, DURING, AFTER], ids=["before", "during", "after"])
def test_a_node_cannot_sign_for_others(cluster: Cluster) -> None:
    """Its certificate is not one of a CA, wherever it is in the chain."""
    worker = node(cluster, "worker", Role.WORKER)
    key_pem, cert_pem = sign_by_hand(worker.cert_pem, worker.key_pem, manager_name("fake"), ca=False)
    fake = attrs.evolve(worker, cert_pem=cert_pem, key_pem=key_pem)
    for trust in TRUSTED.values():
        verifier = shown(NEW_ONE, trust, CROSS)
        assert not accepts(verifier, shown(fake, BOTH, worker.cert_pem, *roots.chain(cluster)), BOTH)


def test_a_certificate_that_says_it_is_a_ca_is_held_to_its_signers_word() -> None:
    """A node that asks to be a CA is not made one: of a request only the key counts."""
    certificate = load_certificate(NEW_ONE.cert_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=False, path_length=None))


def test_below_the_root_there_is_one_other_ca_at_most() -> None:
    """The path length of the root: who has its key is not held by it, but a CA that it has signed is."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")])
    below_key, below = sign_by_hand(OLD.cert_pem, OLD.key_pem, name, ca=True)
    further = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "further below")])
    further_key, further_pem = sign_by_hand(below, below_key, further, ca=True)
    key_pem, cert_pem = sign_by_hand(further_pem, further_key, manager_name("fake"), ca=False)
    fake = attrs.evolve(OLD_ONE, cert_pem=cert_pem, key_pem=key_pem)
    with pytest.raises(ssl.SSLCertVerificationError, match="path length constraint exceeded"):
        meet(OLD_ONE, shown(fake, OLD.cert_pem, further_pem, below))


# -- what is known of a peer ------------------------------------------------------------------------------------------


def test_a_peer_tells_its_certificate_and_who_vouches_for_it() -> None:
    """What the managers go by: who signed it, and whom the verifier trusted for it."""
    cases = [
        (OLD_ONE, OLD.cert_pem, (OLD,)),
        (NEW_ONE, OLD.cert_pem, (NEW, OLD)),
        (NEW_ONE, BOTH, (NEW,)),
        (NEW_ONE, NEW.cert_pem, (NEW,)),
    ]
    for peer, trust, signers in cases:
        verifier = shown(NEW_ONE, trust, CROSS)
        generous = attrs.evolve(peer, ca_pem=BOTH)
        seen_by_client, _ = meet(verifier, generous)
        _, seen_by_server = meet(generous, verifier)
        for seen in (seen_by_client, seen_by_server):
            assert seen.node_id == peer.node_id
            assert seen.certificate == peer.fingerprint
            assert seen.signers == tuple(roots.key_of(signer.cert_pem) for signer in signers)


def test_more_roots_are_let_through_until_they_are_not() -> None:
    """Those of former roots, on a manager that judges them itself; connections of before are of before."""
    credentials = Credentials(node(AFTER, "manager"))
    generous = attrs.evolve(OLD_ONE, ca_pem=BOTH)
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(generous, credentials)
    credentials.trust_more((OLD.cert_pem,))
    assert meet(generous, credentials)[1].signers == (roots.key_of(OLD.cert_pem),)
    assert meet(credentials, generous)[0].signers == (roots.key_of(OLD.cert_pem),)
    credentials.replace(node(AFTER, "manager"))
    assert meet(generous, credentials)[1].signers == (roots.key_of(OLD.cert_pem),)
    credentials.trust_more(())
    with pytest.raises(ssl.SSLCertVerificationError):
        meet(generous, credentials)


# -- identities -------------------------------------------------------------------------------------------------------


def test_an_identity_goes_back_to_its_roots() -> None:
    """By a chain if need be; one that does not is none."""
    parts = {"cert_pem": NEW_ONE.cert_pem, "key_pem": NEW_ONE.key_pem}
    assert NodeIdentity.from_pem(**parts, ca_pem=OLD.cert_pem, chain_pem=CROSS).roots == (OLD.cert_digest,)
    assert NodeIdentity.from_pem(**parts, ca_pem=BOTH).roots == (OLD.cert_digest, NEW.cert_digest)
    for ca_pem, chain in ((OLD.cert_pem, b""), (FOREIGN.cert_pem, CROSS), (OLD.cert_pem, NEW.cert_pem), (b"", CROSS)):
        with pytest.raises(BadCertificate, match="not signed by the cluster's root CA"):
            NodeIdentity.from_pem(**parts, ca_pem=ca_pem, chain_pem=chain)


def test_a_node_does_not_give_up_the_root_that_it_lives_by() -> None:
    """It would not accept itself."""
    assert OLD_ONE.trusting((OLD.cert_pem, NEW.cert_pem)).roots == (OLD.cert_digest, NEW.cert_digest)
    with pytest.raises(BadCertificate, match="not signed by"):
        OLD_ONE.trusting((NEW.cert_pem,))
    with pytest.raises(BadCertificate, match="not signed by"):
        OLD_ONE.trusting(())
    assert (OLD_ONE.is_of(OLD.cert_pem), OLD_ONE.is_of(NEW.cert_pem)) == (True, False)


def test_the_roots_of_a_cluster() -> None:
    """Which one signs, which are trusted, which sign nothing any more, at each step."""
    table = [
        (BEFORE, OLD, (OLD,), (), 0),
        (DURING, NEW, (OLD, NEW), (OLD,), 1),
        (AFTER, NEW, (NEW,), (OLD,), 1),
    ]
    for cluster, signing, trusted, outgoing, links in table:
        assert roots.signing_root(cluster) == signing
        assert roots.trusted(cluster) == trusted
        assert [ca_digest(pem) for pem in roots.outgoing(cluster)] == [root.cert_digest for root in outgoing]
        assert len(roots.chain(cluster)) == links
        assert set(roots.known(cluster)) == {root.cert_digest for root in (*trusted, *outgoing)}
    assert b"PRIVATE" not in b"".join(former.cert_pem + former.cross_signed_pem for former in AFTER.former_roots)


def test_a_bundle_is_taken_apart() -> None:
    """Each certificate once; what is no certificate is left out, and too much is refused."""
    assert roots.split(BOTH) == (OLD.cert_pem, NEW.cert_pem)
    assert roots.split(b"# ours\n" + OLD.cert_pem.strip() + b"\nrest") == (OLD.cert_pem,)
    assert roots.joined((OLD.cert_pem, OLD.cert_pem.strip())) == OLD.cert_pem
    with pytest.raises(BadCertificate, match="larger than the limit"):
        roots.split(OLD.cert_pem * 200)


# -- a root that an operator brings -----------------------------------------------------------------------------------


NO_OTHER_USE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def made_root(
    *,
    days: int = 4000,
    begins: int = 0,
    ca: bool | None = True,
    length: int | None = None,
    key: ec.EllipticCurvePrivateKey | None = None,
    usage: bool | None = True,
    signer: ec.EllipticCurvePrivateKey | None = None,
    key_id: bytes = b"",
    constraint: x509.ExtensionType | None = None,
) -> tuple[bytes, bytes]:
    """A CA certificate and its key, as made by some other tool."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=begins)
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "Our Root"), x509.NameAttribute(NameOID.COUNTRY_NAME, "CH")]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=days))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=length), critical=True)
    if usage is not None:
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=usage, **NO_OTHER_USE), critical=True)
    if key_id:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(key_id), critical=False)
    if constraint is not None:
        builder = builder.add_extension(constraint, critical=True)
    certificate = builder.sign(signer or key, hashes.SHA384())
    return certificate.public_bytes(Encoding.PEM), private_key_pem(key)


@pytest.mark.parametrize("key_id", [b"", b"by some other rule"])
def test_a_root_of_another_tool_is_taken(key_id: bytes) -> None:
    """With another curve and name, and whatever it calls its key; nodes accept it, those with the old root too."""
    cert_pem, key_pem = made_root(key_id=key_id)
    given = roots.given_root(b"# our CA\n" + cert_pem, key_pem, time.time_ns())
    assert given.cert_digest == ca_digest(cert_pem)
    during = rotating(BEFORE, given)
    for trusted in roots.trusted_pem(during):
        rehearse(given, roots.chain(during), trusted, time.time_ns())
    meet(OLD_ONE, node(during, "new"))
    meet(node(during, "new"), OLD_ONE)
    # And the way back to one of ours.
    again = rotating(rotated(during))
    meet(attrs.evolve(node(during, "new"), ca_pem=given.cert_pem), node(again, "newest"))


BAD_ROOTS = {
    "no certificate": ((b"", b""), "must be one PEM certificate, and there are 0"),
    "two certificates": ((BOTH, OLD.key_pem), "there are 2"),
    "no key": ((OLD.cert_pem, b"junk"), "not an unencrypted private key"),
    "another key": ((OLD.cert_pem, NEW.key_pem), "not the one of the CA certificate"),
    "signed by another": (made_root(signer=ec.generate_private_key(ec.SECP384R1())), "not signed by itself"),
    "no CA": (made_root(ca=False), "not one of a CA"),
    "no constraints": (made_root(ca=None), "needs the extensions"),
    "no usage": (made_root(usage=None), "needs the extensions"),
    "may not sign": (made_root(usage=False), "not one of a CA"),
    "no CA below it": (made_root(length=0), "pathlen:0"),
    "ends soon": (made_root(days=300), "another year"),
    "not yet": (made_root(begins=2), "not valid before"),
}


@pytest.mark.parametrize("what", BAD_ROOTS)
def test_a_root_that_would_not_do_is_refused(what: str) -> None:
    """With the reason, and without its key."""
    (cert_pem, key_pem), reason = BAD_ROOTS[what]
    with pytest.raises(InvalidArgument, match=reason) as refused:
        roots.given_root(cert_pem, key_pem, time.time_ns())
    assert "PRIVATE" not in str(refused.value)


def test_an_rsa_root_is_refused() -> None:
    """Nodes' certificates are signed with elliptic curves."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidArgument, match="not an elliptic-curve key"):
        roots.given_root(OLD.cert_pem, key_pem, time.time_ns())


def test_what_nodes_would_not_accept_is_known_before() -> None:
    """Whatever it is: a real handshake is made."""
    excluded = x509.NameConstraints(permitted_subtrees=[x509.DNSName("example.org")], excluded_subtrees=None)
    cert_pem, key_pem = made_root(constraint=excluded)
    given: RootCA = roots.given_root(cert_pem, key_pem, time.time_ns())
    with pytest.raises(InvalidArgument, match=r"nodes would not accept .*permitted subtree"):
        rehearse(given, (), given.cert_pem, time.time_ns())
    with pytest.raises(InvalidArgument, match="nodes would not accept"):
        rehearse(NEW, (), OLD.cert_pem, time.time_ns())
    rehearse(NEW, (CROSS,), OLD.cert_pem, time.time_ns())

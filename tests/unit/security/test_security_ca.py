"""The root CA and the certificates it issues."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Role
from swarmpy.security.ca import (
    ca_digest,
    create_root_ca,
    issue,
    load_private_key,
    public_key_der,
    vouched_root,
)
from swarmpy.security.certificates import MAX_PEM_BYTES, check_issued_by, load_certificate, read_certificate
from swarmpy.security.identity import new_key_and_csr
from swarmpy.security.serials import Serial, key_digest, read_serial

NOW_NS = 1_800_000_000_000_000_000
HOUR_NS = 3600 * 1_000_000_000
DAY_NS = 24 * HOUR_NS


@pytest.fixture(scope="module")
def root() -> RootCA:
    """A root CA."""
    return create_root_ca(NOW_NS)


def certify(
    root: RootCA, csr_pem: bytes, *, number: int = 0, expiry_ns: int = 90 * DAY_NS, now_ns: int = NOW_NS
) -> bytes:
    """A worker's certificate."""
    return issue(
        root,
        csr_pem,
        node_id=NodeId("node1"),
        role=Role.WORKER,
        cluster_id="cluster1",
        number=number,
        expiry_ns=expiry_ns,
        now_ns=now_ns,
    )


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.CertificateSigningRequest:
    """A request that claims names it must not get."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )


def pem(csr: x509.CertificateSigningRequest) -> bytes:
    return csr.public_bytes(serialization.Encoding.PEM)


def test_root_is_a_long_lived_p256_ca(root: RootCA) -> None:
    """The root is named swarm-ca, signs itself, has a P-256 key and lives for twenty years."""
    certificate = load_certificate(root.cert_pem)
    assert certificate.subject.rfc4514_string() == "CN=swarm-ca"
    check_issued_by(certificate, certificate)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc > dt.timedelta(days=7300)
    assert "PRIVATE" not in repr(root)


def test_digest_is_fifty_characters_of_base_36(root: RootCA) -> None:
    """The digest names exactly one CA certificate."""
    assert root.cert_digest == ca_digest(root.cert_pem)
    assert len(root.cert_digest) == 50
    assert set(root.cert_digest) <= set("0123456789abcdefghijklmnopqrstuvwxyz")
    assert vouched_root(root.cert_pem, root.cert_digest) == root.cert_pem
    with pytest.raises(BadCertificate, match="does not match fingerprint in the join token"):
        vouched_root(create_root_ca(NOW_NS).cert_pem, root.cert_digest)


def test_only_what_the_digest_names_is_vouched_for(root: RootCA) -> None:
    """A certificate that somebody has put behind the right one is not trusted with it, nor is anything else."""
    for between in (b"", b"more\n", b"-----BEGIN X509 CRL-----\n"):
        bundle = root.cert_pem + between + create_root_ca(NOW_NS).cert_pem
        with pytest.raises(BadCertificate, match="more than one certificate"):
            ca_digest(bundle)
        with pytest.raises(BadCertificate, match="more than one certificate"):
            vouched_root(bundle, root.cert_digest)
    assert vouched_root(root.cert_pem + b"\nwords", root.cert_digest) == root.cert_pem


def test_issued_certificate_says_what_the_signer_says(root: RootCA) -> None:
    """Names and role come from the signer, whatever the request claims; it serves for both ends of TLS."""
    csr_pem = pem(request(ec.generate_private_key(ec.SECP256R1())))
    cert_pem = certify(root, csr_pem)
    facts = read_certificate(cert_pem)
    assert (facts.node_id, facts.role, facts.cluster_id) == ("node1", Role.WORKER, "cluster1")
    # An hour more at either end: so far apart clocks may be.
    assert facts.not_before_ns == NOW_NS - HOUR_NS
    assert facts.not_after_ns == NOW_NS + 90 * DAY_NS + HOUR_NS
    certificate = load_certificate(cert_pem)
    check_issued_by(certificate, load_certificate(root.cert_pem))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_certificate_never_outlives_the_root(root: RootCA) -> None:
    """Near the end of the root's life certificates end with it."""
    _, csr_pem = new_key_and_csr()
    late = NOW_NS + 20 * 365 * DAY_NS - DAY_NS
    assert read_certificate(certify(root, csr_pem, now_ns=late)).not_after_ns == late + DAY_NS


def test_lives_have_bounds(root: RootCA) -> None:
    """Half an hour at least, and twenty years at most."""
    _, csr_pem = new_key_and_csr()
    for expiry_ns in (HOUR_NS // 2, 20 * 365 * DAY_NS):
        certify(root, csr_pem, expiry_ns=expiry_ns)
    with pytest.raises(InvalidArgument, match="30 minutes at least"):
        certify(root, csr_pem, expiry_ns=HOUR_NS // 2 - 1)
    with pytest.raises(InvalidArgument, match="20 years"):
        certify(root, csr_pem, expiry_ns=20 * 365 * DAY_NS + 1)


def test_a_serial_number_tells_number_and_key(root: RootCA) -> None:
    """Of one key and number there may be several certificates; each has a serial number of its own."""
    key_pem, csr_pem = new_key_and_csr()
    first, second = (read_certificate(certify(root, csr_pem, number=7)).serial for _ in range(2))
    assert first != second
    assert read_serial(first) == read_serial(second)
    assert read_serial(first).number == 7
    assert read_serial(first).key == key_digest(public_key_der(load_private_key(key_pem).public_key()))
    other = read_serial(read_certificate(certify(root, new_key_and_csr()[1], number=2**32 - 1)).serial)
    assert (other.number, other.key == read_serial(first).key) == (2**32 - 1, False)
    assert read_serial(read_certificate(certify(root, csr_pem)).serial).number == 0


def test_a_serial_number_that_was_drawn_has_number_0() -> None:
    """As versions did that did not count."""
    assert read_serial(f"{2**158 + 12345:x}") == Serial(number=0, key=-1)


def test_other_keys_are_refused(root: RootCA) -> None:
    """RSA keys and other curves are refused."""
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(InvalidArgument, match="P-256"):
            certify(root, pem(request(key)))


def test_request_signed_with_another_key_is_refused(root: RootCA) -> None:
    """A request proves possession of its key; one altered afterwards does not."""
    der = bytearray(request(ec.generate_private_key(ec.SECP256R1())).public_bytes(serialization.Encoding.DER))
    position = der.index(b"admin")
    der[position : position + 5] = b"nimda"
    with pytest.raises(InvalidArgument, match="not signed with its own key"):
        certify(root, pem(x509.load_der_x509_csr(bytes(der))))


@pytest.mark.parametrize("csr_pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"x" * 100_000])
def test_malformed_requests_are_refused(root: RootCA, csr_pem: bytes) -> None:
    """Anything but a PEM request of reasonable size is InvalidArgument."""
    with pytest.raises(InvalidArgument, match="certificate request"):
        certify(root, csr_pem)


@given(st.binary(max_size=300))
def test_garbage_is_no_certificate(data: bytes) -> None:
    """Arbitrary bytes raise BadCertificate, nothing else."""
    with pytest.raises(BadCertificate):
        read_certificate(data)


@pytest.mark.filterwarnings("ignore")  # the parser's, about odd but readable certificates
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_damaged_certificate_says_nothing_else(position: int, value: int) -> None:
    """A certificate with one byte changed is unreadable or not signed, unless what is signed is as it was."""
    original = DAMAGED_DER
    position %= len(original)
    damaged = original[:position] + bytes([value]) + original[position + 1 :]
    try:
        accept(damaged)
    except BadCertificate:
        return
    assert load_certificate(damaged).tbs_certificate_bytes == load_certificate(original).tbs_certificate_bytes


def accept(der: bytes) -> None:
    """Read a certificate and check its signature."""
    read_certificate(der)
    check_issued_by(load_certificate(der), load_certificate(DAMAGED_ROOT.cert_pem))


DAMAGED_ROOT = create_root_ca(NOW_NS)
DAMAGED_DER = load_certificate(certify(DAMAGED_ROOT, new_key_and_csr()[1])).public_bytes(serialization.Encoding.DER)


def test_certificate_that_is_no_nodes_is_refused(root: RootCA) -> None:
    """The root's own certificate is no identity, nor is an overlong one read at all."""
    with pytest.raises(BadCertificate, match="exactly one organizational unit"):
        read_certificate(root.cert_pem)
    with pytest.raises(BadCertificate, match="larger than the limit"):
        read_certificate(b"x" * (MAX_PEM_BYTES + 1))

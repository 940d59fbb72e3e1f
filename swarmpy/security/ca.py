"""The cluster's certificate authority: makes the root, signs nodes' certificates.

Of a request only the public key is taken; every name in a certificate is the signer's word. Nothing here keeps state
or decides who may have a certificate.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.ids import NodeId, base36
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Role
from swarmpy.security.certificates import MAX_PEM_BYTES, ROLE_UNITS, SKEW_NS, load_certificate
from swarmpy.security.serials import make_serial

ROOT_NAME = "swarm-ca"
ROOT_LIFETIME = dt.timedelta(days=20 * 365)
SKEW = dt.timedelta(seconds=SKEW_NS // 1_000_000_000)
DIGEST_LENGTH = 50
"""Base 36 characters that hold any SHA-256."""
MIN_EXPIRY_NS = 30 * 60 * 1_000_000_000
"""Shorter lives leave too little time to renew."""
MAX_EXPIRY_NS = 20 * 365 * 24 * 3600 * 1_000_000_000
"""The root's life: nothing is valid for longer."""


def create_root_ca(now_ns: int) -> RootCA:
    """A new root CA: P-256, self-signed, valid for twenty years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ROOT_NAME)])
    now = as_time(now_ns)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_pem = certificate.public_bytes(serialization.Encoding.PEM)
    return RootCA(cert_pem=cert_pem, key_pem=private_key_pem(key), cert_digest=ca_digest(cert_pem))


def ca_digest(cert_pem: bytes) -> str:
    """What join tokens carry of a CA certificate: SHA-256 of its DER in base 36, 50 characters.

    Raises BadCertificate, also when there is more than one: a digest of the first must not speak for the others.
    """
    if cert_pem.count(b"-----BEGIN") > 1:
        raise BadCertificate("more than one certificate where one root CA's belongs")
    der = load_certificate(cert_pem).public_bytes(serialization.Encoding.DER)
    return base36(hashlib.sha256(der).digest(), DIGEST_LENGTH)


def vouched_root(cert_pem: bytes, digest: str) -> bytes:
    """The certificate (PEM) that a stranger sent, if it is that of the root CA that a join token's ``digest`` names.

    It is written anew, so that nothing is trusted but what the digest was made of. Raises BadCertificate.
    """
    if not hmac.compare_digest(ca_digest(cert_pem).encode(), digest.encode()):
        raise BadCertificate(
            "remote CA does not match fingerprint in the join token: the token is of another cluster, or of before the "
            "root CA was changed, or the address is not that of the cluster's manager, or somebody is in between"
        )
    return load_certificate(cert_pem).public_bytes(serialization.Encoding.PEM)


def issue(
    root: RootCA,
    csr_pem: bytes,
    *,
    node_id: NodeId,
    role: Role,
    cluster_id: str,
    number: int = 0,
    expiry_ns: int,
    now_ns: int,
    since_ns: int | None = None,
) -> bytes:
    """A certificate (PEM) for the public key in ``csr_pem``, valid for ``expiry_ns`` nanoseconds from ``now_ns``.

    By any clock that is off by an hour at most, so by the others it is valid for an hour more at either end; never for
    longer than the root. ``since_ns``: it is to be valid since then. ``number`` is that of its serial number
    (:mod:`swarmpy.security.serials`). Raises InvalidArgument for a request that is malformed, not signed with its own
    key, or of another kind of key than P-256, and as :func:`check_expiry`.
    """
    check_expiry(expiry_ns)
    public = public_key_of(csr_pem)
    ca_certificate = load_certificate(root.cert_pem)
    ca_key = load_private_key(root.key_pem)
    now = as_time(now_ns)
    not_after = min(now + dt.timedelta(microseconds=expiry_ns // 1000) + SKEW, ca_certificate.not_valid_after_utc)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, ROLE_UNITS[role]),
            x509.NameAttribute(NameOID.COMMON_NAME, node_id),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca_certificate.subject)
        .public_key(public)
        .serial_number(make_serial(number, public_key_der(public)))
        .not_valid_before(now - SKEW if since_ns is None else as_time(since_ns))
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(authority_key_id(ca_certificate), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(node_id)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def check_expiry(expiry_ns: int) -> None:
    """Raises InvalidArgument for a life that no node's certificate can have."""
    if expiry_ns < MIN_EXPIRY_NS:
        raise InvalidArgument("node certificates must be valid for 30 minutes at least: ask for a longer expiry")
    if expiry_ns > MAX_EXPIRY_NS:
        raise InvalidArgument("node certificates are valid for 20 years (175200h) at most, as the CA is")


def subject_key_id(ca_certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """What a CA certificate calls its key. Of its own accord, if it is not one of ours."""
    try:
        return ca_certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(ca_certificate.public_key())


def authority_key_id(ca_certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The same, as what this CA signs has to say it."""
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key_id(ca_certificate))


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_private_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key of PEM bytes. Raises BadCertificate; the message never quotes the key."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadCertificate("not an unencrypted private key in PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadCertificate("the private key is not an elliptic-curve key")
    return key


def public_key_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key_of(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key that a request is for. Raises InvalidArgument as :func:`issue`."""
    if len(csr_pem) > MAX_PEM_BYTES:
        raise InvalidArgument(f"certificate request of {len(csr_pem)} bytes: the limit is {MAX_PEM_BYTES}")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        signed = request.is_signature_valid
        public = request.public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise InvalidArgument("malformed certificate request: send a PEM-encoded PKCS#10 request") from error
    if not signed:
        raise InvalidArgument("the certificate request is not signed with its own key")
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidArgument("the certificate request has another key than an elliptic-curve P-256 one")
    return public


def key_usage(*, ca: bool) -> x509.KeyUsage:
    """What the key of a CA, or of anybody else, may be used for."""
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def as_time(ns: int) -> dt.datetime:
    """Nanoseconds since the Unix epoch as certificates have it."""
    # Certificates count whole seconds.
    return dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC)

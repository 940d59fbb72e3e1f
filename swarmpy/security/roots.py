"""The root CAs of a cluster: which one signs, which ones are trusted, and how one takes the place of another.

While the root is changed there are two. The new one signs; its key is also certified by the one before, so that who
trusts only that one accepts what the new one signs, by the chain that is shown with it. When it is the only one, the
one before is remembered as a former root, without its key, for the nodes that were away.

Nothing here decides when a step is taken (:mod:`swarmpy.control.rotation`) or does anything but compute.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.objects import Cluster, FormerRoot, JoinTokens, RootCA, RootRotation
from swarmpy.security.ca import authority_key_id, ca_digest, load_private_key, private_key_pem, subject_key_id
from swarmpy.security.certificates import MAX_PEM_BYTES, is_issued_by, load_certificate

MAX_FORMER_ROOTS = 8
"""Former roots remembered; nodes that were away for more changes of the root than that have to join again."""
LEAST_LIFE = dt.timedelta(days=365)
"""A root that an operator brings is valid for that long at least (swarmkit ``controlapi/ca_rotation.go``)."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


# -- certificates -----------------------------------------------------------------------------------------------------


def split(bundle: bytes) -> tuple[bytes, ...]:
    """The certificates of a PEM file one by one. Raises BadCertificate when it is too large."""
    if len(bundle) > MAX_PEM_BYTES:
        raise BadCertificate(f"certificates of {len(bundle)} bytes are larger than the limit of {MAX_PEM_BYTES}")
    return tuple(found + b"\n" for found in _PEM.findall(bundle))


def joined(certificates: Iterable[bytes]) -> bytes:
    """The PEM file of these certificates, each once."""
    return b"".join(dict.fromkeys(pem.strip() + b"\n" for pem in certificates))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the whole certificate, in hexadecimal."""
    return certificate.fingerprint(hashes.SHA256()).hex()


@functools.lru_cache(maxsize=64)
def digest_of(cert_pem: bytes) -> str:
    """:func:`~swarmpy.security.ca.ca_digest`, remembered."""
    return ca_digest(cert_pem)


@functools.lru_cache(maxsize=64)
def key_of(cert_pem: bytes) -> str:
    """The digest of the key in a CA certificate: the same in each certificate of that key, whoever signed it."""
    return key_digest(load_certificate(cert_pem))


def key_digest(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's key, in hexadecimal."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadCertificate("the certificate holds an unreadable key") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def check_chain(certificate: x509.Certificate, chain: Sequence[bytes], roots: Sequence[bytes]) -> None:
    """Raises BadCertificate unless one of ``roots`` signed ``certificate``, or the last needed one of ``chain``."""
    anchors = [load_certificate(pem) for pem in roots]
    last = certificate
    for pem in (*chain, None):
        if any(is_issued_by(last, root) for root in anchors):
            return
        if pem is None or not is_issued_by(last, link := load_certificate(pem)):
            break
        last = link
    raise BadCertificate("the certificate is not signed by the cluster's root CA")


def cross_sign(signer: RootCA, cert_pem: bytes) -> bytes:
    """A certificate (PEM) by ``signer`` for the name and the key of another root CA."""
    by, root = load_certificate(signer.cert_pem), load_certificate(cert_pem)
    key = load_private_key(signer.key_pem)
    builder = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(by.subject)
        .public_key(root.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(min(root.not_valid_after_utc, by.not_valid_after_utc))
        .add_extension(_constraints(root), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(subject_key_id(root), critical=False)
        .add_extension(authority_key_id(by), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _constraints(root: x509.Certificate) -> x509.BasicConstraints:
    return root.extensions.get_extension_for_class(x509.BasicConstraints).value


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def given_root(cert_pem: bytes, key_pem: bytes, now_ns: int) -> RootCA:
    """The root CA that an operator brings. Raises InvalidArgument with what it lacks; never quotes the key."""
    try:
        certificates = split(cert_pem)
        if len(certificates) != 1:
            raise InvalidArgument(f"the CA certificate must be one PEM certificate, and there are {len(certificates)}")
        certificate = load_certificate(certificates[0])
        key = load_private_key(key_pem)
        constraints = _constraints(certificate)
        if certificate.public_key() != key.public_key():
            raise InvalidArgument("the CA key is not the one of the CA certificate")
        if not is_issued_by(certificate, certificate):
            raise InvalidArgument("the CA certificate is not signed by itself: a root CA is needed")
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except BadCertificate as error:
        raise InvalidArgument(f"the CA certificate or key is not usable: {error}") from error
    except x509.ExtensionNotFound as error:
        raise InvalidArgument("the CA certificate needs the extensions basicConstraints and keyUsage") from error
    except ValueError as error:
        raise InvalidArgument("the CA certificate is not readable") from error
    if not constraints.ca or not usage.key_cert_sign:
        raise InvalidArgument("the CA certificate is not one of a CA: basicConstraints CA:TRUE, keyUsage keyCertSign")
    if constraints.path_length == 0:
        raise InvalidArgument(
            "the CA certificate has pathlen:0, so this root could never be changed again: use 1 or none"
        )
    now = dt.datetime.fromtimestamp(now_ns // 1_000_000_000, dt.UTC)
    if certificate.not_valid_before_utc > now:
        raise InvalidArgument(f"the CA certificate is not valid before {certificate.not_valid_before_utc}")
    if certificate.not_valid_after_utc < now + LEAST_LIFE:
        raise InvalidArgument("the CA certificate must be valid for another year at least")
    pem = certificate.public_bytes(Encoding.PEM)
    return RootCA(cert_pem=pem, key_pem=private_key_pem(key), cert_digest=ca_digest(pem))


# -- the roots of a cluster -------------------------------------------------------------------------------------------


def signing_root(cluster: Cluster) -> RootCA:
    """The root CA that signs nodes' certificates now."""
    return cluster.root_ca if cluster.rotation is None else cluster.rotation.root


def chain(cluster: Cluster) -> tuple[bytes, ...]:
    """What nodes show beside a certificate of the signing root, for those who trust only an earlier one."""
    crosses = [former.cross_signed_pem for former in cluster.former_roots]
    if cluster.rotation is not None:
        crosses.append(cluster.rotation.cross_signed_pem)
    return tuple(reversed(crosses))


def trusted(cluster: Cluster) -> tuple[RootCA, ...]:
    """The root CAs that a node is to trust."""
    return (cluster.root_ca,) if cluster.rotation is None else (cluster.root_ca, cluster.rotation.root)


def trusted_pem(cluster: Cluster) -> tuple[bytes, ...]:
    """The certificates of :func:`trusted`."""
    return tuple(root.cert_pem for root in trusted(cluster))


def outgoing(cluster: Cluster) -> tuple[bytes, ...]:
    """Certificates of the roots that sign nothing any more; managers know each certificate of theirs that counts."""
    former = tuple(former.cert_pem for former in cluster.former_roots)
    return former if cluster.rotation is None else (*former, cluster.root_ca.cert_pem)


def known(cluster: Cluster) -> dict[str, bytes]:
    """All root CA certificates that the cluster knows, by digest."""
    certificates = (*outgoing(cluster), *trusted_pem(cluster))
    return {digest_of(pem): pem for pem in certificates}


def begun(cluster: Cluster, root: RootCA, now_ns: int) -> Cluster:
    """The cluster as it is when the change to ``root`` begins."""
    assert cluster.rotation is None
    cross_signed = cross_sign(cluster.root_ca, root.cert_pem)
    return attrs.evolve(cluster, rotation=RootRotation(root=root, cross_signed_pem=cross_signed, started_at_ns=now_ns))


def finished(cluster: Cluster, tokens: JoinTokens, until_ns: int) -> Cluster:
    """The cluster as it is when the change is over. ``until_ns``: until when the root that goes is remembered."""
    rotation = cluster.rotation
    assert rotation is not None
    former = FormerRoot(
        cert_pem=cluster.root_ca.cert_pem, cross_signed_pem=rotation.cross_signed_pem, until_ns=until_ns
    )
    return attrs.evolve(
        cluster,
        root_ca=rotation.root,
        join_tokens=tokens,
        rotation=None,
        former_roots=(*cluster.former_roots, former)[-MAX_FORMER_ROOTS:],
    )

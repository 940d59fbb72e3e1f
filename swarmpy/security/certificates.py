"""What a certificate says: who (CN), what role (OU), which cluster (O), from when until when.

Reading only. Bytes of a peer come in here, so nothing but BadCertificate ever comes out.
"""

from __future__ import annotations

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from swarmpy.errors import BadCertificate
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role

MAX_PEM_BYTES = 64 * 1024
"""Longer certificates and requests are refused unread."""

SKEW_NS = 3600 * 1_000_000_000
"""Certificates are valid for an hour more at either end: the clocks of the nodes may differ by so much."""

ROLE_UNITS: dict[Role, str] = {Role.MANAGER: "swarm-manager", Role.WORKER: "swarm-worker"}
"""A role as Docker Swarm writes it into the OU of a certificate."""


@attrs.frozen(kw_only=True)
class CertificateFacts:
    """A node's certificate, read. Times are nanoseconds since the Unix epoch."""

    node_id: NodeId
    role: Role
    cluster_id: str
    serial: str
    """In hexadecimal, lower case."""
    not_before_ns: int
    not_after_ns: int


def load_certificate(data: bytes) -> x509.Certificate:
    """The certificate of PEM or DER bytes. Raises BadCertificate."""
    if len(data) > MAX_PEM_BYTES:
        raise BadCertificate(f"a certificate of {len(data)} bytes is larger than the limit of {MAX_PEM_BYTES}")
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise BadCertificate(f"not a certificate: {_one_line(error)}") from error


def read_certificate(data: bytes) -> CertificateFacts:
    """Who the certificate of a node (PEM or DER) is for. Raises BadCertificate. Does not check who signed it."""
    certificate = load_certificate(data)
    try:
        subject, serial = certificate.subject, certificate.serial_number
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (ValueError, TypeError) as error:
        raise BadCertificate(f"unreadable certificate: {_one_line(error)}") from error
    return CertificateFacts(
        node_id=NodeId(_single(subject, NameOID.COMMON_NAME, "common name")),
        role=_role(_single(subject, NameOID.ORGANIZATIONAL_UNIT_NAME, "organizational unit")),
        cluster_id=_single(subject, NameOID.ORGANIZATION_NAME, "organization"),
        serial=f"{serial:x}",
        not_before_ns=int(not_before.timestamp()) * 1_000_000_000,
        not_after_ns=int(not_after.timestamp()) * 1_000_000_000,
    )


def check_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Raises BadCertificate unless ``issuer`` signed ``certificate``."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise BadCertificate("the certificate is not signed by the cluster's root CA") from error


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True when ``issuer`` signed ``certificate``."""
    try:
        check_issued_by(certificate, issuer)
    except BadCertificate:
        return False
    return True


def _single(subject: x509.Name, oid: x509.ObjectIdentifier, what: str) -> str:
    values = subject.get_attributes_for_oid(oid)
    if len(values) != 1:
        raise BadCertificate(f"a node's certificate has exactly one {what}, this one has {len(values)}")
    value = values[0].value
    if not isinstance(value, str) or not value:
        raise BadCertificate(f"the {what} of the certificate is empty")
    return value


def _role(unit: str) -> Role:
    for role, name in ROLE_UNITS.items():
        if name == unit:
            return role
    raise BadCertificate(f"the certificate has the unknown role {unit!r}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""Certificates of the API over TCP: of the clients that may use it, and of the managers that serve it.

They come from the cluster's CA as those of the nodes do, and are of no use where those are: the unit in the name is
another one, and what each may be used for is written in it (clients to be clients, servers to be servers). A client's
certificate alone lets nobody in: it must be in the cluster's state, too.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import ssl
from collections.abc import Iterable

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.objects import RootCA
from swarmpy.model.states import ApiRole
from swarmpy.security.ca import (
    SKEW,
    as_time,
    authority_key_id,
    key_usage,
    load_private_key,
    private_key_pem,
    public_key_of,
)
from swarmpy.security.certificates import ROLE_UNITS, load_certificate
from swarmpy.security.roots import fingerprint, joined
from swarmpy.security.tls import load_pair, trust

CLIENT_UNITS: dict[ApiRole, str] = {ApiRole.ADMIN: "swarm-admin", ApiRole.VIEWER: "swarm-viewer"}
SERVER_UNIT = "swarm-api"
MIN_EXPIRY_NS = 60 * 1_000_000_000
MAX_EXPIRY_NS = 10 * 365 * 24 * 3600 * 1_000_000_000
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""With forward secrecy and authenticated encryption only; TLS 1.3 has no others anyway."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


@attrs.frozen(kw_only=True)
class Issued:
    """A certificate (DER) and what is to be remembered of it."""

    der: bytes
    serial: str
    fingerprint: str
    not_after_ns: int


@attrs.frozen(kw_only=True)
class ClientFacts:
    """A client's certificate, read. Says nothing of whether it counts."""

    name: str
    role: ApiRole
    cluster_id: str
    serial: str
    fingerprint: str
    """SHA-256 of the whole certificate, in hexadecimal."""
    not_after_ns: int


def check_client_name(name: str) -> None:
    """Raises InvalidArgument for what a client cannot be called."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name[:80]!r} is no name for a client certificate: use 1 to 63 letters, digits and _.@-, the first a "
            "letter or digit"
        )


def issue_client(
    root: RootCA,
    csr_pem: bytes,
    *,
    name: str,
    role: ApiRole,
    cluster_id: str,
    expiry_ns: int,
    now_ns: int,
) -> Issued:
    """A client's certificate for the key in ``csr_pem``. Raises InvalidArgument as :func:`~swarmpy.security.ca.issue`,
    and for a name or an expiry that is none.
    """
    check_client_name(name)
    if not MIN_EXPIRY_NS <= expiry_ns <= MAX_EXPIRY_NS:
        raise InvalidArgument("client certificates are valid for one minute at least and ten years (87600h) at most")
    builder = _builder(
        root, public_key_of(csr_pem), name=name, unit=CLIENT_UNITS[role], cluster_id=cluster_id, now_ns=now_ns
    )
    return _signed(
        builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=True),
        root,
        as_time(now_ns) + dt.timedelta(microseconds=expiry_ns // 1000),
    )


@attrs.frozen(kw_only=True)
class ServerPair:
    """What a manager shows at its API port."""

    cert_pem: bytes
    """With what stands behind it in the file: certificates for those who trust only an earlier root."""
    key_pem: bytes = attrs.field(repr=False)
    not_after_ns: int


def issue_server(
    root: RootCA,
    *,
    names: Iterable[str],
    node_id: str,
    cluster_id: str,
    expiry_ns: int,
    now_ns: int,
    chain: Iterable[bytes] = (),
) -> ServerPair:
    """A new key, and its certificate for a server that is found at ``names``: addresses and DNS names.

    ``chain`` (PEM) is shown beside it, for those who trust only an earlier root.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(root, key.public_key(), name=node_id, unit=SERVER_UNIT, cluster_id=cluster_id, now_ns=now_ns)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
    issued = _signed(builder, root, as_time(now_ns) + dt.timedelta(microseconds=expiry_ns // 1000))
    return ServerPair(
        cert_pem=joined((ssl.DER_cert_to_PEM_cert(issued.der).encode(), *chain)),
        key_pem=private_key_pem(key),
        not_after_ns=issued.not_after_ns,
    )


def read_client(der: bytes) -> ClientFacts:
    """Whom a certificate that was shown at the API is for. Raises BadCertificate for one that is no client's."""
    certificate = load_certificate(der)
    try:
        subject = certificate.subject
        not_after = certificate.not_valid_after_utc
        parts = {
            oid: [str(attribute.value) for attribute in subject.get_attributes_for_oid(oid)]
            for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.ORGANIZATION_NAME)
        }
        serial = certificate.serial_number
    except (ValueError, TypeError) as error:
        raise BadCertificate("the certificate is unreadable") from error
    if any(len(values) != 1 for values in parts.values()):
        raise BadCertificate("the certificate is not one of the API's clients")
    (name,), (unit,), (cluster_id,) = parts.values()
    if unit in CLIENT_UNITS.values() and not _NAME.fullmatch(name):
        raise BadCertificate("the certificate has a name that no client of the API has")
    for role, of_role in CLIENT_UNITS.items():
        if unit == of_role:
            return ClientFacts(
                name=name,
                role=role,
                cluster_id=cluster_id,
                serial=f"{serial:x}",
                fingerprint=fingerprint(certificate),
                not_after_ns=int(not_after.timestamp()) * 1_000_000_000,
            )
    what = "a node's" if unit in ROLE_UNITS.values() else f"of the unit {unit[:40]!r}"
    raise BadCertificate(
        f'the certificate is {what}, not one of the API\'s clients: "swarmpy swarm client-cert" makes those'
    )


def is_server_name(name: str) -> bool:
    """True for what can stand in a server's certificate: an IP address or a DNS name, ``*.`` before it or not."""
    return _is_address(name) or (len(name) <= 253 and _DNS_NAME.fullmatch(name) is not None)


def server_context(pair: ServerPair, roots: Iterable[bytes]) -> ssl.SSLContext:
    """The context of an API port: TLS 1.2 at least, and nobody without a certificate of one of ``roots`` (PEM)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    for root in roots:
        trust(context, root)
    load_pair(context, pair.cert_pem, pair.key_pem, "this manager's API")
    return context


def _builder(
    root: RootCA, public: ec.EllipticCurvePublicKey, *, name: str, unit: str, cluster_id: str, now_ns: int
) -> x509.CertificateBuilder:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster_id),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    ca_certificate = load_certificate(root.cert_pem)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca_certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(as_time(now_ns) - SKEW)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(ca=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(authority_key_id(ca_certificate), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, root: RootCA, not_after: dt.datetime) -> Issued:
    until = min(not_after, load_certificate(root.cert_pem).not_valid_after_utc)
    certificate = builder.not_valid_after(until).sign(load_private_key(root.key_pem), hashes.SHA256())
    return Issued(
        der=certificate.public_bytes(serialization.Encoding.DER),
        serial=f"{certificate.serial_number:x}",
        fingerprint=fingerprint(certificate),
        not_after_ns=int(until.timestamp()) * 1_000_000_000,
    )


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""Certificates of the API: what they say, and that none of them is good for what another one is for."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
import time
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import RootCA
from swarmpy.model.states import ApiRole, Role
from swarmpy.security import api_certificates, tls
from swarmpy.security.api_certificates import (
    MAX_EXPIRY_NS,
    ClientFacts,
    is_server_name,
    issue_client,
    issue_server,
    read_client,
    server_context,
)
from swarmpy.security.ca import create_root_ca, issue
from swarmpy.security.certificates import load_certificate, read_certificate
from swarmpy.security.identity import NodeIdentity, new_key_and_csr

HOUR_NS = 3600 * 1_000_000_000
NOW_NS = time.time_ns()
"""OpenSSL goes by the machine's clock."""
ROOT = create_root_ca(NOW_NS)
OTHER_ROOT = create_root_ca(NOW_NS)


def client(
    role: ApiRole = ApiRole.ADMIN, *, root: RootCA = ROOT, name: str = "alice", now_ns: int = NOW_NS
) -> tuple[bytes, bytes]:
    """A client's certificate and key, both PEM."""
    key_pem, csr_pem = new_key_and_csr()
    issued = issue_client(root, csr_pem, name=name, role=role, cluster_id="c1", expiry_ns=HOUR_NS, now_ns=now_ns)
    return ssl.DER_cert_to_PEM_cert(issued.der).encode(), key_pem


def node(role: Role = Role.MANAGER) -> NodeIdentity:
    """A node's identity."""
    key_pem, csr_pem = new_key_and_csr()
    cert_pem = issue(ROOT, csr_pem, node_id=NodeId("n1"), role=role, cluster_id="c1", expiry_ns=HOUR_NS, now_ns=NOW_NS)
    return NodeIdentity.from_pem(cert_pem=cert_pem, key_pem=key_pem, ca_pem=ROOT.cert_pem)


def shaking_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake that was made in memory. Raises ssl.SSLError of whichever end refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    )
    waiting = list(ends)
    for _ in range(20):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
        if not waiting:
            # In TLS 1.3 the server's refusal comes after the client is done.
            ends[1].write(b"x")
            assert ends[0].read(1) == b"x"
            return ends
    raise AssertionError("no end of it")


def client_context(cert_pem: bytes, key_pem: bytes, *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client of the API."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = most
    tls.trust(context, ROOT.cert_pem)
    tls.load_pair(context, cert_pem, key_pem, "a test")
    return context


def api_context(names: tuple[str, ...] = ("192.0.2.7", "manager.example", "*.lab.example")) -> ssl.SSLContext:
    """The server of the API."""
    pair = issue_server(ROOT, names=names, node_id="n1", cluster_id="c1", expiry_ns=HOUR_NS, now_ns=NOW_NS)
    return server_context(pair, (ROOT.cert_pem,))


# -- clients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "unit"), [(ApiRole.ADMIN, "swarm-admin"), (ApiRole.VIEWER, "swarm-viewer")])
def test_a_clients_certificate_says_who_and_what(role: ApiRole, unit: str) -> None:
    """Its name and role; that it is a client's and nothing else; never more than an end of a chain."""
    cert_pem, _ = client(role)
    certificate = load_certificate(cert_pem)
    assert certificate.subject.rfc4514_string() == f"CN=alice,OU={unit},O=c1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert (usage.critical, [u.dotted_string for u in usage.value]) == (True, ["1.3.6.1.5.5.7.3.2"])
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    facts = read_client(ssl.PEM_cert_to_DER_cert(cert_pem.decode()))
    assert facts == ClientFacts(
        name="alice",
        role=role,
        cluster_id="c1",
        serial=f"{certificate.serial_number:x}",
        fingerprint=hashlib.sha256(ssl.PEM_cert_to_DER_cert(cert_pem.decode())).hexdigest(),
        not_after_ns=(NOW_NS + HOUR_NS) // 1_000_000_000 * 1_000_000_000,
    )


def test_only_the_key_is_taken_of_a_request() -> None:
    """Whatever names and powers it claims."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "root"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "swarm-manager"),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    request = request.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    csr_pem = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    issued = issue_client(
        ROOT, csr_pem, name="bob", role=ApiRole.VIEWER, cluster_id="c1", expiry_ns=HOUR_NS, now_ns=NOW_NS
    )
    assert read_client(issued.der).name == "bob"
    assert not load_certificate(issued.der).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("name", ["", "a b", "../x", "-a", "a/b", "a\n", "x" * 64, "ä", "a\0b", "."])
def test_names_that_are_none(name: str) -> None:
    """They are shown in lists and lines of logs."""
    _, csr_pem = new_key_and_csr()
    with pytest.raises(InvalidArgument, match="is no name for a client certificate"):
        issue_client(ROOT, csr_pem, name=name, role=ApiRole.ADMIN, cluster_id="c1", expiry_ns=HOUR_NS, now_ns=NOW_NS)


@pytest.mark.parametrize("expiry_ns", [0, -1, 59 * 1_000_000_000, MAX_EXPIRY_NS + 1])
def test_lives_that_are_none(expiry_ns: int) -> None:
    """Too short to be of use, or for longer than anybody will remember it."""
    _, csr_pem = new_key_and_csr()
    with pytest.raises(InvalidArgument, match="one minute at least and ten years"):
        issue_client(ROOT, csr_pem, name="a", role=ApiRole.ADMIN, cluster_id="c1", expiry_ns=expiry_ns, now_ns=NOW_NS)


def test_a_name_that_would_upset_a_log_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has the CA's key can sign any; it is not passed on."""
    monkeypatch.setattr(api_certificates, "check_client_name", lambda _: None)
    cert_pem, _ = client(name="a\n2026-01-01 level=info event=all_is_well")
    with pytest.raises(BadCertificate, match="a name that no client of the API has"):
        read_client(ssl.PEM_cert_to_DER_cert(cert_pem.decode()))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_certificate(data: bytes) -> None:
    """They come from whoever connects."""
    with pytest.raises(BadCertificate):
        read_client(data)


# -- none is good for what another is for ---------------------------------------------------------------------------


def test_a_nodes_certificate_is_no_clients() -> None:
    """It passes the handshake, being of the CA, and is refused by its unit."""
    for role in Role:
        identity = node(role)
        server, _ = shaking_hands(api_context(), client_context(identity.cert_pem, identity.key_pem), "manager.example")
        with pytest.raises(BadCertificate, match="the certificate is a node's, not one of the API's clients"):
            read_client(server.getpeercert(binary_form=True) or b"")


def test_a_clients_certificate_is_no_nodes() -> None:
    """At the cluster port it is nobody's, whatever its role at the API."""
    for role in ApiRole:
        caller = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        caller.check_hostname = False
        tls.trust(caller, ROOT.cert_pem)
        tls.load_pair(caller, *client(role), "a test")
        server, _ = shaking_hands(tls.server_context(node()), caller, None)
        with pytest.raises(BadCertificate, match=f"unknown role 'swarm-{role}'"):
            tls.peer_identity(server, "c1")


def test_a_clients_certificate_is_no_servers() -> None:
    """Neither of the API nor of the cluster port."""
    as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_pair(as_server, *client(), "a test")
    for caller in (client_context(*client()), tls.client_context(node())):
        with pytest.raises(ssl.SSLError, match=r"(?i)unsuitable certificate purpose|certificate_verify_failed"):
            shaking_hands(as_server, caller, "manager.example")


def test_the_servers_certificate_is_no_clients_and_no_nodes() -> None:
    """Who steals it can be the API, until it runs out in a few weeks, and nothing else."""
    pair = issue_server(ROOT, names=("localhost",), node_id="n1", cluster_id="c1", expiry_ns=HOUR_NS, now_ns=NOW_NS)
    with pytest.raises(ssl.SSLError):
        shaking_hands(api_context(), client_context(pair.cert_pem, pair.key_pem), "manager.example")
    with pytest.raises(ssl.SSLError):
        shaking_hands(tls.server_context(node()), client_context(pair.cert_pem, pair.key_pem), None)
    for read in (read_certificate, read_client):
        with pytest.raises(BadCertificate):
            read(ssl.PEM_cert_to_DER_cert(pair.cert_pem.decode()))
    # Not even where it is shown by a server: a node that calls a manager looks at its role.
    as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_pair(as_server, pair.cert_pem, pair.key_pem, "a test")
    _, caller = shaking_hands(as_server, tls.joiner_context(ROOT.cert_pem), None)
    with pytest.raises(BadCertificate):
        tls.peer_identity(caller, "c1")


# -- the handshake --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["192.0.2.7", "manager.example", "m7.lab.example"])
def test_the_server_is_found_by_its_names(name: str) -> None:
    """Addresses, names and those under a star; with both versions of TLS."""
    for most in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        server, _ = shaking_hands(api_context(), client_context(*client(), most=most), name)
        assert server.version() == ("TLSv1.3" if most is ssl.TLSVersion.TLSv1_3 else "TLSv1.2")
        assert read_client(server.getpeercert(binary_form=True) or b"").name == "alice"


@pytest.mark.parametrize("name", ["192.0.2.8", "other.example", "lab.example", "a.b.lab.example"])
def test_and_by_no_others(name: str) -> None:
    """Who asks for another machine does not take this one for it."""
    with pytest.raises(ssl.SSLCertVerificationError):
        shaking_hands(api_context(), client_context(*client()), name)


def nobody(context: ssl.SSLContext) -> None:
    """No certificate at all."""


def of_another_ca(context: ssl.SSLContext) -> None:
    """That of another cluster."""
    tls.load_pair(context, *client(root=OTHER_ROOT), "a test")


def expired(context: ssl.SSLContext) -> None:
    """One that was good yesterday."""
    tls.load_pair(context, *client(now_ns=NOW_NS - 24 * HOUR_NS), "a test")


def of_tomorrow(context: ssl.SSLContext) -> None:
    """One that will be good tomorrow."""
    tls.load_pair(context, *client(now_ns=NOW_NS + 24 * HOUR_NS), "a test")


def signed_by_itself(context: ssl.SSLContext) -> None:
    """One that says all the right words."""
    key = ec.generate_private_key(ec.SECP256R1())
    genuine = load_certificate(client()[0])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=genuine.issuer, subject_name=genuine.subject, public_key=key.public_key(), serial_number=7
    )
    builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
    for extension in genuine.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    tls.load_pair(
        context, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key_pem, "a test"
    )


@pytest.mark.parametrize("shown", [nobody, of_another_ca, expired, of_tomorrow, signed_by_itself])
@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_nobody_else_gets_through_the_handshake(shown: Callable[[ssl.SSLContext], None], most: ssl.TLSVersion) -> None:
    """Not a byte of theirs is read as a request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = most
    tls.trust(context, ROOT.cert_pem)
    shown(context)
    with pytest.raises(ssl.SSLError):
        shaking_hands(api_context(), context, "manager.example")


@pytest.mark.parametrize("cipher", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"])
def test_old_ciphers_are_refused(cipher: str) -> None:
    """Those without forward secrecy or authenticated encryption."""
    context = client_context(*client(), most=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shaking_hands(api_context(), context, "manager.example")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("localhost", True), ("a_b.example", True), ("*.example.com", True), ("10.0.0.1", True), ("2001:db8::1", True),
        ("", False), ("a b", False), ("*", False), ("a.*.b", False), ("-", False), ("a-.b", False), ("a..b", False),
        ("10.0.0.1:80", False), ("http://x", False), ("x" * 64, False), ("a." * 127 + "abc", False), ("ä.x", False),
    ],
)  # fmt: skip
def test_what_can_stand_in_a_servers_certificate(name: str, is_one: bool) -> None:
    """Addresses and DNS names, with a star for the first label or without."""
    assert is_server_name(name) is is_one

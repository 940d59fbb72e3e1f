"""A node's identity: its key, its certificate and the root CAs it trusts, in memory and in its data directory.

Key and certificate are two files that belong together. A renewal writes the new key beside the old one, asks for its
certificate, writes that, then puts the key in its place: whatever instant the machine stops at, one matching pair is
found again.
A manager's key is sealed; a worker, which has no vault, keeps it in clear.
When the roots change, the old and the new ones are trusted together before that, and only the new ones after it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swarmpy.errors import BadCertificate, DataDirMismatch, SealBroken, StorageError
from swarmpy.model.ids import NodeId
from swarmpy.model.states import Role
from swarmpy.security import private_files
from swarmpy.security.ca import load_private_key, private_key_pem
from swarmpy.security.certificates import MAX_PEM_BYTES, SKEW_NS, is_issued_by, load_certificate, read_certificate
from swarmpy.security.roots import check_chain, digest_of, fingerprint, joined, split
from swarmpy.security.sealing import KeyRing

DIRECTORY = "certificates"
KEY_FILE = "swarm-node.key"
NEW_KEY_FILE = "swarm-node.key.new"
CERT_FILE = "swarm-node.crt"
CA_FILE = "swarm-root-ca.crt"
_SEALED = b"swarmpy sealed key "
_ABOUT = b"swarmpy node key"


@attrs.frozen(kw_only=True)
class NodeIdentity:
    """What a node proves itself with. Make one with :meth:`from_pem`, which checks that the parts fit."""

    node_id: NodeId
    role: Role
    cluster_id: str
    cert_pem: bytes
    key_pem: bytes = attrs.field(repr=False)
    ca_pem: bytes
    """The root CAs that it trusts."""
    chain_pem: bytes = b""
    """What it shows beside its certificate, for those who trust only an earlier root."""
    serial: str
    not_before_ns: int
    not_after_ns: int

    @classmethod
    def from_pem(cls, *, cert_pem: bytes, key_pem: bytes, ca_pem: bytes, chain_pem: bytes = b"") -> NodeIdentity:
        """The identity made of these parts. Raises BadCertificate when they do not belong together."""
        certificate = load_certificate(cert_pem)
        if not _is_pair(certificate, key_pem):
            raise BadCertificate("the certificate is not for the private key beside it")
        check_chain(certificate, split(chain_pem), split(ca_pem))
        facts = read_certificate(cert_pem)
        return cls(
            node_id=facts.node_id,
            role=facts.role,
            cluster_id=facts.cluster_id,
            cert_pem=cert_pem,
            key_pem=key_pem,
            ca_pem=ca_pem,
            serial=facts.serial,
            chain_pem=chain_pem,
            not_before_ns=facts.not_before_ns,
            not_after_ns=facts.not_after_ns,
        )

    @property
    def roots(self) -> tuple[str, ...]:
        """The digests of the root CAs that it trusts."""
        return tuple(digest_of(pem) for pem in split(self.ca_pem))

    @property
    def fingerprint(self) -> str:
        """That of its certificate."""
        return fingerprint(load_certificate(self.cert_pem))

    def is_of(self, root_pem: bytes) -> bool:
        """True when this root CA signed its certificate."""
        return is_issued_by(load_certificate(self.cert_pem), load_certificate(root_pem))

    def trusting(self, roots: Sequence[bytes]) -> NodeIdentity:
        """The same with these root CAs. Raises BadCertificate when its certificate does not go back to any of them."""
        check_chain(load_certificate(self.cert_pem), split(self.chain_pem), roots)
        return attrs.evolve(self, ca_pem=joined(roots))

    def is_expired(self, now_ns: int) -> bool:
        """True when the certificate is no longer valid."""
        return now_ns >= self.not_after_ns

    @property
    def issued_at_ns(self) -> int:
        """When it was issued, by the clock of the manager that did it."""
        return self.not_before_ns + SKEW_NS

    @property
    def life_ns(self) -> int:
        """How long it was meant to be valid, without what is added for clocks that differ."""
        return max(0, self.not_after_ns - SKEW_NS - self.issued_at_ns)


def new_key_and_csr() -> tuple[bytes, bytes]:
    """A new private key and the request to certify it, both PEM. Names in the request mean nothing to the signer."""
    key_pem = private_key_pem(ec.generate_private_key(ec.SECP256R1()))
    return key_pem, csr_for(key_pem)


def csr_for(key_pem: bytes) -> bytes:
    """The request (PEM) to certify a private key. Raises BadCertificate for one that is not usable."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-node")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(load_private_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def next_key(data_dir: Path, ring: KeyRing | None = None) -> bytes:
    """The private key (PEM) that this node's next certificate is to be for, durable below ``data_dir``.

    It is the same one until :meth:`save_identity` has put it in place: whoever signs knows the repetition of a request
    whose answer was lost by its key. With a ``ring`` it is sealed. Raises StorageError.
    """
    path = data_dir / DIRECTORY / NEW_KEY_FILE
    found = _saved_key(path, ring)
    if found is not None and _is_key(found):
        return found
    key_pem, _ = new_key_and_csr()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_files.write_privately(path, _sealed(key_pem, ring))
    except OSError as error:
        raise StorageError(f"cannot save a new key in {path.parent}: {error.strerror or error}") from error
    return key_pem


def save_identity(data_dir: Path, identity: NodeIdentity, ring: KeyRing | None = None) -> None:
    """Write the identity below ``data_dir``, durably, its key sealed where there is a ``ring``. Raises StorageError."""
    directory = data_dir / DIRECTORY
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        both = joined((*_roots_in(directory), *split(identity.ca_pem)))
        shown = joined((identity.cert_pem, *split(identity.chain_pem)))
        private_files.write_privately(directory / CA_FILE, both)
        if _saved_key(directory / KEY_FILE, ring) == identity.key_pem:
            private_files.write_privately(directory / CERT_FILE, shown)
            if ring is not None:
                private_files.write_privately(directory / KEY_FILE, _sealed(identity.key_pem, ring))
        else:
            private_files.write_privately(directory / NEW_KEY_FILE, _sealed(identity.key_pem, ring))
            private_files.write_privately(directory / CERT_FILE, shown)
            _finish_renewal(directory)
        if both != identity.ca_pem:
            private_files.write_privately(directory / CA_FILE, identity.ca_pem)
        private_files.sync_directory(data_dir)
    except OSError as error:
        raise StorageError(f"cannot save the node's certificate in {directory}: {error.strerror or error}") from error


def save_roots(data_dir: Path, identity: NodeIdentity) -> None:
    """Write only the root CAs of an identity that is saved already, durably. Raises StorageError."""
    path = data_dir / DIRECTORY / CA_FILE
    try:
        private_files.write_privately(path, identity.ca_pem)
    except OSError as error:
        raise StorageError(f"cannot save the root CAs in {path}: {error.strerror or error}") from error


def reseal_keys(data_dir: Path, ring: KeyRing) -> None:
    """Seal the private keys below ``data_dir`` with the current key of ``ring``. Raises StorageError."""
    for name in (KEY_FILE, NEW_KEY_FILE):
        path = data_dir / DIRECTORY / name
        key_pem = read_key(path, ring)
        if key_pem is None:
            continue
        try:
            private_files.write_privately(path, _sealed(key_pem, ring))
        except OSError as error:
            raise StorageError(f"cannot seal the key in {path}: {error.strerror or error}") from error


def saved_role(data_dir: Path) -> Role | None:
    """The role that the certificate below ``data_dir`` says, which no key is needed to read; None without one.

    Raises DataDirMismatch, StorageError.
    """
    path = data_dir / DIRECTORY / CERT_FILE
    cert_pem = _read(path)
    try:
        return None if cert_pem is None else read_certificate(cert_pem).role
    except BadCertificate as error:
        raise DataDirMismatch(f"unusable certificate {path}: {error.message}; restore it or join again") from error


def load_identity(data_dir: Path, ring: KeyRing | None = None) -> NodeIdentity | None:
    """The identity saved below ``data_dir``, whose key ``ring`` opens if it is sealed; None when there is none.

    Raises DataDirMismatch when the files are damaged or do not belong together, StorageError when they cannot be read.
    """
    directory = data_dir / DIRECTORY
    cert_pem, ca_pem = _read(directory / CERT_FILE), _read(directory / CA_FILE)
    if cert_pem is None:
        # A node that stopped before its first certificate was written has a CA and perhaps a key: it has not joined.
        return None
    if ca_pem is None:
        raise DataDirMismatch(f"{directory / CA_FILE} is missing: restore it, or leave and join again")
    why = ""
    try:
        certificate = load_certificate(cert_pem)
        for name in (KEY_FILE, NEW_KEY_FILE):
            try:
                key_pem = read_key(directory / name, ring)
            except SealBroken as error:
                why = f" ({error})"
                continue
            if key_pem is not None and _is_pair(certificate, key_pem):
                if name == NEW_KEY_FILE:
                    _finish_renewal(directory)
                own, *chain = split(cert_pem) or (cert_pem,)
                return NodeIdentity.from_pem(cert_pem=own, key_pem=key_pem, ca_pem=ca_pem, chain_pem=joined(chain))
    except BadCertificate as error:
        raise DataDirMismatch(f"unusable identity in {directory}: {error.message}; restore it or join again") from error
    raise DataDirMismatch(f"no key in {directory} belongs to {CERT_FILE}{why}: restore it, or leave and join again")


def _sealed(key_pem: bytes, ring: KeyRing | None) -> bytes:
    if ring is None:
        return key_pem
    return _SEALED + b"%d\n%b\n" % (ring.current, base64.b64encode(ring.seal(key_pem, _ABOUT)))


def read_key(path: Path, ring: KeyRing | None) -> bytes | None:
    """A private key (PEM), sealed or not; None when there is none. Raises SealBroken, StorageError."""
    raw = _read(path)
    if raw is None or not raw.startswith(_SEALED):
        return raw
    number, _, sealed = raw.removeprefix(_SEALED).partition(b"\n")
    if ring is None:
        raise SealBroken(f"{path.name} is sealed, and the vault that it was sealed with is gone")
    try:
        return ring.open(int(number), base64.b64decode(sealed.strip(), validate=True), _ABOUT)
    except (ValueError, binascii.Error):
        raise SealBroken(f"{path.name} is damaged") from None
    except SealBroken as error:
        raise SealBroken(f"{path.name} cannot be opened: {error}") from None


def _saved_key(path: Path, ring: KeyRing | None) -> bytes | None:
    try:
        return read_key(path, ring)
    except SealBroken:
        return None


def _is_key(key_pem: bytes) -> bool:
    try:
        load_private_key(key_pem)
    except BadCertificate:
        return False
    return True


def _is_pair(certificate: x509.Certificate, key_pem: bytes) -> bool:
    try:
        certified = certificate.public_key()
    except ValueError as error:
        raise BadCertificate("the certificate holds an unreadable key") from error
    return bool(load_private_key(key_pem).public_key() == certified)


def _roots_in(directory: Path) -> tuple[bytes, ...]:
    try:
        return split(_read(directory / CA_FILE) or b"")
    except BadCertificate:
        return ()


def _finish_renewal(directory: Path) -> None:
    (directory / NEW_KEY_FILE).replace(directory / KEY_FILE)
    private_files.sync_directory(directory)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PEM_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error

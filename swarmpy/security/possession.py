"""How a node whose certificate TLS does not take any more shows that it is the one that the certificate is of.

It signs its request for a new certificate with the key of the old one. The signature is worth nothing to anybody else:
it stands for one new key, and what is issued for that can be used only by who has it. So there is nothing to replay.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from swarmpy.errors import BadCertificate
from swarmpy.security.ca import load_private_key
from swarmpy.security.certificates import load_certificate

CONTEXT = b"swarmpy: a node asks for a new certificate with the key of its old one\0"
"""Nothing else that is ever signed with a node's key begins so: TLS and requests have beginnings of their own."""
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def sign_request(key_pem: bytes, csr_pem: bytes) -> bytes:
    """Proof that whoever asks with ``csr_pem`` has the private key ``key_pem``. Raises BadCertificate."""
    return load_private_key(key_pem).sign(CONTEXT + csr_pem, _ALGORITHM)


def check_signed(cert_pem: bytes, csr_pem: bytes, proof: bytes) -> None:
    """Raises BadCertificate unless ``proof`` was made with the key of the certificate, for this very request."""
    public = load_certificate(cert_pem).public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise BadCertificate("the certificate is of another kind than a node's")
    try:
        public.verify(proof, CONTEXT + csr_pem, _ALGORITHM)
    except InvalidSignature as error:
        raise BadCertificate("the request is not signed with the key of the certificate that it shows") from error

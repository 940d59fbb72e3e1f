"""A handshake in memory: do nodes accept what they are going to be shown? To be known before anything is changed."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from swarmpy.errors import BadCertificate, InvalidArgument
from swarmpy.model.ids import NodeId
from swarmpy.model.objects import RootCA
from swarmpy.model.states import Role
from swarmpy.security.ca import MAX_EXPIRY_NS, issue
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.roots import joined
from swarmpy.security.tls import joiner_context, server_context

ROUNDS = 10
"""More than a handshake takes."""


def rehearse(root: RootCA, chain: Sequence[bytes], trusted: bytes, now_ns: int) -> None:
    """Raises InvalidArgument unless who trusts only ``trusted`` accepts what ``root`` signs, shown with ``chain``."""
    key_pem, csr_pem = new_key_and_csr()
    try:
        cert_pem = issue(
            root,
            csr_pem,
            node_id=NodeId("rehearsal"),
            role=Role.WORKER,
            cluster_id="rehearsal",
            expiry_ns=MAX_EXPIRY_NS,
            now_ns=now_ns,
        )
        identity = NodeIdentity.from_pem(
            cert_pem=cert_pem, key_pem=key_pem, ca_pem=joined((root.cert_pem,)), chain_pem=joined(chain)
        )
        _shake_hands(server_context(identity), joiner_context(trusted))
    except (BadCertificate, ssl.SSLError) as error:
        reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
        raise InvalidArgument(f"nodes would not accept certificates of this root CA: {reason}") from error


def _shake_hands(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client_context.wrap_bio(to_client, to_server), server]
    for _ in range(ROUNDS):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return
    raise BadCertificate("the handshake does not come to an end")

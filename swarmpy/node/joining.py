"""The joiner's side of becoming a node, and of coming back as one.

Nothing secret leaves this machine before the other end has shown the root certificate that the token names: the token
itself is sent only over a connection verified against that certificate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from swarmpy.errors import (
    BadCertificate,
    ConnectionFailed,
    NotLeader,
    ProtocolViolation,
    SwarmpyError,
    Unavailable,
    UserError,
)
from swarmpy.manager.joining import Certified, JoinCall, RejoinCall
from swarmpy.model import codec
from swarmpy.model.states import Availability
from swarmpy.ports import Dialer, Random
from swarmpy.security import tokens
from swarmpy.security.ca import ca_digest, vouched_root
from swarmpy.security.identity import NodeIdentity, csr_for, new_key_and_csr
from swarmpy.security.possession import sign_request
from swarmpy.security.roots import joined, split
from swarmpy.security.tls import joiner_context, unverified_context
from swarmpy.wire.rpc import RpcDialer

DIAL_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 15.0
PATIENCE_S = 20.0
RETRY_FIRST_S = 0.25
RETRY_MOST_S = 2.0


async def fetch_identity(
    addresses: Sequence[str],
    token: str,
    *,
    hostname: str,
    availability: Availability,
    random: Random,
    patience_s: float = PATIENCE_S,
) -> tuple[NodeIdentity, Certified]:
    """Become a node of the cluster that ``token`` names, through the first manager of ``addresses`` that answers.

    Managers that are busy with others who join are asked again, for ``patience_s`` seconds. It is the same request each
    time, so it makes one node. Raises InvalidArgument for a malformed token, BadCertificate when the manager is of
    another cluster, PermissionDenied when the token is not valid (any more), ConnectionFailed when nobody answers.
    """
    key_pem, csr_pem = new_key_and_csr()
    call = JoinCall(
        token=token, csr_pem=csr_pem, hostname=hostname, availability=availability, schema=codec.SCHEMA_VERSION
    )
    payload = codec.to_plain(call)
    return await _through_any(addresses, token, "ca.join", payload, key_pem, random, patience_s)


async def _through_any(
    addresses: Sequence[str],
    token: str,
    method: str,
    payload: Any,
    key_pem: bytes,
    random: Random,
    patience_s: float = PATIENCE_S,
) -> tuple[NodeIdentity, Certified]:
    digest = tokens.parse_token(token).ca_digest
    loop = asyncio.get_running_loop()
    deadline, wait = loop.time() + patience_s, RETRY_FIRST_S
    while True:
        failures: list[SwarmpyError] = []
        for address in addresses:
            try:
                ca_pem = await _fetch_root(address, digest)
                certified = await _fetch_certificate(address, ca_pem, method, payload)
                return _identity(certified, key_pem, ca_pem), certified
            except (BadCertificate, UserError):
                raise
            except SwarmpyError as error:
                failures.append(error)
        if loop.time() + wait > deadline or not any(map(_is_busy, failures)):
            raise _not_joined(failures)
        await asyncio.sleep(random.uniform(wait / 2, wait))
        wait = min(2 * wait, RETRY_MOST_S)


def _is_busy(error: SwarmpyError) -> bool:
    """True for a manager that is there, and turns away who is too much just now."""
    return type(error) is Unavailable or isinstance(error.__cause__, ConnectionResetError)


def _not_joined(failures: Sequence[SwarmpyError]) -> SwarmpyError:
    why = "; ".join(map(str, failures))
    if len(failures) == 1 and type(failures[0]) is Unavailable:
        return failures[0]
    return ConnectionFailed(
        f"could not join the swarm ({why}): check the manager's address, that it runs, and that its port is reachable "
        "from here"
    )


async def renew_identity(
    call: Callable[[str, Any], Awaitable[Any]], identity: NodeIdentity, key_pem: bytes
) -> NodeIdentity:
    """A new certificate for this node and ``key_pem``, with the role the cluster wants it to have now.

    ``call`` asks the leader.
    """
    payload = {"csr_pem": csr_for(key_pem), "schema": codec.SCHEMA_VERSION}
    certified = codec.from_plain(Certified, await call("ca.renew", payload))
    return _same_node(_identity(certified, key_pem, identity.ca_pem), identity)


async def rejoin_identity(
    addresses: Sequence[str], token: str, identity: NodeIdentity, key_pem: bytes, incarnation: int, random: Random
) -> tuple[NodeIdentity, Certified]:
    """As :func:`fetch_identity`, a new certificate for ``key_pem``, for a node whose own one is not taken any more.

    It is shown all the same, with proof that its key is here. Raises also NodeRemoved, CertificateRevoked and
    FailedPrecondition, see ``Registrar.rejoin``.
    """
    csr_pem = csr_for(key_pem)
    call = RejoinCall(
        token=token,
        csr_pem=csr_pem,
        cert_pem=identity.cert_pem,
        proof=sign_request(identity.key_pem, csr_pem),
        schema=codec.SCHEMA_VERSION,
        incarnation=incarnation,
    )
    again, certified = await _through_any(addresses, token, "ca.rejoin", codec.to_plain(call), key_pem, random)
    return _same_node(again, identity), certified


async def _fetch_root(address: str, digest: str) -> bytes:
    channel = await RpcDialer(unverified_context()).dial(address, timeout=DIAL_TIMEOUT_S)
    try:
        answer = await channel.call("ca.root", None, timeout=CALL_TIMEOUT_S)
    finally:
        await channel.close()
    ca_pem = answer.get("cert_pem") if isinstance(answer, dict) else None
    if not isinstance(ca_pem, bytes):
        raise ProtocolViolation(f"{address} did not send its root certificate")
    more = answer.get("roots")
    # The one that the token names, and nothing that comes with it: who is on the other end is not known yet.
    for pem in (ca_pem, *(more if isinstance(more, list) else ())):
        for certificate in split(pem) if isinstance(pem, bytes) else ():
            if ca_digest(certificate) == digest:
                return vouched_root(certificate, digest)
    return vouched_root(ca_pem, digest)


async def _fetch_certificate(address: str, ca_pem: bytes, method: str, payload: Any) -> Certified:
    dialer = RpcDialer(joiner_context(ca_pem))
    try:
        answer = await _call(dialer, address, method, payload)
    except NotLeader as error:
        if not error.leader:
            raise
        answer = await _call(dialer, error.leader, method, payload)
    return codec.from_plain(Certified, answer)


async def _call(dialer: Dialer, address: str, method: str, payload: Any) -> Any:
    channel = await dialer.dial(address, timeout=DIAL_TIMEOUT_S)
    try:
        return await channel.call(method, payload, timeout=CALL_TIMEOUT_S)
    finally:
        await channel.close()


def _identity(certified: Certified, key_pem: bytes, known_ca_pem: bytes) -> NodeIdentity:
    # Managers of an older version know of one root only, and do not tell it.
    ca_pem = joined(certified.roots) or known_ca_pem
    return NodeIdentity.from_pem(
        cert_pem=certified.cert_pem, key_pem=key_pem, ca_pem=ca_pem, chain_pem=joined(certified.chain)
    )


def _same_node(new: NodeIdentity, old: NodeIdentity) -> NodeIdentity:
    if (new.node_id, new.cluster_id) != (old.node_id, old.cluster_id):
        raise ProtocolViolation(
            f"node {old.node_id} of cluster {old.cluster_id} asked for a certificate and was given that of node "
            f"{new.node_id} of cluster {new.cluster_id}"
        )
    return new

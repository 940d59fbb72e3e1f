"""The joiner's side of becoming a node.

Nothing secret leaves this machine before the other end has shown the root certificate that the token names: the token
itself is sent only over a connection verified against that certificate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from swarmpy.errors import BadCertificate, ConnectionFailed, NotLeader, ProtocolViolation, SwarmpyError, UserError
from swarmpy.manager.joining import Certified, JoinCall
from swarmpy.model import codec
from swarmpy.model.states import Availability
from swarmpy.ports import Dialer
from swarmpy.security import tokens
from swarmpy.security.ca import vouched_root
from swarmpy.security.identity import NodeIdentity, new_key_and_csr
from swarmpy.security.tls import joiner_context, unverified_context
from swarmpy.wire.rpc import RpcDialer

DIAL_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 15.0


async def fetch_identity(
    addresses: Sequence[str], token: str, *, hostname: str, availability: Availability
) -> tuple[NodeIdentity, Certified]:
    """Become a node of the cluster that ``token`` names, through the first manager of ``addresses`` that answers.

    Raises InvalidArgument for a malformed token, BadCertificate when the manager is of another cluster,
    PermissionDenied when the token is not valid (any more), ConnectionFailed when nobody answers.
    """
    digest = tokens.parse_token(token).ca_digest
    failures: list[str] = []
    for address in addresses:
        try:
            ca_pem = await _fetch_root(address, digest)
            return await _fetch_certificate(address, ca_pem, token, hostname, availability)
        except (BadCertificate, UserError):
            raise
        except SwarmpyError as error:
            failures.append(str(error))
    raise ConnectionFailed(
        f"could not join the swarm ({'; '.join(failures)}): check the manager's address, that it runs, and that its "
        "port is reachable from here"
    )


async def renew_identity(call: Callable[[str, Any], Awaitable[Any]], identity: NodeIdentity) -> NodeIdentity:
    """A new certificate for this node, with the role the cluster wants it to have now. ``call`` asks the leader."""
    key_pem, csr_pem = new_key_and_csr()
    certified = codec.from_plain(Certified, await call("ca.renew", {"csr_pem": csr_pem}))
    return NodeIdentity.from_pem(cert_pem=certified.cert_pem, key_pem=key_pem, ca_pem=identity.ca_pem)


async def _fetch_root(address: str, digest: str) -> bytes:
    channel = await RpcDialer(unverified_context()).dial(address, timeout=DIAL_TIMEOUT_S)
    try:
        answer = await channel.call("ca.root", None, timeout=CALL_TIMEOUT_S)
    finally:
        await channel.close()
    ca_pem = answer.get("cert_pem") if isinstance(answer, dict) else None
    if not isinstance(ca_pem, bytes):
        raise ProtocolViolation(f"{address} did not send its root certificate")
    return vouched_root(ca_pem, digest)


async def _fetch_certificate(
    address: str, ca_pem: bytes, token: str, hostname: str, availability: Availability
) -> tuple[NodeIdentity, Certified]:
    key_pem, csr_pem = new_key_and_csr()
    call = JoinCall(
        token=token, csr_pem=csr_pem, hostname=hostname, availability=availability, schema=codec.SCHEMA_VERSION
    )
    dialer = RpcDialer(joiner_context(ca_pem))
    try:
        answer = await _call(dialer, address, codec.to_plain(call))
    except NotLeader as error:
        if not error.leader:
            raise
        answer = await _call(dialer, error.leader, codec.to_plain(call))
    certified = codec.from_plain(Certified, answer)
    return NodeIdentity.from_pem(cert_pem=certified.cert_pem, key_pem=key_pem, ca_pem=ca_pem), certified


async def _call(dialer: Dialer, address: str, payload: Any) -> Any:
    channel = await dialer.dial(address, timeout=DIAL_TIMEOUT_S)
    try:
        return await channel.call("ca.join", payload, timeout=CALL_TIMEOUT_S)
    finally:
        await channel.close()

"""Client certificates of the API over TCP: given and taken back, as transactions on the leader's store.

The cluster's state is the list of those that count. Taking one back is forgetting it; nobody needs to remember what was
revoked, and one that somebody signs with the CA's key behind the cluster's back opens nothing.
"""

from __future__ import annotations

import hmac
import ssl

import attrs

from swarmpy.errors import FailedPrecondition, InvalidArgument, NotFound
from swarmpy.model.objects import ClientCertificate, Cluster
from swarmpy.model.requests import RequestId
from swarmpy.model.states import ApiRole
from swarmpy.security import roots
from swarmpy.security.api_certificates import issue_client
from swarmpy.store.memory import Store
from swarmpy.store.transaction import Tx

MAX_CLIENTS = 1000
"""They are part of every copy of the cluster's object, so there cannot be any number of them."""


def role_now(cluster: Cluster, serial: str, now_ns: int) -> ApiRole | None:
    """What the holder of the certificate of that number may do; None when there is none that counts."""
    client = cluster.clients.get(serial)
    return None if client is None or client.not_after_ns <= now_ns else client.role


def is_known(cluster: Cluster, serial: str, fingerprint: str) -> bool:
    """True for the very certificate that was given: anybody with the CA's key could make another of its number."""
    client = cluster.clients.get(serial)
    return client is not None and hmac.compare_digest(client.fingerprint.encode(), fingerprint.encode())


async def give_client(
    store: Store, csr_pem: bytes, *, name: str, role: ApiRole, expiry_ns: int, request: RequestId | None = None
) -> bytes:
    """A certificate (PEM) for a client of the API, which counts from now on.

    Raises InvalidArgument, and FailedPrecondition when there are too many already or not all managers read of clients
    yet; and as ``Store.update``.
    """

    def give(tx: Tx) -> bytes:
        cluster = tx.cluster()
        clients = {serial: client for serial, client in cluster.clients.items() if client.not_after_ns > tx.now_ns}
        if len(clients) >= MAX_CLIENTS:
            raise FailedPrecondition(f"there are {MAX_CLIENTS} client certificates: revoke some of them first")
        issued = issue_client(
            roots.signing_root(cluster),
            csr_pem,
            name=name,
            role=role,
            cluster_id=cluster.id,
            expiry_ns=expiry_ns,
            now_ns=tx.now_ns,
        )
        clients[issued.serial] = ClientCertificate(
            name=name,
            role=role,
            issued_at_ns=tx.now_ns,
            not_after_ns=issued.not_after_ns,
            fingerprint=issued.fingerprint,
        )
        tx.update(attrs.evolve(cluster, clients=clients))
        return issued.der

    return ssl.DER_cert_to_PEM_cert(await store.update(give, request=request)).encode()


async def revoke_client(store: Store, reference: str, *, request: RequestId | None = None) -> None:
    """Take the certificate with that serial number back, else all of that name, else the one whose serial starts so.

    Raises NotFound, InvalidArgument (ambiguous).
    """

    def revoke(tx: Tx) -> None:
        cluster = tx.cluster()
        gone = find_clients(cluster, reference)
        left = {serial: client for serial, client in cluster.clients.items() if serial not in gone}
        tx.update(attrs.evolve(cluster, clients=left))

    await store.update(revoke, request=request)


def find_clients(cluster: Cluster, reference: str) -> dict[str, ClientCertificate]:
    """The certificates that ``reference`` means, by serial number. Raises as :func:`revoke_client`."""
    clients = cluster.clients
    if reference in clients:
        return {reference: clients[reference]}
    named = {serial: client for serial, client in clients.items() if client.name == reference}
    if named:
        return named
    begin = [serial for serial in clients if reference and serial.startswith(reference.lower())]
    if not begin:
        raise NotFound(f"client certificate {reference} not found")
    if len(begin) > 1:
        raise InvalidArgument(f"client certificate {reference} is ambiguous ({len(begin)} matches found)")
    return {begin[0]: clients[begin[0]]}

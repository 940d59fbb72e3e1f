"""The cluster and its spec as Docker's JSON."""

from __future__ import annotations

import base64
import functools
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from swarmpy.api.json_fields import INT64_MAX, Fields, given
from swarmpy.api.timestamps import meta_to_json
from swarmpy.manager.rotation import RootRequest
from swarmpy.model.cluster_spec import ClusterSpec, DispatcherConfig
from swarmpy.model.objects import Cluster, Node
from swarmpy.security import roots


def cluster_spec_from_json(data: object, current: ClusterSpec, path: str = "") -> ClusterSpec:
    """``current`` with what the client gave; what it did not give stays. Raises InvalidArgument."""
    fields = Fields(data, path)
    ca, raft = fields.nested("CAConfig"), fields.nested("Raft")
    fields.nested("TaskDefaults").refuse("LogDriver")
    ca.refuse("ExternalCAs")
    config = attrs.evolve(
        current.raft,
        snapshot_interval=raft.integer("SnapshotInterval") or current.raft.snapshot_interval,
        log_entries_for_slow_followers=raft.integer("LogEntriesForSlowFollowers")
        or current.raft.log_entries_for_slow_followers,
        tick_ns=raft.integer("TickInterval") or current.raft.tick_ns,
        election_tick=raft.integer("ElectionTick") or current.raft.election_tick,
        heartbeat_tick=raft.integer("HeartbeatTick") or current.raft.heartbeat_tick,
    )
    config.check()
    locks = fields.nested("EncryptionConfig").maybe_boolean("AutoLockManagers")
    history = fields.nested("Orchestration").maybe_integer("TaskHistoryRetentionLimit", least=-INT64_MAX)
    heartbeat_ns = fields.nested("Dispatcher").integer("HeartbeatPeriod")
    dispatcher = DispatcherConfig(heartbeat_period_ns=heartbeat_ns or current.dispatcher.heartbeat_period_ns)
    dispatcher.check()
    return attrs.evolve(
        current,
        name=fields.string("Name") or current.name,
        labels=fields.string_map("Labels") if fields.has("Labels") else current.labels,
        task_history_limit=current.task_history_limit if history is None else history,
        raft=config,
        dispatcher=dispatcher,
        node_cert_expiry_ns=ca.integer("NodeCertExpiry") or current.node_cert_expiry_ns,
        autolock_managers=current.autolock_managers if locks is None else locks,
    )


def root_request_from_json(data: object) -> RootRequest:
    """What a cluster's spec asks for of the root CA. Raises InvalidArgument."""
    ca = Fields(data).nested("CAConfig")
    return RootRequest(
        force_rotate=ca.maybe_integer("ForceRotate"),
        cert_pem=ca.string("SigningCACert").encode(),
        key_pem=ca.string("SigningCAKey").encode(),
    )


def cluster_spec_to_json(spec: ClusterSpec) -> dict[str, Any]:
    """Docker's JSON of the cluster's spec."""
    return {
        "Name": spec.name,
        "Labels": dict(spec.labels),
        "Orchestration": {"TaskHistoryRetentionLimit": spec.task_history_limit},
        "Raft": {
            "SnapshotInterval": spec.raft.snapshot_interval,
            "KeepOldSnapshots": 0,
            "LogEntriesForSlowFollowers": spec.raft.log_entries_for_slow_followers,
            "TickInterval": spec.raft.tick_ns,
            "ElectionTick": spec.raft.election_tick,
            "HeartbeatTick": spec.raft.heartbeat_tick,
        },
        "Dispatcher": {"HeartbeatPeriod": spec.dispatcher.heartbeat_period_ns},
        "CAConfig": {"NodeCertExpiry": spec.node_cert_expiry_ns, **given(ForceRotate=spec.force_rotate)},
        "TaskDefaults": {},
        "EncryptionConfig": {"AutoLockManagers": spec.autolock_managers},
    }


def cluster_info_to_json(cluster: Cluster) -> dict[str, Any]:
    """The cluster without its join tokens: the part that ``/info`` shows."""
    return {
        "ID": cluster.id,
        **meta_to_json(cluster.meta),
        "Spec": cluster_spec_to_json(cluster.spec),
        "TLSInfo": tls_info(roots.trusted_pem(cluster), roots.signing_root(cluster).cert_pem),
        "RootRotationInProgress": cluster.rotation is not None,
        "DefaultAddrPool": None,
        "SubnetSize": 0,
        "DataPathPort": 0,
    }


def swarm_to_json(cluster: Cluster, *, with_tokens: bool) -> dict[str, Any]:
    """``GET /swarm``: the cluster with its join tokens, or with empty ones."""
    tokens = {"Worker": "", "Manager": ""}
    if with_tokens:
        tokens = {"Worker": cluster.join_tokens.worker, "Manager": cluster.join_tokens.manager}
    return {**cluster_info_to_json(cluster), "JoinTokens": tokens}


def node_tls_info(cluster: Cluster, node: Node) -> dict[str, str]:
    """What the node trusts and whose certificate it shows, as far as it is known."""
    known = roots.known(cluster)
    if node.tls is None:
        # It was not seen since this is recorded. Where there never was another root, it can only be this one.
        only = tuple(known.values())
        return tls_info(only, only[0]) if len(only) == 1 else {}
    trusted = tuple(pem for digest, pem in known.items() if digest in node.tls.roots)
    return tls_info(trusted, known.get(node.tls.issuer, b""))


@functools.lru_cache(maxsize=32)
def tls_info(trusted: tuple[bytes, ...], issuer: bytes) -> dict[str, str]:
    """What clients compare to see whether a node is up to date with the cluster's roots; shared, not to be changed.

    ``issuer``: b"" when it is not known.
    """
    info = given(TrustRoot=roots.joined(trusted).decode())
    if not issuer:
        return info
    certificate = x509.load_pem_x509_certificate(issuer)
    subject = certificate.subject.public_bytes()
    public_key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return {
        **info,
        "CertIssuerSubject": base64.b64encode(subject).decode(),
        "CertIssuerPublicKey": base64.b64encode(public_key).decode(),
    }

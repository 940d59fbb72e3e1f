"""Every error swarmpy raises on purpose.

The tree (``code`` travels over the wire, ``http_status`` over the API, ``exit_code`` out of the CLI)::

    SwarmpyError
    ├── UserError                 the request is wrong; asking again the same way will not help
    │   ├── InvalidArgument       400  a value, a spec, a file or a flag
    │   │   └── ComposeError      400  a stack file; carries file, line and key
    │   ├── NotFound              404
    │   ├── AlreadyExists         409  a name or a published port is taken
    │   ├── FailedPrecondition    400  the object is not in a state that allows it
    │   ├── VersionConflict       500  "update out of sequence" (Docker's status for it)
    │   ├── NotInCluster          503  this node is in no cluster, or is a worker
    │   ├── AlreadyInCluster      503
    │   ├── SwarmLocked           503  this manager waits for its unlock key
    │   ├── NotLocked             409
    │   ├── WrongUnlockKey        400
    │   └── PermissionDenied      403
    │       ├── NodeRemoved       403  the caller is no member any more
    │       └── CertificateRevoked 403 the caller is a member, but not what its certificate says
    ├── Unavailable               503  ask again later, or ask another manager
    │   ├── NotLeader             carries the leader's address, where known; nothing was done
    │   ├── NoQuorum              too few managers answer; nothing was done
    │   ├── NotManager            the leader takes this node for no manager (any more); nothing was done
    │   ├── DeadlineExceeded      the bounded wait is over
    │   ├── Superseded            the one that was asked is of an earlier incarnation of the cluster
    │   ├── ConnectionFailed      no connection, or it broke before the request was sent; nothing was done
    │   └── OutcomeUnknown        the answer was lost; the write may or may not have happened
    ├── PeerError                 502  the other side is at fault
    │   ├── ProtocolViolation
    │   └── BadCertificate
    ├── TaskError                 500  belongs to one task
    │   ├── TaskRejected          it could not be started: REJECTED
    │   └── TaskFailed            it was started and failed: FAILED
    ├── RuntimeUnavailable        503  the engine does not answer; it may come back
    └── StorageError              500  fatal: the node must stop rather than go on over a disk that lied
        ├── LogCorrupted
        ├── SealBroken            something that is sealed cannot be opened, or what must be sealed is not
        └── DataDirMismatch       the data directory is of another cluster, node or (newer) version

Programmer's errors are assertions; a broken invariant of the cluster's state raises :class:`InvariantViolation`,
which is no :class:`SwarmpyError` and is never caught.
"""

from __future__ import annotations

from typing import ClassVar


class SwarmpyError(Exception):
    """Base of all. ``str(error)`` is one line for a person: what is wrong, with what, and what to do."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    @property
    def message(self) -> str:
        """The line for a person."""
        return str(self)


class UserError(SwarmpyError):
    """The request is wrong; asking again the same way will not help."""

    code = "user"
    http_status = 400


class InvalidArgument(UserError):
    """A value, a spec, a file or a flag is not acceptable."""

    code = "invalid_argument"


class ComposeError(InvalidArgument):
    """A stack file is wrong. The message starts with ``file:line: key:`` as far as these are known."""

    code = "compose"


class NotFound(UserError):
    """No object of that id, name or id prefix."""

    code = "not_found"
    http_status = 404


class AlreadyExists(UserError):
    """A name or a published port is taken."""

    code = "already_exists"
    http_status = 409


class FailedPrecondition(UserError):
    """The object or the cluster is not in a state that allows the request."""

    code = "failed_precondition"


class VersionConflict(UserError):
    """The object has changed since it was read."""

    code = "version_conflict"
    http_status = 500

    def __init__(self, message: str = "update out of sequence") -> None:
        super().__init__(message)


class NotInCluster(UserError):
    """This node is in no cluster, or is a worker where a manager is needed."""

    code = "not_in_cluster"
    http_status = 503


class AlreadyInCluster(UserError):
    """This node is in a cluster already."""

    code = "already_in_cluster"
    http_status = 503


class SwarmLocked(UserError):
    """This manager's keys are sealed, and nobody has given it the unlock key since it was started."""

    code = "swarm_locked"
    http_status = 503

    def __init__(
        self,
        message: str = "Swarm is encrypted and needs to be unlocked before it can be used. "
        'Please use "docker swarm unlock" to unlock it.',
    ) -> None:
        super().__init__(message)


class NotLocked(UserError):
    """There is nothing to unlock."""

    code = "not_locked"
    http_status = 409


class WrongUnlockKey(UserError):
    """What this key is to open was sealed with another one, or was changed."""

    code = "wrong_unlock_key"


class PermissionDenied(UserError):
    """The caller's identity or token does not allow the request."""

    code = "permission_denied"
    http_status = 403


class NodeRemoved(PermissionDenied):
    """The calling node was removed from the cluster. Nothing it asks for will ever be granted again."""

    code = "node_removed"


class CertificateRevoked(PermissionDenied):
    """The caller's certificate was revoked: it is a manager's, and the node is a worker now. Another one is needed."""

    code = "certificate_revoked"


class Unavailable(SwarmpyError):
    """Ask again later, or ask another manager."""

    code = "unavailable"
    http_status = 503
    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class NotLeader(Unavailable):
    """This manager does not lead. Nothing was done. ``leader`` is the leader's ``host:port`` or ""."""

    code = "not_leader"

    def __init__(self, message: str = "this manager is not the leader", leader: str = "") -> None:
        super().__init__(message)
        self.leader = leader


class NoQuorum(Unavailable):
    """Too few managers answer. Nothing was done."""

    code = "no_quorum"


class Superseded(Unavailable):
    """The manager that was asked is of an earlier incarnation of the cluster. Nothing was done: others count now."""

    code = "superseded"


class NotManager(Unavailable):
    """The manager that was asked is none in the eyes of the leader (any more). Nothing was done: another one knows."""

    code = "not_manager"


class DeadlineExceeded(Unavailable):
    """A bounded wait is over."""

    code = "deadline_exceeded"


class ConnectionFailed(Unavailable):
    """No connection to the peer, or it broke before the request was sent. Nothing was done."""

    code = "connection_failed"


class OutcomeUnknown(Unavailable):
    """The answer was lost: the write may or may not have happened."""

    code = "outcome_unknown"


class PeerError(SwarmpyError):
    """The other side is at fault."""

    code = "peer"
    http_status = 502


class ProtocolViolation(PeerError):
    """The peer sent something that the protocol does not allow."""

    code = "protocol_violation"


class BadCertificate(PeerError):
    """The peer's certificate is not one of this cluster, or not of the expected node or role."""

    code = "bad_certificate"


class TaskError(SwarmpyError):
    """Belongs to one task."""

    code = "task"


class TaskRejected(TaskError):
    """The task could not be started on this node (no such image, bad mount): state REJECTED."""

    code = "task_rejected"


class TaskFailed(TaskError):
    """The task was started and failed: state FAILED."""

    code = "task_failed"


class RuntimeUnavailable(SwarmpyError):
    """The engine does not answer; it may come back."""

    code = "runtime_unavailable"
    http_status = 503
    exit_code = 69  # EX_UNAVAILABLE


class StorageError(SwarmpyError):
    """The disk failed. The node must stop rather than go on over a disk that lied."""

    code = "storage"
    exit_code = 74  # EX_IOERR


class LogCorrupted(StorageError):
    """The log or a snapshot does not match its checksum or has a hole."""

    code = "log_corrupted"


class SealBroken(StorageError):
    """Something that is sealed was changed, moved or is of a key that is gone; or what must be sealed is not."""

    code = "seal_broken"


class DataDirMismatch(StorageError):
    """The data directory belongs to another cluster or node, or was written by a newer version."""

    code = "data_dir_mismatch"
    exit_code = 78  # EX_CONFIG


class InvariantViolation(AssertionError):
    """The state of the cluster contradicts itself. A defect in swarmpy; never caught."""


def _subclasses(cls: type[SwarmpyError]) -> list[type[SwarmpyError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_subclasses(sub))
    return found


def from_code(code: str, message: str, detail: str = "") -> SwarmpyError:
    """The error that a peer sent as ``code``; an unknown code (of a newer version) becomes a plain SwarmpyError.

    ``detail`` is the leader's address of a NotLeader.
    """
    for cls in _subclasses(SwarmpyError):
        if cls.code == code:
            return cls(message, leader=detail) if cls is NotLeader else cls(message)
    return SwarmpyError(message)

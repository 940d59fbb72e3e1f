"""What a daemon's answer says, or the lack of one: JSON data, or the error of swarmpy that it stands for."""

from __future__ import annotations

import errno
import json
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from swarmpy.cli.endpoint import CA_FILE, TcpEndpoint
from swarmpy.errors import (
    AlreadyExists,
    BadCertificate,
    ConnectionFailed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PeerError,
    PermissionDenied,
    ProtocolViolation,
    SwarmpyError,
    Unavailable,
    VersionConflict,
    from_code,
)

_ALERT = re.compile(r"alert ([a-z ]+) \(")
"""As OpenSSL tells of a handshake that the other side has refused."""

_ERRORS: Mapping[int, type[SwarmpyError]] = {
    400: InvalidArgument,
    403: PermissionDenied,
    404: NotFound,
    409: AlreadyExists,
    501: FailedPrecondition,
    502: PeerError,
    503: Unavailable,
}


def read_answer(request: str, status: int, content_type: str, data: bytes, kind: str) -> Any:
    """The data of an answer, None for an empty one; ``kind`` is what it calls its error. Raises that error."""
    text = data.decode("utf-8", "replace")
    answer: Any = None
    if data.strip():
        try:
            answer = text if content_type == "text/plain" else json.loads(text)
        except (ValueError, RecursionError) as error:
            if status < 400:
                raise ProtocolViolation(f"the daemon answered {request} with something that is no JSON") from error
            answer = text
    if status < 400:
        return answer
    message = answer.get("message", "") if isinstance(answer, dict) else answer
    raise error_of(status, str(message or "")[:2000], kind)


def error_of(status: int, message: str, kind: str = "") -> SwarmpyError:
    """The error of that ``kind``; without one, what its HTTP status and message stand for."""
    text = " ".join(message.split()) or f"the daemon answered with status {status}"
    if kind:
        return from_code(kind, text)
    if text.endswith("update out of sequence"):
        return VersionConflict(text)
    return _ERRORS.get(status, SwarmpyError)(text)


def unreachable(endpoint: Path | TcpEndpoint, error: aiohttp.ClientConnectorError) -> SwarmpyError:
    """The error of a daemon that cannot be connected with."""
    if isinstance(endpoint, TcpEndpoint):
        return _unreachable_over_tcp(endpoint, error)
    if error.os_error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"cannot use the swarmpy daemon at {endpoint}: permission denied: run this as its user")
    return ConnectionFailed(
        f'cannot reach the swarmpy daemon at {endpoint}: start it with "swarmpy node run" '
        'or create a cluster with "swarmpy swarm init"'
    )


def _unreachable_over_tcp(endpoint: TcpEndpoint, error: aiohttp.ClientConnectorError) -> SwarmpyError:
    cause: BaseException = getattr(error, "certificate_error", None) or error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return BadCertificate(
            f"the server at {endpoint} is not to be trusted: {cause.verify_message}; {endpoint.cert_dir / CA_FILE} "
            "must be the CA of its cluster, and the address one that its certificate names"
        )
    reason = cause.strerror or str(cause) if isinstance(cause, OSError) else str(cause)
    return ConnectionFailed(
        f"cannot reach the API at {endpoint} ({' '.join(reason.split()).lower()}): is it the --api-addr of a manager?"
    )


def check_taken(endpoint: Path | TcpEndpoint, error: aiohttp.ClientError) -> None:
    """Raises BadCertificate when the server did not take this client's certificate: then it has read no request."""
    alert = _ALERT.search(str(error))
    if isinstance(endpoint, TcpEndpoint) and alert is not None:
        raise BadCertificate(
            f"the API at {endpoint} does not take the certificate in {endpoint.cert_dir} ({alert[1]}): it must be one "
            'of this cluster that has not run out, as "swarmpy swarm client-cert" makes them'
        ) from error

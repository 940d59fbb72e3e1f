"""The ``X-Registry-Auth`` header: credentials for a registry, a JSON object in URL-safe base64, as Docker's clients
send it. It is read once, and shown never; no error quotes it.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from swarmpy.api.request import REGISTRY_AUTH_HEADER, ApiRequest
from swarmpy.errors import InvalidArgument
from swarmpy.model.data_checks import MAX_CREDENTIALS_BYTES

KEYS = ("username", "password", "auth", "email", "serveraddress", "identitytoken", "registrytoken")
"""The fields of Docker's ``AuthConfig``."""
_SECRET = frozenset({"password", "auth", "identitytoken", "registrytoken"})


def registry_auth(request: ApiRequest) -> bytes | None:
    """The credentials of a request as a JSON object with sorted keys; b"" where it says that there are none, and None
    where it says nothing. Raises InvalidArgument.
    """
    header = request.headers.get(REGISTRY_AUTH_HEADER.lower())
    if header is None or not header.strip():
        return None
    return _plain(_decoded(header.strip()))


def encode_registry_auth(auth: dict[str, str]) -> str:
    """The header for these credentials."""
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()


def _decoded(header: str) -> dict[str, Any]:
    try:
        # Some clients leave the padding out.
        text = base64.b64decode(header + "=" * (-len(header) % 4), altchars=b"-_", validate=True)
        auth = json.loads(text)
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid("it is no JSON in base64") from None
    if not isinstance(auth, dict) or not all(isinstance(auth.get(key, ""), str) for key in KEYS):
        raise _invalid("it is no object of texts")
    return auth


def _plain(auth: dict[str, Any]) -> bytes:
    given = {key: auth[key] for key in KEYS if auth.get(key)}
    if not _SECRET.intersection(given):
        return b""
    data = json.dumps(given, sort_keys=True).encode()
    if len(data) > MAX_CREDENTIALS_BYTES:
        raise _invalid(f"it has more than {MAX_CREDENTIALS_BYTES} bytes")
    return data


def _invalid(reason: str) -> InvalidArgument:
    return InvalidArgument(f"invalid {REGISTRY_AUTH_HEADER} header: {reason}")

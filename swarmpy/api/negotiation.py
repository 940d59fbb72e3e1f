"""API versions: which a client may ask for in the path, and what every answer says of this server."""

from __future__ import annotations

import re

from swarmpy.api.request import ApiResponse, message_response, text_response

API_VERSION = "1.41"
MIN_API_VERSION = "1.12"

_MOST = (1, 41)
_LEAST = (1, 12)
_VERSIONED = re.compile(r"/v([0-9]{1,4})\.([0-9]{1,4})(/.*)", re.DOTALL)


def negotiate(path: str) -> str | ApiResponse:
    """The path without its optional ``/v1.41`` prefix, or the answer to a client of the wrong age.

    A version that is too old is answered in plain text: clients of that age expect no JSON.
    """
    match = _VERSIONED.fullmatch(path)
    if match is None:
        return path
    version = (int(match[1]), int(match[2]))
    text = f"client version {match[1]}.{match[2]}"
    if version > _MOST:
        return message_response(400, f"{text} is too new. Maximum supported API version is {API_VERSION}")
    if version < _LEAST:
        return text_response(
            f"{text} is too old. Minimum supported API version is {MIN_API_VERSION}, "
            "please upgrade your client to a newer version",
            400,
        )
    return match[3]


def server_headers(swarmpy_version: str) -> dict[str, str]:
    """The headers that every answer carries; clients take the API version and the operating system from them."""
    return {
        "Api-Version": API_VERSION,
        "Docker-Experimental": "false",
        "Ostype": "linux",
        "Server": f"swarmpy/{swarmpy_version} (linux)",
    }

"""The credentials for a registry, from a secret to the header that an engine takes them in. Pure."""

from __future__ import annotations

import base64
import binascii
import json

from swarmpy.errors import TaskRejected

HEADER = "X-Registry-Auth"


def auth_header(data: bytes) -> str:
    """The value of the header: the JSON that Docker's clients send, in the URL's base64.

    ``data`` is that value, or the JSON itself. Raises TaskRejected, which says nothing of what it is.
    """
    text = data.strip()
    try:
        if not text.startswith(b"{"):
            # With or without padding, in either alphabet.
            text = base64.b64decode(text.rstrip(b"=") + b"==", altchars=b"-_" if set(text) & set(b"-_") else None)
        fields = json.loads(text)
    except (ValueError, binascii.Error):
        fields = None
    if not isinstance(fields, dict):
        raise TaskRejected("the credentials for its image's registry are not what docker login makes: log in again")
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode("ascii")

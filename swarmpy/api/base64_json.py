"""Bytes in JSON: base64, read as Go's decoder reads it."""

from __future__ import annotations

import base64
import binascii
import re

from swarmpy.errors import InvalidArgument

_BASE64 = re.compile(r"[A-Za-z0-9+/]*")


def data_from_json(text: str) -> bytes:
    """Bytes in base64 as Go's decoder takes it. Raises InvalidArgument with the position of what is none."""
    if "\n" in text or "\r" in text:
        text = text.replace("\n", "").replace("\r", "")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise InvalidArgument(f"illegal base64 data at input byte {_bad_byte(text)}") from None


def _bad_byte(text: str) -> int:
    found = _BASE64.match(text)
    end = found.end() if found else 0
    if end == len(text):
        # It breaks off: Go names the beginning of what is not complete.
        return end - end % 4
    return end

"""Requests and answers as plain records, apart from the HTTP server that carries them.

A manager that does not lead forwards a request whole, so both have a plain form. Nothing here knows a route.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import attrs

from swarmpy.api.callers import NOBODY, Caller
from swarmpy.errors import InvalidArgument, SwarmpyError
from swarmpy.model.codec import from_plain, pack, to_plain
from swarmpy.model.grammar import printable
from swarmpy.model.requests import RequestId

ERROR_HEADER = "Swarmpy-Error"
"""The kind of an error (``SwarmpyError.code``), which a status alone does not tell; Docker's clients ignore it."""
KEY_HEADER = "Idempotency-Key"
"""Makes a write one that is done once only, as in the IETF's draft-ietf-httpapi-idempotency-key-header."""
REGISTRY_AUTH_HEADER = "X-Registry-Auth"
"""Credentials for the registry of a service's image, as Docker's clients send them."""
HEADERS = frozenset({KEY_HEADER.lower(), REGISTRY_AUTH_HEADER.lower(), "content-type", "origin", "sec-fetch-site"})
"""The headers that handlers and checks may look at, in lower case."""
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"

_KEY = re.compile(r"[!-~]{1,255}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_DIGEST_BYTES = 16
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"", "0", "f", "F", "FALSE", "false", "False"})


@attrs.frozen(kw_only=True)
class ApiRequest:
    """One request. ``path`` is decoded and has no version prefix; header names are in lower case."""

    method: str
    path: str
    caller: Caller | None = None
    """Who asks. None where nobody says so: a manager of an older version, which has let the caller in."""
    query: dict[str, str] = attrs.Factory(dict)
    headers: dict[str, str] = attrs.field(factory=dict, repr=False)
    """Only the ones that count (HEADERS): others may carry credentials."""
    body: bytes = attrs.field(default=b"", repr=False)
    params: dict[str, str] = attrs.Factory(dict)
    """What the route's ``{name}`` parts matched."""

    def routed(self, params: dict[str, str]) -> ApiRequest:
        """The same with what the route's parts matched."""
        return self._copy(params=params) if params else self

    def with_body(self, body: bytes) -> ApiRequest:
        """The same with this body."""
        return self._copy(body=body) if body else self

    def _copy(
        self, *, headers: dict[str, str] | None = None, body: bytes | None = None, params: dict[str, str] | None = None
    ) -> ApiRequest:
        # attrs.evolve finds out anew each time which fields there are: three times as slow, and each request is copied.
        return ApiRequest(
            method=self.method,
            path=self.path,
            caller=self.caller,
            query=self.query,
            headers=self.headers if headers is None else headers,
            body=self.body if body is None else body,
            params=self.params if params is None else params,
        )

    @property
    def is_of_admin(self) -> bool:
        """True when the answer may have secrets in it."""
        return (self.caller or NOBODY).is_admin

    def to_plain(self) -> Any:
        """What a channel carries."""
        return to_plain(self)

    @staticmethod
    def from_plain(data: Any) -> ApiRequest:
        """The request that a peer forwarded. Raises ProtocolViolation."""
        return from_plain(ApiRequest, data)

    def keyed(self, key: str) -> ApiRequest:
        """The same with ``key`` as its key, unless it has one. Raises InvalidArgument for one that is none."""
        if self.request_id is not None:
            return self
        return self._copy(headers={**self.headers, KEY_HEADER.lower(): key})

    @property
    def request_id(self) -> RequestId | None:
        """What the store knows a write by: its key and a digest of all that it asks for. None without a key.

        Raises InvalidArgument.
        """
        key = self.headers.get(KEY_HEADER.lower())
        if key is None:
            return None
        if not _KEY.fullmatch(key):
            raise InvalidArgument(f"{KEY_HEADER}: give 1 to 255 visible ASCII characters, such as a UUID")
        parts = [self.method, self.path, sorted(self.query.items()), self.body]
        if REGISTRY_AUTH_HEADER.lower() in self.headers:
            parts.append(self.headers[REGISTRY_AUTH_HEADER.lower()])
        asked = pack(parts)
        digest = hashlib.blake2b(asked, digest_size=_DIGEST_BYTES).digest()
        return RequestId(session=key, sequence=1, digest=digest)

    def boolean(self, name: str) -> bool:
        """A query parameter as Go's ParseBool reads it. Raises InvalidArgument."""
        value = self.query.get(name, "")
        if value not in _TRUE and value not in _FALSE:
            raise InvalidArgument(f"invalid value {value!r} of query parameter {name}: expected true or false")
        return value in _TRUE

    def seconds(self, name: str, *, most: float) -> float | None:
        """A query parameter that is a number of seconds; None where it is not given. Raises InvalidArgument."""
        value = self.query.get(name, "")
        if not value:
            return None
        if not _SECONDS.fullmatch(value) or float(value) > most:
            raise InvalidArgument(
                f"invalid value {value[:64]!r} of query parameter {name}: expected seconds, from 0 to {most:g}"
            )
        return float(value)

    def version(self, what: str) -> int:
        """The version of the object that the client read, from ``?version=``. Raises InvalidArgument."""
        value = self.query.get("version", "")
        if not (value.isascii() and value.isdecimal() and len(value) < 20):
            raise InvalidArgument(
                f"invalid {what} version '{value}': give the Version.Index of the object as it was read"
            )
        return int(value)


@attrs.frozen(kw_only=True)
class ApiResponse:
    """One answer."""

    status: int = 200
    body: bytes = attrs.field(default=b"", repr=False)
    content_type: str = ""
    """"" when there is no body."""
    headers: dict[str, str] = attrs.Factory(dict)
    version: int = 0
    """Of a write that was done: the version of the state after it."""
    about: dict[str, str] = attrs.Factory(dict)
    """Of a write that made something: its ``id`` and ``name``, for the audit log."""

    def to_plain(self) -> Any:
        """What a channel carries."""
        return to_plain(self)

    @staticmethod
    def from_plain(data: Any) -> ApiResponse:
        """The answer of the leader. Raises ProtocolViolation."""
        return from_plain(ApiResponse, data)


@attrs.frozen(kw_only=True)
class StreamedResponse(ApiResponse):
    """An answer that is made while it is sent. Of this node's own socket only: it is never forwarded."""

    chunks: AsyncGenerator[bytes, None] = attrs.field(repr=False)


def json_response(value: Any, status: int = 200, about: dict[str, str] | None = None) -> ApiResponse:
    """``value`` as JSON, with a newline at the end as Go's encoder writes it."""
    body = json.dumps(value).encode() + b"\n"
    return ApiResponse(status=status, body=body, content_type=JSON, about=about or {})


def text_response(text: str, status: int = 200) -> ApiResponse:
    """Plain text."""
    return ApiResponse(status=status, body=text.encode(), content_type=TEXT)


def message_response(status: int, message: str) -> ApiResponse:
    """``{"message": ...}``: the form of every error."""
    return json_response({"message": message}, status)


def error_response(error: SwarmpyError) -> ApiResponse:
    """An error of ours as the client sees it."""
    response = message_response(error.http_status, printable(error.message))
    return attrs.evolve(response, headers={ERROR_HEADER: error.code})

"""What a web page could make a browser send, and why it gets nothing for it. Pure: headers in, an answer or None out.

A page of another origin can have a browser send "simple" requests with the user's own credentials (a client
certificate, or none on loopback), and a name that it points at this machine makes them look like its own. Browsers
mark such requests; what has a mark is refused, whatever it asks for. Other clients send none of these headers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Collection, Mapping

from swarmpy.api.request import ApiResponse, message_response

_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::[0-9]{1,5})?")
_OWN_SITE = frozenset({"", "none", "same-origin"})
_BY_PAGE = "the API is not for web pages: {header} is not allowed; a proxy in front of it must remove that header"


NOT_FOR_PAGES = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
"""Has a browser keep an answer from a page that names it as its script or picture."""


def refusal(headers: Mapping[str, str]) -> ApiResponse | None:
    """The answer to a request that a web page made; header names are in lower case."""
    if "origin" in headers:
        return message_response(403, _BY_PAGE.format(header="Origin"))
    if headers.get("sec-fetch-site", "") not in _OWN_SITE:
        return message_response(403, _BY_PAGE.format(header="Sec-Fetch-Site"))
    return None


def body_refusal(headers: Mapping[str, str]) -> ApiResponse | None:
    """The answer to a body that is said to be something else than JSON, as those of web forms are."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("", "application/json"):
        return None
    return message_response(400, f"unsupported Content-Type header ({kind[:64]}): must be 'application/json'")


def host_of(header: str) -> str | None:
    """The name or address in a Host header, in lower case and without brackets; None for what is no Host header."""
    match = _HOST.fullmatch(header)
    return None if match is None else match[1].strip("[]").lower()


def names_host(header: str, names: Collection[str]) -> bool:
    """True when a Host header has one of ``names``: those of a certificate, in lower case."""
    host = host_of(header)
    if not host:
        return False
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return host in names or f"*.{host.partition('.')[2]}" in names


def host_allowed(header: str, bound: str) -> bool:
    """True when a Host header names loopback or the address ``bound`` itself, with or without a port."""
    host = host_of(header)
    if not host:
        return False
    if host in ("localhost", bound.lower()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

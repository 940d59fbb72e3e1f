"""The forms of the texts that become a file name, a name at the engine, or part of a command line.

Each check takes one text and raises ValueError with the reason, which names the text and what would be right. What the
engine understands is let through, whether it exists or not; what could be taken for something else than it says is
not. All take time in proportion to the text, whatever is in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

Check = Callable[[str], None]

MAX_NAME = 63
"""Characters of a service's, node's or stack's name: it is part of a host name."""
MAX_LABEL = 255
MAX_PATH = 4095
"""Bytes of a path, as the kernel has it."""
MAX_HOSTNAME = 64
MAX_WORD = 128
MAX_REPOSITORY = 255

_SHOWN = 60
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
_OBJECT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def shown(text: str) -> str:
    """``text`` in quotes, on one line, with nothing that a terminal obeys, and not too long for a message."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")


def bare(text: str) -> str:
    """As :func:`shown`, without the quotes."""
    return shown(text)[1:-1]


def printable(text: str) -> str:
    """``text`` without anything that would move a terminal's cursor."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def is_name(text: str) -> bool:
    """True for a component of a DNS name: letters and digits, with ``-`` and ``_`` between them. Of any length."""
    return _NAME.fullmatch(text) is not None


def is_id(text: str) -> bool:
    """True for an identifier, which is safe as the name of a file: no dot, no slash, no more than 64 characters."""
    return _ID.fullmatch(text) is not None


def is_object_name(text: str) -> bool:
    """True for what the engine takes as the name of a container, volume or network."""
    return len(text) <= MAX_LABEL and _OBJECT.fullmatch(text) is not None


def check_object_name(text: str) -> None:
    """See :func:`is_object_name`."""
    if not is_object_name(text):
        raise ValueError(
            f"{shown(text)} is not a name: use letters, digits, '_', '.' and '-', starting with a letter or digit, "
            f"{MAX_LABEL} at most"
        )


def check_text(text: str) -> None:
    """Anything that can be passed to a program."""
    if "\0" in text:
        raise ValueError(f"{shown(text)} has a NUL character, which cannot be passed to a program")


def check_line(text: str) -> None:
    """A line of text: no line breaks, no other control characters but tabs."""
    if _CONTROL.search(text.replace("\t", "")):
        raise ValueError(f"{shown(text)} has a line break or another control character in it")


def check_label(text: str) -> None:
    """The name of a label."""
    if not text.strip():
        raise ValueError("a label has an empty name")
    if len(text) > MAX_LABEL:
        raise ValueError(f"the name of the label {shown(text)} has more than {MAX_LABEL} characters")
    if _CONTROL.search(text):
        raise ValueError(f"the name of the label {shown(text)} has a control character in it")


def check_variable(text: str) -> None:
    """``NAME=value``, or a name alone."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid environment variable {shown(text)}: it has no name")
    if "\0" in text:
        raise ValueError(f"invalid environment variable {shown(text)}: it has a NUL character")


# -- platforms --------------------------------------------------------------------------------------------------------

_PLATFORM_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_platform_word(text: str) -> bool:
    """True for an architecture or an operating system, such as ``amd64`` or ``linux``; "" is any."""
    return not text or _PLATFORM_WORD.fullmatch(text) is not None


# -- images -----------------------------------------------------------------------------------------------------------

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?P<repository>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_MAX_IMAGE = MAX_REPOSITORY + 1 + 128 + 1 + 256


def is_image(text: str) -> bool:
    """True for ``[registry[:port]/]name[:tag][@digest]`` as registries have it.

    An engine takes 64 hexadecimal digits for the id of an image, which is another one, or none, on each machine.
    """
    if len(text) > _MAX_IMAGE or _IMAGE_ID.fullmatch(text):
        return False
    match = _IMAGE.fullmatch(text)
    return match is not None and len(match["repository"]) <= MAX_REPOSITORY


# -- paths ------------------------------------------------------------------------------------------------------------


def check_path(text: str) -> None:
    """An absolute path without ``..``: it says itself where it leads."""
    if not text.startswith("/"):
        raise ValueError(f"invalid mount path: {shown(text)} mount path must be absolute")
    if _CONTROL.search(text):
        raise ValueError(f"invalid mount path: {shown(text)} has a control character in it")
    if ".." in text.split("/"):
        raise ValueError(f"invalid mount path: {shown(text)}: write it without '..'")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise ValueError(f"invalid mount path: {shown(text)} has more than {MAX_PATH} bytes")


def check_directory(text: str) -> None:
    """The working directory inside a container."""
    if not text.startswith("/") or _CONTROL.search(text) or len(text.encode("utf-8", "surrogatepass")) > MAX_PATH:
        raise ValueError(
            f"{shown(text)} is not a working directory: it must be an absolute path of {MAX_PATH} bytes at most"
        )


def check_volume_name(text: str) -> None:
    """The name of a volume of the engine's own driver."""
    try:
        check_object_name(text)
    except ValueError as error:
        raise ValueError(f"invalid volume name: {error}") from None


# -- words ------------------------------------------------------------------------------------------------------------


def _word(pattern: str, what: str, rule: str, longest: int = MAX_WORD) -> Check:
    """A check of a word of at most ``longest`` characters by a pattern; ``rule`` says what would be right."""
    form = re.compile(pattern)

    def check(text: str) -> None:
        if len(text) > longest or not form.fullmatch(text):
            raise ValueError(f"{shown(text)} is not {what}: {rule}")

    return check


_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
_HOST_RULE = "use letters, digits, '-' and '_', with dots between words"

check_hostname = _word(
    rf"{_PART}(?:\.{_PART})*\.?", "a host name", f"{_HOST_RULE}, {MAX_HOSTNAME} characters at most", MAX_HOSTNAME
)
check_host = _word(rf"{_PART}(?:\.{_PART})*\.?", "a host name", f"{_HOST_RULE}, 253 characters at most", 253)
check_search_domain = _word(rf"\.|{_PART}(?:\.{_PART})*\.?", "a search domain", _HOST_RULE, 253)
check_dns_option = _word(r"[a-z][a-z0-9_-]*(?::[0-9]+)?", "an option of resolv.conf", "write for example ndots:2")
_ACCOUNT = r"[A-Za-z0-9_.][A-Za-z0-9_.@\\$-]*"
check_user = _word(
    rf"{_ACCOUNT}(?::{_ACCOUNT})?", "a user", "write a name or number, with :GROUP after it where wanted"
)
check_group = _word(_ACCOUNT, "a group", "write a name or number")
check_capability = _word(
    r"(?:[Cc][Aa][Pp]_)?[A-Za-z_]+", "a capability", "write a name such as NET_BIND_SERVICE, or ALL"
)
check_sysctl = _word(
    r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)+", "a kernel parameter", "write a name such as net.core.somaxconn"
)
check_signal = _word(
    r"[0-9]{1,2}|[A-Za-z][A-Za-z0-9]*(?:[+-][0-9]{1,2})?", "a signal", "write a name such as SIGTERM, or a number", 16
)
check_driver = _word(
    r"[A-Za-z0-9][A-Za-z0-9_./:@-]*", "the name of a driver", "use letters, digits and the signs _ . / : @ -", 255
)
check_security_word = _word(
    r"[A-Za-z0-9_][A-Za-z0-9_.:,-]*", "part of an SELinux label", "use letters, digits and the signs _ . : , -", 255
)
check_port_name = _word(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "the name of a port", "use letters, digits, '_', '.' and '-'")

ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
)  # fmt: skip
"""The resource limits that the engine knows."""


def check_ulimit(text: str) -> None:
    """The name of a resource limit."""
    if text not in ULIMITS:
        raise ValueError(f"{shown(text)} is not a resource limit: known are {', '.join(ULIMITS)}")


def check_address(text: str) -> None:
    """An IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address") from None


HOST_GATEWAY = "host-gateway"
"""What stands for the address of the engine's machine in an extra host."""


def check_extra_host(text: str) -> None:
    """``IP name [alias ...]``."""
    check_line(text)
    address, *names = text.split() or [""]
    if not names:
        raise ValueError(f"extra host {shown(text)} is not of the form 'IP name'")
    if address != HOST_GATEWAY:
        check_address(address)
    for name in names:
        check_host(name)

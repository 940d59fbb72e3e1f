"""The short spellings of stack files: ports, volumes, hosts, ``key=value`` lists, commands. Pure; raises ValueError."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import attrs

from swarmpy.compose.units import number_text, parse_size
from swarmpy.model import grammar
from swarmpy.model.specs import Mount, PortConfig

PROTOCOLS = ("tcp", "udp", "sctp")
PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
MAX_PORT = 65_535
MAX_PORTS = 4096
"""Of a service. A range is short to write, and means many ports."""


# -- ports ------------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class ShortPorts:
    """What a short port entry means; ``address`` was given and cannot be honoured ("" when none)."""

    ports: tuple[PortConfig, ...]
    address: str = ""


def parse_ports(text: str) -> ShortPorts:
    """``[ip:][published:]target[/protocol]``, ports or ranges. Raises ValueError."""
    entry = _read_ports(text)
    targets = list(entry.targets) * (1 if len(entry.targets) > 1 else len(entry))
    published = list(entry.published) or [0] * len(targets)
    ports = tuple(
        PortConfig(protocol=entry.protocol, target_port=target, published_port=port)
        for target, port in zip(targets, published, strict=True)
    )
    return ShortPorts(ports=ports, address=entry.address)


def count_ports(text: str) -> int:
    """How many ports an entry means; none of them is made. Raises ValueError as :func:`parse_ports`."""
    return len(_read_ports(text))


@attrs.frozen(kw_only=True)
class _PortEntry:
    address: str
    protocol: str
    targets: range
    published: range
    """Empty when the entry leaves them open."""

    def __len__(self) -> int:
        return max(len(self.targets), len(self.published))


def _read_ports(text: str) -> _PortEntry:
    spec, _, protocol = text.strip().partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"{text!r}: unknown protocol {protocol!r}: tcp, udp or sctp")
    head, _, target_text = spec.rpartition(":")
    address, published_text = _split_address(text, head)
    if not target_text:
        raise ValueError(f"{text!r} is not a port: no target port given")
    targets = _port_range(text, target_text)
    published = _port_range(text, published_text) if published_text else range(0)
    if published and len(targets) > 1 and len(published) != len(targets):
        raise ValueError(f"{text!r}: the ranges of published and target ports differ in length")
    return _PortEntry(address=address, protocol=protocol, targets=targets, published=published)


def _split_address(text: str, head: str) -> tuple[str, str]:
    if not head:
        return "", ""
    address, colon, published = head.rpartition(":")
    if not colon:
        return "", head
    bare = address.removeprefix("[").removesuffix("]")
    if bare:
        try:
            ipaddress.ip_address(bare)
        except ValueError as error:
            raise ValueError(f"{text!r}: {_brief(bare)!r} is not an IP address") from error
    return bare, published


def _port_range(text: str, part: str) -> range:
    first_text, dash, last_text = part.partition("-")
    first = _port(text, first_text)
    last = _port(text, last_text) if dash else first
    if last < first:
        raise ValueError(f"{text!r}: the range {part!r} ends before it starts")
    return range(first, last + 1)


def _port(text: str, digits: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", digits, re.ASCII) is None or not 1 <= int(digits) <= MAX_PORT:
        raise ValueError(f"{text!r} is not a port: {_brief(digits)!r} is no number from 1 to {MAX_PORT}")
    return int(digits)


def _brief(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


# -- volumes ----------------------------------------------------------------------------------------------------------


def is_path(source: str) -> bool:
    """True when the source of a mount is a place on the host, not the name of a volume."""
    return source.startswith((".", "/", "~"))


def parse_volume(text: str) -> Mount:
    """``[source:]target[:options]``; the source of a bind is as written. Raises ValueError."""
    parts = text.split(":")
    if not text:
        raise ValueError("a volume must not be empty")
    if len(parts) > 3:
        raise ValueError(f"{text!r} is not a volume: too many colons")
    if any(not part for part in parts[:2]):
        raise ValueError(f"{text!r} is not a volume: an empty section between colons")
    if len(parts) == 1:
        return Mount(type="volume", target=text)
    source, target = parts[0], parts[1]
    mount = Mount(type="bind" if is_path(source) else "volume", source=source, target=target)
    for option in parts[2].split(",") if len(parts) == 3 else ():
        if option in ("ro", "rw"):
            mount = attrs.evolve(mount, read_only=option == "ro")
        elif option == "nocopy":
            mount = attrs.evolve(mount, volume_no_copy=True)
        elif option in PROPAGATIONS:
            mount = attrs.evolve(mount, bind_propagation=option)
    return mount


def parse_tmpfs(text: str) -> Mount:
    """``target[:size=64m,mode=1777]``; other mount options are left to the engine's defaults. Raises ValueError."""
    target, _, options = text.partition(":")
    if not target.startswith("/"):
        raise ValueError(f"{text!r}: a tmpfs is mounted on an absolute path")
    size = mode = 0
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name == "size":
            size = parse_size(value)
        elif name == "mode":
            if re.fullmatch(r"[0-7]{1,5}", value) is None:
                raise ValueError(f"{text!r}: mode is an octal number such as 1777")
            mode = int(value, 8)
    return Mount(type="tmpfs", target=target, tmpfs_size_bytes=size, tmpfs_mode=mode)


# -- names ------------------------------------------------------------------------------------------------------------


def image_reference(text: str) -> str:
    """An image with its tag, as the docker command writes it into a spec. Raises ValueError."""
    if not grammar.is_image(text):
        raise ValueError(f"{text!r} is no image reference: write [registry/]name[:tag]")
    short = text.removeprefix("docker.io/").removeprefix("library/") if text.startswith("docker.io/") else text
    return short if "@" in short or ":" in short.rpartition("/")[2] else f"{short}:latest"


def capability(name: str) -> str:
    """A capability in the kernel's spelling; ``ALL`` stands for every one."""
    upper = name.strip().upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


# -- lists and mappings -----------------------------------------------------------------------------------------------


def scalar_text(value: Any) -> str:
    """A scalar of a mapping (string, number or nothing) as text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return number_text(value) if isinstance(value, int | float) else str(value)


def pairs(value: Any) -> dict[str, str | None]:
    """A list of ``key=value`` or a mapping, as a mapping; None for a key that stands alone."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {key: None if item is None else scalar_text(item) for key, item in value.items()}
    out: dict[str, str | None] = {}
    for item in value:
        key, equals, text = scalar_text(item).partition("=")
        out[key] = text if equals else None
    return out


def labels(value: Any) -> dict[str, str]:
    """Labels of either form; a label without a value is ""."""
    return {key: text or "" for key, text in pairs(value).items()}


def string_list(value: Any) -> tuple[str, ...]:
    """A string or a list of strings (or numbers), as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(scalar_text(item) for item in value)


def extra_hosts(value: Any) -> tuple[str, ...]:
    """Extra hosts of either form as ``"IP name"``; an entry without a separator is dropped."""
    if isinstance(value, Mapping):
        return tuple(f"{_unbracketed(scalar_text(ip))} {name}" for name, ip in sorted(value.items()))
    out = []
    for entry in value or ():
        separator = "=" if "=" in entry else ":"
        name, found, ip = entry.partition(separator)
        if found:
            out.append(f"{_unbracketed(ip.strip())} {name.strip()}")
    return tuple(out)


def _unbracketed(ip: str) -> str:
    return ip[1:-1] if ip.startswith("[") and ip.endswith("]") else ip


def command_line(value: Any) -> tuple[str, ...]:
    """A command of either form as words. Raises ValueError for an unclosed quote."""
    if value is None:
        return ()
    return split_words(value) if isinstance(value, str) else tuple(scalar_text(item) for item in value)


def split_words(text: str) -> tuple[str, ...]:
    """The words of a command line: quotes, backslashes and ``#`` comments, but nothing else of a shell.

    Raises ValueError for an unclosed quote or a backslash at the end.
    """
    words: list[str] = []
    parts: list[str] = []
    in_word = False
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if quote and char == quote:
            quote = ""
        elif quote == "'" or (quote and char != "\\"):
            parts.append(char)
        elif char == "\\":
            if position == len(text):
                raise ValueError(f"{_brief(text)!r} ends in a backslash")
            parts.append(text[position])
            position += 1
            in_word = True
        elif char in "'\"":
            quote, in_word = char, True
        elif char in " \t\r\n":
            if in_word:
                words.append("".join(parts))
            parts, in_word = [], False
        elif char == "#" and not in_word:
            end = text.find("\n", position)
            position = len(text) if end < 0 else end + 1
        else:
            parts.append(char)
            in_word = True
    if quote:
        raise ValueError(f"{_brief(text)!r} has an unclosed {quote} quote")
    return (*words, "".join(parts)) if in_word else tuple(words)

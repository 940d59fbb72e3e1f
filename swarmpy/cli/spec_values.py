"""What the values of a service's options mean, as the API's JSON: ports, mounts, references... Raises ValueError.

The forms are those of the docker command: a short one, or ``key=value`` fields with commas between them.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swarmpy.api.service_json import port_to_json
from swarmpy.compose import shortforms, units
from swarmpy.model.specs import MaxUnavailable, PortConfig

Json = dict[str, Any]

MAX_ENV_FILE_BYTES = 1024 * 1024
_INT64_MAX = 2**63 - 1
_YES, _NO = ("", "1", "true"), ("0", "false")


# -- numbers and words ------------------------------------------------------------------------------------------------


NO_BOUND = "none"


def integer(text: str) -> int:
    """A whole number of zero or more."""
    if re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) is None or int(text) > _INT64_MAX:
        raise ValueError(f"{text[:60]!r} is not a number from 0 to {_INT64_MAX}")
    return int(text)


def pids(text: str) -> int:
    """A limit of processes; 0 and -1 are none."""
    return -1 if text == "-1" else integer(text)


def ratio(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"{text[:60]!r} is not a number from 0 to 1")
    return value


def bound(text: str) -> int | str:
    """How many tasks may be missing, as the API has it: a number, a percentage, or "none"."""
    if text == NO_BOUND:
        return text
    found = MaxUnavailable.parse(text)
    return str(found) if found.is_percentage else found.amount


def words(text: str) -> list[str]:
    """The words of a command line, as a shell would have them."""
    return list(shortforms.split_words(text))


def one(text: str) -> list[str]:
    """A text that is an item itself."""
    if not text.strip():
        raise ValueError("it is empty")
    return [text]


def _fields(text: str, known: Mapping[str, str], bare: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """The fields of ``key=value,key=value`` by their full names in ``known``; those in ``bare`` may have no value."""
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"{text[:60]!r} cannot be read: {error}") from error
    found = []
    for field in fields:
        key, equals, value = field.partition("=")
        name = known.get(key.strip().lower())
        if name is None:
            raise ValueError(f"unknown field {key[:40]!r}: {', '.join(sorted(set(known.values())))}")
        if not equals and name not in bare:
            raise ValueError(f"{field[:60]!r} is not KEY=VALUE")
        found.append((name, value))
    return found


def _known(*names: str, **others: str) -> dict[str, str]:
    return {**{name: name for name in names}, **others}


def _is_yes(name: str, value: str) -> bool:
    if value.lower() not in (*_YES, *_NO):
        raise ValueError(f"{name}={value[:20]} is neither true nor false")
    return value.lower() in _YES


# -- ports ------------------------------------------------------------------------------------------------------------

_PORT_FIELDS = _known("published", "target", "protocol", "mode")


def ports(text: str) -> list[Json]:
    """``[PUBLISHED:]TARGET[/PROTOCOL]``, ports or ranges, or ``published=,target=,protocol=,mode=``."""
    if "=" not in text:
        if shortforms.count_ports(text) > shortforms.MAX_PORTS:
            raise ValueError(f"{text!r} is more than {shortforms.MAX_PORTS} ports")
        short = shortforms.parse_ports(text)
        if short.address:
            raise ValueError(f"{text!r}: a port is published on all addresses: leave the address away")
        return [port_to_json(port) for port in short.ports]
    given = dict(_fields(text, _PORT_FIELDS))
    if "target" not in given:
        raise ValueError(f"{text!r}: no target port given")
    protocol, mode = given.get("protocol", "tcp").lower(), given.get("mode", "ingress").lower()
    if protocol not in shortforms.PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}: tcp, udp or sctp")
    if mode not in ("ingress", "host"):
        raise ValueError(f"unknown mode {mode!r}: ingress or host")
    published = f"{given['published']}:" if given.get("published") else ""
    short = shortforms.parse_ports(f"{published}{given['target']}/{protocol}")
    return [{**port_to_json(port), "PublishMode": mode} for port in short.ports]


def port_key(port: Json) -> tuple[object, ...]:
    """Two ports are one when all is the same."""
    return (*_target_of(port), port.get("PublishedPort", 0))


def is_port(text: str, port: Json) -> bool:
    """True for a port with the target, protocol and mode of ``TARGET[/PROTOCOL]``; the published one does not count."""
    return _target_of(port) in [_target_of(meant) for meant in ports(text)]


def _target_of(port: Json) -> tuple[object, ...]:
    default = PortConfig()
    return (
        port.get("TargetPort"),
        port.get("Protocol", default.protocol),
        port.get("PublishMode", default.publish_mode),
    )


# -- mounts -----------------------------------------------------------------------------------------------------------

_MOUNT_FIELDS = _known(
    "type", "source", "target", "readonly", "consistency", "bind-propagation", "bind-nonrecursive", "bind-recursive",
    "volume-driver", "volume-opt", "volume-label", "volume-nocopy", "volume-subpath", "tmpfs-size", "tmpfs-mode",
    src="source", dst="target", destination="target", ro="readonly",
)  # fmt: skip
_RECURSIVE: dict[str, Json] = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}
"""What is mounted below a bind: as read-only as can be, not there, writable, or read-only by all means."""
_OPTIONS_OF = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions"}


def mount(text: str) -> list[Json]:
    """``type=bind|volume|tmpfs,source=,target=,readonly`` with the options of the type; without a type a volume."""
    given = _fields(text, _MOUNT_FIELDS, frozenset({"readonly", "volume-nocopy", "bind-nonrecursive"}))
    kind = dict(given).get("type", "volume").lower()
    if kind not in _OPTIONS_OF:
        raise ValueError(f"unknown type {kind!r}: bind, volume or tmpfs")
    out: Json = {"Type": kind}
    options: Json = {}
    for name, value in given:
        owner = name.partition("-")[0]
        if owner in _OPTIONS_OF:
            if owner != kind:
                raise ValueError(f"{name} does not go with the type {kind}")
            _add_mount_option(options, name, value)
        elif name == "readonly":
            out["ReadOnly"] = _is_yes(name, value)
        elif name != "type":
            out[name.capitalize()] = value
    if not out.get("Target"):
        raise ValueError("a mount needs a target")
    if kind == "bind" and not out.get("Source"):
        raise ValueError("a bind mount needs a source")
    if kind == "tmpfs" and out.get("Source"):
        raise ValueError("a tmpfs has no source")
    return [{**out, _OPTIONS_OF[kind]: options} if options else out]


def _add_mount_option(options: Json, name: str, value: str) -> None:
    match name:
        case "bind-propagation":
            if value not in shortforms.PROPAGATIONS:
                raise ValueError(f"unknown propagation {value!r}: {', '.join(shortforms.PROPAGATIONS)}")
            options["Propagation"] = value
        case "bind-nonrecursive":
            options["NonRecursive"] = _is_yes(name, value)
        case "bind-recursive":
            if value not in _RECURSIVE:
                raise ValueError(f"unknown bind-recursive {value!r}: {', '.join(_RECURSIVE)}")
            options.update(_RECURSIVE[value])
        case "volume-subpath":
            options["Subpath"] = value
        case "volume-driver":
            options.setdefault("DriverConfig", {})["Name"] = value
        case "volume-opt":
            key, _, text = value.partition("=")
            options.setdefault("DriverConfig", {}).setdefault("Options", {})[key] = text
        case "volume-label":
            key, _, text = value.partition("=")
            options.setdefault("Labels", {})[key] = text
        case "volume-nocopy":
            options["NoCopy"] = _is_yes(name, value)
        case "tmpfs-size":
            options["SizeBytes"] = units.parse_size(value)
        case "tmpfs-mode":
            options["Mode"] = _octal(name, value)


def _octal(name: str, value: str) -> int:
    if re.fullmatch(r"0?o?[0-7]{1,4}", value) is None:
        raise ValueError(f"{name}={value[:20]} is no octal number such as 0755")
    return int(value.replace("o", ""), 8)


# -- secrets and configs ----------------------------------------------------------------------------------------------

_FILE_FIELDS = _known("source", "target", "uid", "gid", "mode", src="source")


def secret(text: str) -> list[Json]:
    """``NAME``, or ``source=,target=,uid=,gid=,mode=``. Its id is looked up when the service is written."""
    return [_reference(text, "Secret")]


def config(text: str) -> list[Json]:
    """As :func:`secret`."""
    return [_reference(text, "Config")]


def _reference(text: str, word: str) -> Json:
    given = dict(_fields(text, _FILE_FIELDS)) if "=" in text else {"source": text}
    name = given.get("source", "")
    if not name:
        raise ValueError(f"{text!r}: no source given")
    file = {
        "Name": given.get("target") or name,
        "UID": given.get("uid") or "0",
        "GID": given.get("gid") or "0",
        "Mode": _octal("mode", given["mode"]) if "mode" in given else 0o444,
    }
    return {f"{word}Name": name, "File": file}


def file_key(reference: Json) -> str:
    """Two references are one when they are the same file."""
    return str((reference.get("File") or {}).get("Name", ""))


# -- the environment, hosts and limits --------------------------------------------------------------------------------


def variable(text: str) -> list[str]:
    """``NAME=VALUE``, or ``NAME`` with its value here; one that is not set here stands alone, and means none."""
    name, equals, _ = text.partition("=")
    if not name:
        raise ValueError(f"{text[:60]!r} is not NAME=VALUE")
    return [text if equals or name not in os.environ else f"{name}={os.environ[name]}"]


def variables_of_file(path: str) -> list[str]:
    """The lines ``NAME=VALUE`` of a file; empty ones, comments (``#``) and names that are not set here do not count."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_ENV_FILE_BYTES + 1)
        if len(content) > MAX_ENV_FILE_BYTES:
            raise ValueError(f"{path}: it has more than {MAX_ENV_FILE_BYTES} bytes")
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 text") from error
    found = []
    for number, line in enumerate(lines, 1):
        entry = line.lstrip()
        name, equals, _ = entry.partition("=")
        if not entry or entry.startswith("#"):
            continue
        if not name or name != name.strip() or " " in name:
            raise ValueError(f"{path}:{number}: {name[:60]!r} is no name of a variable")
        if equals or name in os.environ:
            found += variable(entry)
    return found


def variable_name(item: str) -> str:
    """The name before ``=``."""
    return item.partition("=")[0]


def host(text: str) -> list[str]:
    """``HOST:IP`` as the API has it: ``IP HOST``."""
    name, colon, address = text.partition(":")
    if not colon or not name or not address:
        raise ValueError(f"{text[:60]!r} is not HOST:IP")
    return list(shortforms.extra_hosts([text]))


def is_host(text: str, item: str) -> bool:
    """True for the entry of ``HOST`` or ``HOST:IP``."""
    name, _, address = text.partition(":")
    ip, *names = item.split()
    return name in names and address in ("", ip)


def ulimit(text: str) -> list[Json]:
    """``NAME=SOFT[:HARD]``."""
    match = re.fullmatch(r"([a-z]+)=(-1|[0-9]{1,18})(?::(-1|[0-9]{1,18}))?", text)
    if match is None:
        raise ValueError(f"{text[:60]!r} is not NAME=SOFT[:HARD]")
    return [{"Name": match[1], "Soft": int(match[2]), "Hard": int(match[3] or match[2])}]


def generic(text: str) -> list[Json]:
    """``KIND=COUNT``."""
    kind, _, count = text.partition("=")
    if not kind or not count.isdecimal():
        raise ValueError(f"{text[:60]!r} is not KIND=COUNT")
    return [{"DiscreteResourceSpec": {"Kind": kind, "Value": integer(count)}}]


def generic_kind(item: Json) -> str:
    """The kind of a generic resource."""
    return next((str(spec.get("Kind", "")) for spec in item.values() if isinstance(spec, dict)), "")


def oom_score(text: str) -> int:
    """From -1000 (killed last) to 1000."""
    if re.fullmatch(r"-?[0-9]{1,4}", text, re.ASCII) is None or not -1000 <= int(text) <= 1000:
        raise ValueError(f"{text[:20]!r} is not a number from -1000 to 1000")
    return int(text)


def network(text: str) -> list[Json]:
    """``NAME``, or ``name=,alias=``, where an alias may be repeated."""
    given = _fields(text, _known("name", "alias")) if "=" in text else [("name", text)]
    name = dict(given).get("name", "")
    aliases = [value for key, value in given if key == "alias"]
    if not name:
        raise ValueError(f"{text[:60]!r}: no network given")
    return [{"Target": name, "Aliases": aliases} if aliases else {"Target": name}]


def spread(text: str) -> list[Json]:
    """``spread=node.labels.NAME``."""
    strategy, _, key = text.partition("=")
    if strategy != "spread" or not key:
        raise ValueError(f"{text[:60]!r} is not spread=node.labels.NAME")
    return [{"Spread": {"SpreadDescriptor": key}}]

"""Several stack files as one: what a later file says is laid over what an earlier one says. Pure.

Single values of the later file win; mappings are merged by key; ports, volumes, configs and secrets by what identifies
an entry; other lists are appended; commands, tests and top-level entries are replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swarmpy.compose import shortforms
from swarmpy.compose.yaml_reader import Document, Path

_PAIRS = frozenset({"environment", "labels", "sysctls"})
_REPLACED = frozenset({"command", "entrypoint", "test", "build"})
_TOP_ENTRIES = ("networks", "volumes", "secrets", "configs")


def merge(documents: Sequence[Document]) -> Document:
    """The documents as one, the later over the earlier. All are valid by themselves."""
    result = documents[0]
    for later in documents[1:]:
        result = _merge_two(result, later)
    return result


def _merge_two(base: Document, later: Document) -> Document:
    data = dict(base.data)
    if base.data.get("services") or later.data.get("services"):
        services = dict(base.data.get("services", {}))
        for name, service in later.data.get("services", {}).items():
            services[name] = _service(services[name], service) if name in services else service
        data["services"] = services
    for key in _TOP_ENTRIES:
        if key in base.data or key in later.data:
            data[key] = {**base.data.get(key, {}), **later.data.get(key, {})}
    return Document(file=base.file, data=data, places=_merge_places(base, later))


def _merge_places(base: Document, later: Document) -> dict[Path, str]:
    # Positions inside merged lists no longer tell which file they came from, so only keys keep their places.
    places = {path: place for path, place in base.places.items() if not any(isinstance(p, int) for p in path)}
    return places | {
        path: place for path, place in later.places.items() if path and not any(isinstance(p, int) for p in path)
    }


def _service(base: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in later.items():
        if key not in base:
            out[key] = value
        elif key in _KEYED:
            out[key] = _merge_keyed(base[key], value, _KEYED[key])
        elif key == "networks":
            out[key] = {**_networks(base[key]), **_networks(value)}
        elif key == "logging" and base[key].get("driver") != value.get("driver") and "driver" in value:
            out[key] = value
        else:
            out[key] = _merge_value(key, base[key], value)
    return out


def _merge_value(key: str, base: Any, later: Any) -> Any:
    if key in _REPLACED or base is None or later is None:
        return base if later is None else later
    if key in _PAIRS:
        return {**shortforms.pairs(base), **shortforms.pairs(later)}
    if key == "extra_hosts":
        return [*_host_list(base), *_host_list(later)]
    if isinstance(base, dict) and isinstance(later, dict):
        return {
            **base,
            **{name: _merge_value(name, base[name], item) if name in base else item for name, item in later.items()},
        }
    if isinstance(base, list) or isinstance(later, list):
        return [*_as_list(base), *_as_list(later)]
    return later


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _host_list(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}={shortforms.scalar_text(ip)}" for name, ip in value.items()]
    return list(value)


def _networks(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else dict.fromkeys(value)


def _merge_keyed(base: list[Any], later: list[Any], keys_of: Callable[[Any], list[tuple[Any, Any]]]) -> list[Any]:
    merged: dict[Any, Any] = {}
    for entry in (*base, *later):
        merged |= dict(keys_of(entry))
    return list(merged.values())


def _port_entries(entry: Any) -> list[tuple[Any, Any]]:
    if isinstance(entry, dict):
        published, protocol = entry.get("published", 0), entry.get("protocol", "tcp")
        identity = (published, protocol) if published else (0, protocol, entry.get("target"))
        return [(identity, entry)]
    entries: list[tuple[Any, Any]] = []
    for port in shortforms.parse_ports(shortforms.scalar_text(entry)).ports:
        long = {"target": port.target_port, "protocol": port.protocol, "mode": port.publish_mode}
        if port.published_port:
            long["published"] = port.published_port
        entries += _port_entries(long)
    return entries


def _volume_entries(entry: Any) -> list[tuple[Any, Any]]:
    target = entry.get("target", "") if isinstance(entry, dict) else shortforms.parse_volume(entry).target
    return [(target, entry)]


def _reference_entries(entry: Any) -> list[tuple[Any, Any]]:
    return [(entry["source"] if isinstance(entry, dict) else entry, entry)]


_KEYED: Mapping[str, Callable[[Any], list[tuple[Any, Any]]]] = {
    "ports": _port_entries,
    "volumes": _volume_entries,
    "configs": _reference_entries,
    "secrets": _reference_entries,
}

"""How far a pull has come, from the lines that the engine writes while it pulls. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

MAX_LAYERS = 512
"""An engine takes images of 127 at most."""
_MB = 1_000_000

_BEGUN = frozenset({"Pulling fs layer", "Waiting", "Downloading", "Retrying"})
_FETCHED = frozenset({"Verifying Checksum", "Download complete", "Extracting"})
_DONE = frozenset({"Pull complete", "Already exists"})


@attrs.define
class _Layer:
    total: int = 0
    """Bytes; 0 while it is not known."""
    current: int = 0
    is_fetched: bool = False
    is_done: bool = False


class PullProgress:
    """Of one image, whose layers the engine gets side by side."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._layers: dict[str, _Layer] = {}

    def step(self, line: Mapping[str, Any]) -> None:
        """Take in a line: ``{"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "..."}``."""
        status, key = str(line.get("status", "")), str(line.get("id", ""))
        word = "Retrying" if status.startswith("Retrying") else status
        # The tag has an id too, with words of its own.
        if not key or word not in _BEGUN | _FETCHED | _DONE:
            return
        if key not in self._layers and len(self._layers) >= MAX_LAYERS:
            return
        layer = self._layers.setdefault(key, _Layer())
        layer.is_done = word in _DONE
        layer.is_fetched = layer.is_done or word in _FETCHED
        detail = line.get("progressDetail")
        if word == "Downloading" and isinstance(detail, Mapping):
            layer.current = _count(detail.get("current"))
            layer.total = max(_count(detail.get("total")), layer.current)
        elif layer.is_fetched:
            layer.current = layer.total

    def __str__(self) -> str:
        """``pulling shop/web:8: 34 of 80 MB, layer 3 of 5``."""
        layers = self._layers.values()
        if not layers:
            return f"pulling {self._image}"
        done = sum(layer.is_done for layer in layers)
        place = f"layer {min(done + 1, len(layers))} of {len(layers)}"
        if all(layer.is_fetched for layer in layers):
            return f"pulling {self._image}: unpacking, {place}"
        current, total = (sum(values) for values in zip(*((x.current, x.total) for x in layers), strict=True))
        least = "" if all(layer.total or layer.is_fetched for layer in layers) else "at least "
        return f"pulling {self._image}: {current // _MB} of {least}{-(-total // _MB)} MB, {place}"


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0

"""References to images, and what a registry tells of one. Pure.

A reference is ``[registry[:port]/]name[:tag][@digest]``. One with a digest is *pinned*: it is the same image for ever,
wherever and whenever it is pulled.
"""

from __future__ import annotations

import re
from typing import Any

import attrs

from swarmpy.model.specs import Platform

DOCKER_HUB = "docker.io"
"""The registry of references that name none."""
MAX_PLATFORMS = 128
"""Of one image. The largest of the official ones have some twenty."""

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,128}")


def registry_of(image: str) -> str:
    """The registry of a reference, as it is to be shown: ``host[:port]``, or ``docker.io``."""
    first, slash, _ = image.partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    return first if is_host else DOCKER_HUB


def is_pinned(image: str) -> bool:
    """True for a reference with a digest."""
    return "@" in image


def pinned(image: str, digest: str) -> str:
    """The reference with ``digest``, and with the tag that it has or means; one that is pinned stays as it is."""
    if is_pinned(image):
        return image
    tagged = ":" in image.rpartition("/")[2]
    return f"{image}@{digest}" if tagged else f"{image}:latest@{digest}"


@attrs.frozen(kw_only=True)
class RegistryImage:
    """What a registry says of an image: its digest, and what it exists for."""

    digest: str
    media_type: str = ""
    size: int = 0
    """Bytes of its manifest."""
    platforms: tuple[Platform, ...] = ()

    @property
    def placement(self) -> tuple[Platform, ...]:
        """Its platforms as Docker's clients write them into a service: of ARM without the architecture, since images
        say ``arm`` and nodes ``armv7l``.
        """
        return tuple(
            dict.fromkeys(
                Platform(architecture="" if p.architecture.lower() == "arm" else p.architecture, os=p.os)
                for p in self.platforms
            )
        )


def registry_image_from_json(answer: Any) -> RegistryImage:
    """Of the answer to ``GET /distribution/{name}/json``. Raises ValueError: it is none, or has no digest."""
    described = answer.get("Descriptor") if isinstance(answer, dict) else None
    described = described if isinstance(described, dict) else {}
    digest, media_type, size = (described.get(key) for key in ("digest", "mediaType", "size"))
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("it names no digest")
    listed = answer.get("Platforms") or []
    platforms = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    return RegistryImage(
        digest=digest,
        media_type=media_type if isinstance(media_type, str) else "",
        size=size if type(size) is int else 0,
        platforms=tuple(
            Platform(architecture=str(item.get("architecture") or ""), os=str(item.get("os") or ""))
            for item in platforms[:MAX_PLATFORMS]
        ),
    )


def registry_image_to_json(image: RegistryImage) -> dict[str, Any]:
    """The answer to ``GET /distribution/{name}/json``."""
    return {
        "Descriptor": {"mediaType": image.media_type, "digest": image.digest, "size": image.size},
        "Platforms": [{"architecture": p.architecture, "os": p.os} for p in image.platforms],
    }

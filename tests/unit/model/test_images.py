"""References to images and what registries say of them."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.model.grammar import is_image
from swarmpy.model.images import (
    RegistryImage,
    is_pinned,
    pinned,
    registry_image_from_json,
    registry_image_to_json,
    registry_of,
)
from swarmpy.model.specs import Platform

DIGEST = "sha256:" + "5" * 64


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", "docker.io"),
        ("shop/web:8", "docker.io"),
        ("localhost/web", "localhost"),
        ("10.0.0.1:5000/shop/web:8", "10.0.0.1:5000"),
        ("registry.example/web@sha256:1", "registry.example"),
    ],
)
def test_the_registry_of_a_reference(image: str, registry: str) -> None:
    """The first part is a host when it looks like one."""
    assert registry_of(image) == registry


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("busybox", f"busybox:latest@{DIGEST}"),
        ("busybox:1", f"busybox:1@{DIGEST}"),
        ("10.0.0.1:5000/web", f"10.0.0.1:5000/web:latest@{DIGEST}"),
        ("web@sha256:" + "1" * 64, "web@sha256:" + "1" * 64),
    ],
)
def test_a_pinned_reference_keeps_its_tag(image: str, expected: str) -> None:
    """A port is no tag; what is pinned stays; what comes out is a reference."""
    assert pinned(image, DIGEST) == expected
    assert is_pinned(expected)
    assert is_image(expected)


def test_what_a_registry_says_goes_through_json() -> None:
    """There and back again."""
    image = RegistryImage(digest=DIGEST, media_type="m", size=3, platforms=(Platform(architecture="arm64"),))
    assert registry_image_from_json(registry_image_to_json(image)) == image


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"Descriptor": None}, {"Descriptor": {"digest": 5}}, {"Descriptor": {"digest": "sha256:x\ny"}}],
)
def test_an_answer_without_a_digest_is_none(answer: Any) -> None:
    """It would be written into a service."""
    with pytest.raises(ValueError, match="digest"):
        registry_image_from_json(answer)


def test_odd_platforms_do_no_harm() -> None:
    """Nothing, or what is no platform, is none; of ARM only the operating system is asked for, each once."""
    for odd in (None, "linux", [None, 5]):
        assert registry_image_from_json({"Descriptor": {"digest": DIGEST}, "Platforms": odd}).platforms == ()
    platforms = tuple(Platform(architecture=word) for word in ("amd64", "arm", "ARM", "arm64"))
    placed = RegistryImage(digest=DIGEST, platforms=platforms).placement
    assert [platform.architecture for platform in placed] == ["amd64", "", "arm64"]

"""Pinning the images of services: a tag becomes the digest that it stands for now, so that all nodes run the same image
and a deployment with a moved tag is an update.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from swarmpy.api.docker_json import service_spec_from_json
from swarmpy.cli.client import ApiClient
from swarmpy.compose.convert import IMAGE_LABEL
from swarmpy.errors import ConnectionFailed, FailedPrecondition, SwarmpyError
from swarmpy.model.images import RegistryImage, is_pinned, pinned
from swarmpy.model.specs import Placement, ServiceSpec

Json = Mapping[str, Any]

CHOICES = ("always", "changed", "never")
"""Docker's ``--resolve-image``: ask the registry for every service, for those that are new or have another image in the
file than before, or for none.
"""
QUESTIONS_AT_ONCE = 8
_NO_ENGINES = frozenset({"process", "simulated"})
"""What nodes without an engine call theirs."""


def not_recorded(image: str, reason: str, *, keeps: bool = False) -> str:
    """What is said of an image whose digest could not be had, in Docker's words; ``keeps``: the service has another."""
    what = (
        "its digest. The service keeps the digest that it has."
        if keeps
        else f"its digest. Each node will access {image} independently,\n"
        "possibly leading to different nodes running different\nversions of the image."
    )
    return f"image {image} could not be accessed on a registry to record\n{what}\n({reason})\n"


class ImagePins:
    """Finds out digests through a manager, each image once. ``warn`` is told what could not be found out."""

    def __init__(self, client: ApiClient, how: str, warn: Callable[[str], None]) -> None:
        """``how`` is one of :data:`CHOICES`."""
        assert how in CHOICES, f"{how} is no way to resolve images"
        self._client = client
        self._how = how
        self._warn = warn
        self._places = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def pin(
        self, specs: Iterable[ServiceSpec], existing: Mapping[str, Json], auths: Mapping[str, str | None]
    ) -> list[ServiceSpec]:
        """The specs with their images pinned, as far as that is wanted and possible.

        ``existing``: services by name; one whose image in the file is the one from before keeps what it was pinned to
        where no registry is asked, or none answers. ``auths``: headers with credentials, by image.
        """
        wanted = list(specs)
        before = {spec.name: _kept(spec, existing.get(spec.name)) for spec in wanted}
        asked = {
            spec.task.container.image
            for spec in wanted
            if not is_pinned(spec.task.container.image)
            and (self._how == "always" or (self._how == "changed" and before[spec.name] is None))
        }
        answers = await asyncio.gather(*(self._ask(image, auths.get(image)) for image in sorted(asked)))
        found = dict(zip(sorted(asked), answers, strict=True))
        if any(isinstance(answer, FailedPrecondition) for answer in answers) and not await self._pulls_images():
            found = {}
        return [self._pinned(spec, found.get(spec.task.container.image), before[spec.name]) for spec in wanted]

    async def find(self, image: str, auth: str | None) -> RegistryImage | None:
        """What the registry says of one image; None where nobody is asked or answers."""
        if is_pinned(image) or self._how == "never":
            return None
        answer = await self._ask(image, auth)
        if isinstance(answer, RegistryImage):
            return answer
        if not isinstance(answer, FailedPrecondition) or await self._pulls_images():
            self._warn(not_recorded(image, str(answer)))
        return None

    async def _ask(self, image: str, auth: str | None) -> RegistryImage | SwarmpyError:
        try:
            async with self._places:
                return await self._client.registry_image(image, registry_auth=auth)
        except ConnectionFailed:
            raise
        except SwarmpyError as error:
            return error

    async def _pulls_images(self) -> bool:
        """True when a node of the cluster has an engine, though the one that was asked has none."""
        engines = {
            node.get("Description", {}).get("Engine", {}).get("EngineVersion") for node in await self._client.nodes()
        }
        return bool(engines - _NO_ENGINES - {None, ""})

    def _pinned(
        self, spec: ServiceSpec, found: RegistryImage | SwarmpyError | None, kept: ServiceSpec | None
    ) -> ServiceSpec:
        image = spec.task.container.image
        if isinstance(found, RegistryImage):
            placement = attrs.evolve(spec.task.placement or Placement(), platforms=found.placement)
            return _with(spec, pinned(image, found.digest), placement)
        if found is not None:
            has_digest = kept is not None and is_pinned(kept.task.container.image)
            self._warn(not_recorded(image, str(found), keeps=has_digest))
        if kept is None:
            return spec
        platforms = kept.task.placement.platforms if kept.task.placement else ()
        placement_now = spec.task.placement
        if platforms:
            placement_now = attrs.evolve(placement_now or Placement(), platforms=platforms)
        return _with(spec, kept.task.container.image, placement_now)


def _kept(spec: ServiceSpec, service: Json | None) -> ServiceSpec | None:
    """What the service is now, if its image in the file is the one from before."""
    if service is None or service["Spec"].get("Labels", {}).get(IMAGE_LABEL) != spec.labels.get(IMAGE_LABEL):
        return None
    return service_spec_from_json(service["Spec"])


def _with(spec: ServiceSpec, image: str, placement: Placement | None) -> ServiceSpec:
    container = attrs.evolve(spec.task.container, image=image)
    return attrs.evolve(spec, task=attrs.evolve(spec.task, container=container, placement=placement))

"""A task's secrets and configs as files: where each goes, whose it is, and what is in it. Pure.

Of containers that were checked (:mod:`swarmpy.runtime.checked`): targets, owners and modes are what they must be.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable

import attrs

from swarmpy.errors import TaskRejected
from swarmpy.model import grammar
from swarmpy.model.content_template import ContentFacts, expand_content
from swarmpy.model.data_checks import GOLANG, MAX_CONFIG_BYTES, MAX_SECRET_BYTES
from swarmpy.model.dependencies import Content, Dependencies
from swarmpy.model.objects import Task
from swarmpy.model.reference_checks import SECRETS_DIRECTORY
from swarmpy.model.specs import ConfigReference, ContainerSpec, SecretReference
from swarmpy.model.template import NodeFacts

CONFIGS_DIRECTORY = "/"
"""Where a container has a config whose target is relative."""
SECRETS = "secrets"
CONFIGS = "configs"
"""The directories below a task's own on the node."""

Reference = SecretReference | ConfigReference


@attrs.frozen(kw_only=True)
class FilePlace:
    """Where one file is, and whose."""

    what: str
    """``secret NAME`` or ``config NAME``, for people."""
    reference: Reference
    path: str
    """Below the task's directory on the node."""
    target: str
    """Where the task finds it: absolute in a container; of a plain process the same as ``path``."""
    uid: int
    gid: int
    mode: int


@attrs.frozen(kw_only=True)
class TaskFile:
    """One file as it is to be written."""

    place: FilePlace
    data: bytes = attrs.field(repr=False)


def container_places(container: ContainerSpec) -> tuple[FilePlace, ...]:
    """Of a container, each of whose files is mounted alone. Raises TaskRejected for one where a directory must be."""
    places = []
    for number, reference in enumerate(_references(container)):
        base = SECRETS_DIRECTORY if isinstance(reference, SecretReference) else CONFIGS_DIRECTORY
        # An absolute target leaves the base away.
        target = _normal(posixpath.join(base, reference.file.name))
        places.append(_place(reference, path=f"{_directory(reference)}/{number}", target=target))
    _check_apart(places, lambda place: place.target)
    return tuple(places)


def process_places(container: ContainerSpec) -> tuple[FilePlace, ...]:
    """Of a plain process, which has two directories and nothing mounted; of an absolute target the last word counts.

    Raises TaskRejected for two files in one place.
    """
    places = []
    for reference in _references(container):
        target = _normal(reference.file.name)
        relative = posixpath.basename(target) if reference.file.name.startswith("/") else target.lstrip("/")
        path = f"{_directory(reference)}/{relative}"
        places.append(_place(reference, path=path, target=path))
    _check_apart(places, lambda place: place.path)
    return tuple(places)


def task_files(
    places: Iterable[FilePlace], needed: Dependencies, *, task: Task, container: ContainerSpec, node: NodeFacts
) -> tuple[TaskFile, ...]:
    """The files with their contents. ``container`` is the task's, its placeholders replaced.

    Raises TaskRejected for a template that cannot be expanded, and when ``needed`` lacks something.
    """
    facts = ContentFacts(
        task=task,
        node=node,
        env=dict(variable.split("=", 1) for variable in container.env if "=" in variable),
        secrets={
            r.file.name: needed.secrets[r.secret_id].data for r in container.secrets if r.secret_id in needed.secrets
        },
        configs={
            r.file.name: needed.configs[r.config_id].data for r in container.configs if r.config_id in needed.configs
        },
    )
    return tuple(TaskFile(place=place, data=_data(place, needed, facts)) for place in places)


def _data(place: FilePlace, needed: Dependencies, facts: ContentFacts) -> bytes:
    reference = place.reference
    content: Content | None
    if isinstance(reference, SecretReference):
        content, most = needed.secrets.get(reference.secret_id), MAX_SECRET_BYTES
    else:
        content, most = needed.configs.get(reference.config_id), MAX_CONFIG_BYTES
    if content is None:
        raise TaskRejected(f"{place.what}: its data is not at hand on this node")
    if not content.templating:
        return content.data
    if content.templating != GOLANG:
        raise TaskRejected(f"{place.what}: templating {grammar.shown(content.templating)} is unknown: use {GOLANG}")
    try:
        return expand_content(content.data, facts, most)
    except ValueError as error:
        raise TaskRejected(f"{place.what}: {error}") from None


def _references(container: ContainerSpec) -> tuple[Reference, ...]:
    return (*container.secrets, *container.configs)


def _directory(reference: Reference) -> str:
    return SECRETS if isinstance(reference, SecretReference) else CONFIGS


def _what(reference: Reference) -> str:
    if isinstance(reference, SecretReference):
        return f"secret {grammar.bare(reference.secret_name)}"
    return f"config {grammar.bare(reference.config_name)}"


def _normal(target: str) -> str:
    # Python keeps two slashes at the beginning, which mean something on other systems.
    return posixpath.normpath("/" + target.lstrip("/"))


def _place(reference: Reference, *, path: str, target: str) -> FilePlace:
    file = reference.file
    return FilePlace(
        what=_what(reference),
        reference=reference,
        path=path,
        target=target,
        uid=int(file.uid),
        gid=int(file.gid),
        mode=file.mode,
    )


def _check_apart(places: Iterable[FilePlace], of: Callable[[FilePlace], str]) -> None:
    """No two files in one place, and none where another needs a directory."""
    found: dict[str, FilePlace] = {}
    for place in places:
        if (other := found.setdefault(of(place), place)) is not place:
            raise TaskRejected(f"{other.what} and {place.what} have the same target {grammar.shown(of(place))}")
    for path, place in found.items():
        above = posixpath.dirname(path)
        while above not in ("", "/"):
            if above in found:
                raise TaskRejected(f"{place.what} has a target below that of {found[above].what}, which is a file")
            above = posixpath.dirname(above)

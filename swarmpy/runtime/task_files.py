"""A task's secrets and configs as files: where each goes, whose it is, and what is in it. Pure.

As with everything that a node is told, targets, owners and modes are looked at here again: they become paths.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable

import attrs

from swarmpy.errors import TaskRejected
from swarmpy.model import grammar
from swarmpy.model.content_template import GOLANG, ContentFacts, expand_content
from swarmpy.model.dependencies import MAX_CONFIG_BYTES, MAX_SECRET_BYTES, Content, Dependencies
from swarmpy.model.objects import Task
from swarmpy.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference
from swarmpy.model.template import NodeFacts

SECRETS_DIRECTORY = "/run/secrets"
"""Where a container has a secret whose target is relative."""
CONFIGS_DIRECTORY = "/"
"""The same of a config."""
SECRETS = "secrets"
CONFIGS = "configs"
"""The directories below a task's own on the node."""
MAX_OWNER = 2**32 - 2
"""The last number that a user or group can have."""
MAX_MODE = 0o7777

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
    """Of a container, each of whose files is mounted alone. Raises TaskRejected for what cannot be."""
    places = [
        _place(reference, path=f"{_directory(reference)}/{number}", target=_container_target(reference))
        for number, reference in enumerate(_references(container))
    ]
    _check_apart(places, lambda place: place.target)
    return tuple(places)


def process_places(container: ContainerSpec) -> tuple[FilePlace, ...]:
    """Of a plain process, which has two directories and nothing mounted; of an absolute target the last word counts.

    Raises TaskRejected for what cannot be.
    """
    places = []
    for reference in _references(container):
        relative = _checked_target(reference)
        if relative.startswith("/"):
            relative = posixpath.basename(relative)
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


def _container_target(reference: Reference) -> str:
    base = SECRETS_DIRECTORY if isinstance(reference, SecretReference) else CONFIGS_DIRECTORY
    # An absolute target leaves the base away.
    return posixpath.join(base, _checked_target(reference))


def _checked_target(reference: Reference) -> str:
    """The target without double slashes and dots. Raises TaskRejected for one that says not itself where it leads."""
    target = reference.file.name
    try:
        grammar.check_path(posixpath.join("/", target))
    except ValueError as error:
        raise TaskRejected(f"{_what(reference)}: {error}") from None
    normal = posixpath.normpath(target) if target else ""
    normal = f"/{normal.lstrip('/')}" if target.startswith("/") else normal
    if normal in ("", ".", "/") or target.endswith("/"):
        raise TaskRejected(f"{_what(reference)}: {grammar.shown(target)} is not the name of a file")
    return normal


def _place(reference: Reference, *, path: str, target: str) -> FilePlace:
    file, what = reference.file, _what(reference)
    if not 0 <= file.mode <= MAX_MODE:
        raise TaskRejected(f"{what}: a mode is from 0 to {MAX_MODE:o}, in octal")
    uid, gid = _owner(what, "user", file, file.uid), _owner(what, "group", file, file.gid)
    return FilePlace(what=what, reference=reference, path=path, target=target, uid=uid, gid=gid, mode=file.mode)


def _owner(what: str, kind: str, file: FileTarget, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_OWNER)) and int(text) <= MAX_OWNER):
        raise TaskRejected(
            f"{what}: {kind} {grammar.shown(text)} of {grammar.shown(file.name)} is not a number: names differ from "
            "image to image, so write the id"
        )
    return int(text)


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

"""Files to one validated stack description: read, interpolate, validate, merge, read env files, make paths absolute.

The only module of this room that reads files. The environment is given, never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import attrs

from swarmpy.compose import shortforms
from swarmpy.compose.interpolate import interpolate
from swarmpy.compose.merge import merge
from swarmpy.compose.schema import validate
from swarmpy.compose.yaml_reader import MAX_BYTES, Document, read_document
from swarmpy.errors import ComposeError
from swarmpy.model.data_checks import MAX_CONFIG_BYTES, MAX_SECRET_BYTES
from swarmpy.model.specs import ConfigSpec, SecretSpec, ServiceSpec
from swarmpy.security.files import open_regular

STDIN = "-"
"""Stands for standard input; relative paths in it start where the command runs."""
MAX_DATA_BYTES = 64 * 1024 * 1024
"""Of all secrets and configs of a stack file."""


@attrs.frozen(kw_only=True)
class ComposeFile:
    """A validated stack description. ``document.data`` has the shapes of :mod:`swarmpy.compose.schema`;
    ``environments`` holds each service's variables with its env files read in, None for one without a value."""

    document: Document
    directory: str
    """Where relative paths start: the directory of the first file."""
    home: str = ""
    environments: Mapping[str, Mapping[str, str | None]] = attrs.field(factory=dict)
    data: Mapping[tuple[str, str], bytes] = attrs.field(factory=dict, repr=False)
    """What is in the files of ``secrets`` and ``configs``, by section and name; of external ones nothing."""


@attrs.frozen(kw_only=True)
class StackFile:
    """What a stack file asks for, in the order of the file, and what the user should know."""

    services: tuple[ServiceSpec, ...]
    """Of the secrets and configs that they refer to, only the names are known."""
    secrets: tuple[SecretSpec, ...] = ()
    configs: tuple[ConfigSpec, ...] = ()
    warnings: tuple[str, ...] = ()


def load(paths: Sequence[FilePath | str], environment: Mapping[str, str]) -> ComposeFile:
    """The stack description of one or several files, later ones over earlier; ``-`` is standard input.

    Raises ComposeError.
    """
    if not paths:
        raise ComposeError("no stack file given: name one with -c FILE")
    documents = [_load_one(FilePath(path), environment) for path in paths]
    first, *rest = documents
    for later in rest:
        versions = first.data.get("version") or "", later.data.get("version") or ""
        if versions[0] != versions[1]:
            raise ComposeError(
                f"{first.file} and {later.file} are of different versions ({versions[0] or 'none'} and "
                f"{versions[1] or 'none'}): give all files the same version"
            )
    document = merge(documents)
    directory = FilePath(paths[0]).absolute().parent
    files = _EnvFiles(directory, environment)
    environments = {
        name: _environment_of(document, name, service, files, environment)
        for name, service in document.data.get("services", {}).items()
    }
    return ComposeFile(
        document=document,
        directory=str(directory),
        home=environment.get("HOME", ""),
        environments=environments,
        data=_data_of(document, directory),
    )


def _load_one(path: FilePath, environment: Mapping[str, str]) -> Document:
    is_piped = str(path) == STDIN
    shown = "standard input" if is_piped else str(path)
    document = interpolate(read_document(_read(0 if is_piped else path, shown), shown), environment)
    validate(document)
    return document


def _read(
    path: FilePath | int, shown: str, opener: Callable[[str, int], int] | None = None, most_bytes: int = MAX_BYTES
) -> bytes:
    try:
        with open(path, "rb", opener=opener, closefd=not isinstance(path, int)) as file:
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ComposeError(f"{shown}: cannot be read: {reason}") from error
    if len(data) > most_bytes:
        raise ComposeError(f"{shown}: the file is larger than the {most_bytes} bytes that are read")
    return data


# -- secrets and configs ----------------------------------------------------------------------------------------------


def _data_of(document: Document, directory: FilePath) -> dict[tuple[str, str], bytes]:
    """What is in the files of secrets and configs. Raises ComposeError for one that cannot be read, or too much."""
    found: dict[tuple[str, str], bytes] = {}
    for section, most_bytes in (("secrets", MAX_SECRET_BYTES), ("configs", MAX_CONFIG_BYTES)):
        for name, entry in document.data.get(section, {}).items():
            if entry.get("external") or entry.get("driver"):
                continue
            if not entry.get("file"):
                raise document.error((section, name), "name a file by 'file', or say external: true")
            path = directory / str(entry["file"])
            try:
                found[section, name] = _read(path, str(path), open_regular, most_bytes)
            except ComposeError as error:
                raise document.error((section, name, "file"), str(error)) from error
            if sum(map(len, found.values())) > MAX_DATA_BYTES:
                what = f"all secrets and configs of a file have more than {MAX_DATA_BYTES} bytes"
                raise document.error((section, name), what)
    return found


# -- environments ---------------------------------------------------------------------------------------------------


class _EnvFiles:
    """The env files of a stack, read as they are named, and no more of them than a stack file may be long."""

    def __init__(self, directory: FilePath, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._bytes = 0

    def variables(self, file_name: str) -> dict[str, str | None]:
        """Those of one file. Raises ComposeError."""
        path = self._directory / file_name
        data = _read(path, str(path), open_regular)
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise ComposeError(f"{path}: the env files of all services have more than {MAX_BYTES} bytes")
        return parse_env_file(data, str(path), self._environment)


def _environment_of(
    document: Document, name: str, service: Mapping[str, Any], files: _EnvFiles, environment: Mapping[str, str]
) -> dict[str, str | None]:
    merged: dict[str, str | None] = {}
    for file_name in shortforms.string_list(service.get("env_file")):
        try:
            merged |= files.variables(file_name)
        except ComposeError as error:
            raise document.error(("services", name, "env_file"), str(error)) from error
    for key, value in shortforms.pairs(service.get("environment")).items():
        # A variable that is given empty takes the value of the caller's environment, as one without a value does.
        merged[key] = value or environment.get(key, value)
    return merged


def parse_env_file(data: bytes, file: str, environment: Mapping[str, str]) -> dict[str, str | None]:
    """The variables of an env file: ``KEY=value`` lines, ``#`` comments, no quoting; ``KEY`` alone is taken from
    ``environment`` and left out when it is not set there. Raises ComposeError."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ComposeError(f"{file}: an env file must be UTF-8 text") from error
    variables: dict[str, str | None] = {}
    for number, raw in enumerate(lines, start=1):
        line = raw.lstrip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not key or any(c.isspace() for c in key):
            raise ComposeError(f"{file}:{number}: {key[:40]!r} is no name of a variable: write KEY=value")
        if equals:
            variables[key] = value
        elif key in environment:
            variables[key] = environment[key]
    return variables

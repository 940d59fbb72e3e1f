"""What a spec may say of the secrets and configs that its tasks get as files. Messages are swarmkit's."""

from __future__ import annotations

import posixpath

from swarmpy.errors import InvalidArgument
from swarmpy.model import grammar
from swarmpy.model.grammar import bare, shown
from swarmpy.model.specs import ContainerSpec, FileTarget

SECRETS_DIRECTORY = "/run/secrets"
"""Where relative targets of secrets are."""
MAX_FILE_MODE = 0o7777
MAX_REFERENCES = 256
"""Of one task, secrets and configs together: each is a file that a node makes."""
_MAX_ID = 2**32 - 2
"""The largest number of a user or group; the next one stands for none."""


def check_references(container: ContainerSpec) -> None:
    """Raises InvalidArgument for the first reference that cannot be, or two with one target."""
    secrets = [(r.secret_id, r.secret_name, r.file) for r in container.secrets]
    configs = [(r.config_id, r.config_name, r.file) for r in container.configs]
    count = len(secrets) + len(configs)
    if count > MAX_REFERENCES:
        raise InvalidArgument(f"ContainerSpec: {count} secrets and configs are too many: {MAX_REFERENCES} are possible")
    owners: dict[str, tuple[str, str]] = {}
    for word, directory, references in (("secret", SECRETS_DIRECTORY, secrets), ("config", "/", configs)):
        for object_id, name, file in references:
            if not object_id or not name:
                raise InvalidArgument(f"malformed {word} reference: it needs the id and the name of a {word}")
            _check_file(word, name, file)
            _check_target(word, name, file.name, directory, owners)


def _check_file(word: str, name: str, file: FileTarget) -> None:
    if not file.name:
        raise InvalidArgument(f"malformed file {word} reference, invalid target file name provided")
    try:
        grammar.check_line(file.name)
        if ".." in file.name.split("/"):
            raise ValueError(f"{shown(file.name)}: write it without '..'")
        if len(file.name.encode("utf-8", "surrogatepass")) > grammar.MAX_PATH:
            raise ValueError(f"{shown(file.name)} has more than {grammar.MAX_PATH} bytes")
        if _place(file.name, "/") == "/":
            raise ValueError(f"{shown(file.name)} is no name of a file")
        for field, value in (("UID", file.uid), ("GID", file.gid)):
            if not (value.isascii() and value.isdecimal() and len(value) < 11 and int(value) <= _MAX_ID):
                raise ValueError(f"{field}: {shown(value)} is not the number of a user or group")
        if not 0 <= file.mode <= MAX_FILE_MODE:
            raise ValueError(f"mode {file.mode:o} is not between 0 and {MAX_FILE_MODE:o}")
    except ValueError as error:
        raise InvalidArgument(f"malformed file {word} reference, invalid target of {bare(name)}: {error}") from None


def _check_target(word: str, name: str, target: str, directory: str, owners: dict[str, tuple[str, str]]) -> None:
    """Also a config may not be put where a secret is: one of the two would be lost."""
    place = _place(target, directory)
    other_word, other = owners.setdefault(place, (word, ""))
    if other:
        kinds = word if other_word == word else f"{other_word} and {word}"
        raise InvalidArgument(
            f"{kinds} references '{bare(other)}' and '{bare(name)}' have a conflicting target: '{bare(target)}'"
        )
    owners[place] = (word, name)


def _place(target: str, directory: str) -> str:
    # Python keeps two slashes at the beginning, which mean something on other systems.
    return posixpath.normpath("/" + posixpath.join(directory, target).lstrip("/"))

"""Credentials for registries, from where the docker command keeps them: its configuration, or its credential helpers.

They are read when a command is told to send them with a service, and go nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from swarmpy.api.registry_auth import encode_registry_auth
from swarmpy.errors import InvalidArgument

HELPER_TIMEOUT_S = 30.0
"""A helper may ask its user to unlock a key chain."""
MAX_CONFIG_FILE_BYTES = 1024 * 1024
MAX_HELPER_BYTES = 64 * 1024

DOCKER_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
"""What the credentials of Docker Hub are kept under."""
_HUB_HOSTS = frozenset({DOCKER_HUB, "index.docker.io"})
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TOKEN_USER = "<token>"  # noqa: S105  # nosec B105  # what helpers say instead of a name when they give a token
_NOT_FOUND = "credentials not found"


def registry_of(image: str) -> str:
    """The registry of an image, as the docker command keeps its credentials: a host, for Docker Hub a URL."""
    first, slash, _ = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host and first not in _HUB_HOSTS else _HUB_KEY


@attrs.frozen
class DockerConfig:
    """The configuration of the docker command. Its path is only for messages."""

    path: Path
    content: Mapping[str, Any] = attrs.field(repr=False)

    async def header(self, image: str) -> str | None:
        """What is sent with a service of ``image``; None where there are no credentials for its registry.

        Raises InvalidArgument: the configuration makes no sense, or its helper fails.
        """
        registry = registry_of(image)
        auth = await self._auth(registry)
        return encode_registry_auth(auth | {"serveraddress": registry}) if auth else None

    async def _auth(self, registry: str) -> dict[str, str]:
        helper = self._mapping("credHelpers").get(_host_of(registry)) or self._mapping("credHelpers").get(registry)
        helper = helper or self.content.get("credsStore")
        if helper:
            return await _ask_helper(str(helper), registry)
        return self._kept(registry)

    def _kept(self, registry: str) -> dict[str, str]:
        kept = self._mapping("auths")
        entry = kept.get(registry)
        if entry is None:
            host = _host_of(registry)
            entry = next((item for key, item in kept.items() if _host_of(key) == host), None)
        if not isinstance(entry, dict):
            return {}
        found = {
            key: entry[key]
            for key in ("username", "password", "identitytoken", "registrytoken")
            if isinstance(entry.get(key), str) and entry[key]
        }
        if entry.get("auth"):
            found |= self._decoded(registry, entry["auth"])
        return found if found.keys() - {"username"} else {}

    def _decoded(self, registry: str, auth: Any) -> dict[str, str]:
        try:
            user, colon, password = base64.b64decode(str(auth), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user, colon, password = "", "", ""
        if not colon or not user:
            raise InvalidArgument(
                f"{self.path}: the credentials of {registry} cannot be read: log in again with docker login"
            )
        return {"username": user, "password": password.rstrip("\0")}

    def _mapping(self, key: str) -> Mapping[str, Any]:
        value = self.content.get(key) or {}
        if not isinstance(value, dict):
            raise InvalidArgument(f"{self.path}: {key} is no object")
        return value


def read_docker_config(environment: Mapping[str, str]) -> DockerConfig:
    """The docker command's configuration, empty where there is none. Raises InvalidArgument."""
    directory = environment.get("DOCKER_CONFIG") or Path(environment.get("HOME") or "/").joinpath(".docker")
    path = Path(directory) / "config.json"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_FILE_BYTES + 1)
    except FileNotFoundError:
        return DockerConfig(path, {})
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    try:
        content = json.loads(text) if len(text) <= MAX_CONFIG_FILE_BYTES else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InvalidArgument(f"{path}: it is no configuration of the docker command")
    return DockerConfig(path, content)


def _host_of(key: str) -> str:
    """``https://r.example/v1/`` and ``r.example`` are kept for the same registry."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


async def _ask_helper(name: str, registry: str) -> dict[str, str]:
    """What ``docker-credential-NAME get`` says. Nothing of it gets into an error."""
    if not _HELPER.fullmatch(name):
        raise InvalidArgument(f"{name[:40]!r} is no name of a credential helper")
    program = f"docker-credential-{name}"
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            program, "get", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise InvalidArgument(f"the credential helper {program} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(HELPER_TIMEOUT_S):
            out, _ = await process.communicate(registry.encode())
    except TimeoutError:
        raise InvalidArgument(f"the credential helper {program} did not answer within {HELPER_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        if _NOT_FOUND in out.decode("utf-8", "replace"):
            return {}
        raise InvalidArgument(f"the credential helper {program} failed (exit code {process.returncode})")
    return _helpers_answer(program, out)


def _helpers_answer(program: str, out: bytes) -> dict[str, str]:
    try:
        answer = json.loads(out) if len(out) <= MAX_HELPER_BYTES else None
    except (ValueError, RecursionError):
        answer = None
    user, secret = (answer.get("Username"), answer.get("Secret")) if isinstance(answer, dict) else (None, None)
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        raise InvalidArgument(f"the credential helper {program} gives no credentials that can be read")
    return {"identitytoken": secret} if user == _TOKEN_USER else {"username": user, "password": secret}

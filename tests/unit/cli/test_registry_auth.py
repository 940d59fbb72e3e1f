"""Credentials from the docker command's configuration, and from helpers that are real programs."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli import registry_auth
from swarmpy.cli.registry_auth import read_docker_config, registry_of
from swarmpy.errors import InvalidArgument

BOB = base64.b64encode(b"bob:pa55:word").decode()
HUB = "https://index.docker.io/v1/"


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("busybox", HUB),
        ("library/busybox:1", HUB),
        ("docker.io/library/busybox", HUB),
        ("index.docker.io/library/busybox", HUB),
        ("user/app@sha256:00", HUB),
        ("r.example/app", "r.example"),
        ("r.example:5000/a/b:1", "r.example:5000"),
        ("localhost/app", "localhost"),
        ("app:1", HUB),
    ],
)
def test_the_registry_of_an_image(image: str, registry: str) -> None:
    """As the docker command tells them apart."""
    assert registry_of(image) == registry


def configured(directory: Path, content: object) -> Any:
    (directory / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_docker_config({"DOCKER_CONFIG": str(directory)})


async def auth(config: Any, image: str) -> dict[str, str] | None:
    header = await config.header(image)
    return None if header is None else json.loads(base64.urlsafe_b64decode(header))


async def test_credentials_that_are_in_the_file(tmp_path: Path) -> None:
    """Under the host, or a URL of it; with a password or a token."""
    config = configured(
        tmp_path,
        {
            "auths": {
                "r.example": {"auth": BOB},
                "https://old.example/v1/": {"auth": BOB},
                HUB: {"identitytoken": "t0ken"},
                "empty.example": {},
            }
        },
    )
    bob = {"username": "bob", "password": "pa55:word"}
    assert await auth(config, "r.example/app:1") == {**bob, "serveraddress": "r.example"}
    assert await auth(config, "old.example/app") == {**bob, "serveraddress": "old.example"}
    assert await auth(config, "busybox") == {"identitytoken": "t0ken", "serveraddress": HUB}
    assert await auth(config, "empty.example/app") is None
    assert await auth(config, "other.example/app") is None
    assert "pa55" not in repr(config)
    assert BOB not in repr(config)


async def test_where_there_is_no_configuration(tmp_path: Path) -> None:
    """There are no credentials; in HOME it is in .docker."""
    assert await read_docker_config({"HOME": str(tmp_path)}).header("busybox") is None
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(json.dumps({"auths": {HUB: {"auth": BOB}}}))
    assert await read_docker_config({"HOME": str(tmp_path)}).header("busybox") is not None


@pytest.mark.parametrize("content", ["", "[]", "{", '"x"'])
def test_what_is_no_configuration(tmp_path: Path, content: str) -> None:
    """Is refused with its path."""
    with pytest.raises(InvalidArgument, match=r"config\.json: it is no configuration of the docker command"):
        configured(tmp_path, content)


async def test_what_is_damaged_in_it(tmp_path: Path) -> None:
    """Is refused without a word of what it is."""
    for broken in ("%%%", base64.b64encode(b"nocolon").decode()):
        config = configured(tmp_path, {"auths": {"r.example": {"auth": broken}}})
        with pytest.raises(InvalidArgument, match=r"credentials of r\.example cannot be read: log in again") as caught:
            await config.header("r.example/app")
        assert broken not in str(caught.value)
    with pytest.raises(InvalidArgument, match="auths is no object"):
        await configured(tmp_path, {"auths": ["x"]}).header("r.example/app")


# -- helpers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes ``docker-credential-NAME``, a shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, script: str) -> None:
        program = tmp_path / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return make


async def test_helpers_are_asked(tmp_path: Path, helper: Any) -> None:
    """By the registry, which they get on their standard input; the one of a registry before the one for all."""
    helper("all", 'read -r server; printf \'{"Username":"all","Secret":"%s of %s"}\' "$1" "$server"')
    helper("one", 'printf \'{"Username":"<token>","Secret":"t0ken"}\'')
    config = configured(tmp_path, {"credsStore": "all", "credHelpers": {"r.example": "one"}})
    assert await auth(config, "busybox") == {"username": "all", "password": f"get of {HUB}", "serveraddress": HUB}
    assert await auth(config, "r.example/a") == {"identitytoken": "t0ken", "serveraddress": "r.example"}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo hunter2; exit 3", "docker-credential-bad failed (exit code 3)"),
        ("echo hunter2", "docker-credential-bad gives no credentials that can be read"),
        ('echo \'{"Username": 5, "Secret": "hunter2"}\'', "gives no credentials that can be read"),
        ('echo \'{"Username": "hunter2", "Secret": ""}\'', "gives no credentials that can be read"),
    ],
)
async def test_helpers_that_fail(tmp_path: Path, helper: Any, script: str, message: str) -> None:
    """Are named, and nothing of what they said."""
    helper("bad", script)
    with pytest.raises(InvalidArgument) as caught:
        await configured(tmp_path, {"credsStore": "bad"}).header("busybox")
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_helper_that_has_none_for_a_registry(tmp_path: Path, helper: Any) -> None:
    """Says so with an exit code and a text that all helpers have."""
    helper("none", "echo 'credentials not found in native keychain'; exit 1")
    assert await configured(tmp_path, {"credsStore": "none"}).header("busybox") is None


async def test_helpers_that_cannot_be(tmp_path: Path, helper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there, one whose name leads elsewhere, one that does not answer."""
    with pytest.raises(InvalidArgument, match="docker-credential-nosuch cannot be run"):
        await configured(tmp_path, {"credsStore": "nosuch"}).header("busybox")
    with pytest.raises(InvalidArgument, match="is no name of a credential helper"):
        await configured(tmp_path, {"credsStore": "../x"}).header("busybox")
    monkeypatch.setattr(registry_auth, "HELPER_TIMEOUT_S", 0.2)
    helper("slow", "exec sleep 100")
    with pytest.raises(InvalidArgument, match=r"docker-credential-slow did not answer within 0\.2 s"):
        await configured(tmp_path, {"credsStore": "slow"}).header("busybox")

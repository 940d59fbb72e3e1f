"""What a secret, a config, and a reference to one may be."""

from __future__ import annotations

import time

import pytest

from swarmpy.errors import InvalidArgument
from swarmpy.model.data_checks import (
    MAX_CONFIG_BYTES,
    MAX_SECRET_BYTES,
    check_config_data,
    check_data_name,
    check_secret_data,
)
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.reference_checks import check_references
from swarmpy.model.specs import ConfigReference, ContainerSpec, FileTarget, SecretReference


@pytest.mark.parametrize("name", ["a", "9", "a-b_c.d", "A" * 64, "x.y"])
def test_names(name: str) -> None:
    """swarmkit's rule: 64 characters, a letter or digit at both ends."""
    check_data_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", ".a", "a b", "a/b", "ä", "a\n", "A" * 65])
def test_what_is_no_name(name: str) -> None:
    """Anything else."""
    with pytest.raises(InvalidArgument, match="name"):
        check_data_name(name)


def test_a_long_name_takes_no_time() -> None:
    """However nearly it is one."""
    began = time.process_time()
    with pytest.raises(InvalidArgument):
        check_data_name("a" * 1_000_000 + "-")
    assert time.process_time() - began < 0.5


def test_sizes() -> None:
    """One byte at least; a secret has less than 500 KiB, a config 1000 KiB at most."""
    check_secret_data(b"x")
    check_secret_data(bytes(MAX_SECRET_BYTES - 1))
    check_config_data(bytes(MAX_CONFIG_BYTES))
    for check, data in (
        (check_secret_data, b""),
        (check_secret_data, bytes(MAX_SECRET_BYTES)),
        (check_config_data, b""),
        (check_config_data, bytes(MAX_CONFIG_BYTES + 1)),
    ):
        with pytest.raises(InvalidArgument, match="must be larger than 0"):
            check(data)


def secret(target: str, **file: object) -> SecretReference:
    return SecretReference(secret_id=SecretId("x"), secret_name="s", file=FileTarget(name=target, **file))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "file",
    [
        secret("tok"),
        secret("a/b"),
        secret("/etc/secret"),
        secret("tok", mode=0o7777, uid="4294967294", gid="0"),
        secret("..tok"),
    ],
)
def test_targets(file: SecretReference) -> None:
    """Relative and absolute ones, any mode."""
    check_references(ContainerSpec(image="a", secrets=(file,)))


@pytest.mark.parametrize(
    "file",
    [
        secret(""),
        secret("."),
        secret("/"),
        secret("../x"),
        secret("/a/../b"),
        secret("a\0b"),
        secret("a\nb"),
        secret("x" * 5000),
        secret("t", uid="root"),
        secret("t", gid="-1"),
        secret("t", uid="4294967295"),
        secret("t", uid="٣"),
        secret("t", mode=0o10000),
    ],
)
def test_what_is_no_target(file: SecretReference) -> None:
    """Nothing that leads elsewhere, into another line, or to an owner that is none."""
    with pytest.raises(InvalidArgument, match="malformed file secret reference") as caught:
        check_references(ContainerSpec(image="a", secrets=(file,)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_places_are_told_apart_as_files_are() -> None:
    """A secret below its directory is not a config of the same name."""
    config = ConfigReference(config_id=ConfigId("c"), config_name="c", file=FileTarget(name="tok"))
    check_references(ContainerSpec(image="a", secrets=(secret("tok"),), configs=(config,)))
    for target in ("/run/secrets/tok", "//run/secrets//tok", "run/secrets/tok"):
        other = ConfigReference(config_id=ConfigId("c"), config_name="c", file=FileTarget(name=target))
        with pytest.raises(InvalidArgument, match="secret and config references 's' and 'c' have a conflicting target"):
            check_references(ContainerSpec(image="a", secrets=(secret("tok"),), configs=(other,)))

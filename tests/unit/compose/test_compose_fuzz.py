"""No file, however broken, does anything else than load or raise one clear ComposeError."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from swarmpy.compose.convert import convert
from swarmpy.compose.load import load
from swarmpy.errors import ComposeError

WORDS = [
    "services",
    "web",
    "image",
    "build",
    "command",
    "environment",
    "ports",
    "volumes",
    "networks",
    "deploy",
    "replicas",
    "resources",
    "limits",
    "cpus",
    "memory",
    "healthcheck",
    "test",
    "interval",
    "placement",
    "constraints",
    "preferences",
    "spread",
    "secrets",
    "configs",
    "source",
    "target",
    "type",
    "bind",
    "published",
    "external",
    "name",
    "driver",
    "labels",
    "update_config",
    "order",
    "restart_policy",
    "condition",
    "mode",
    "ulimits",
    "nofile",
    "soft",
    "hard",
    "env_file",
    "tmpfs",
    "version",
    "x-a",
    "<<",
    "logging",
    "options",
    "extra_hosts",
    "sysctls",
    "stop_grace_period",
    "1s",
    "80:80",
    "a=b",
    "v:/v",
    "./a:/b",
    "3.8",
    "busybox",
    "$X",
    "${X:-1}",
]

scalars = st.one_of(st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=25,
)
services = st.dictionaries(st.sampled_from(WORDS), values, max_size=6)
files = st.fixed_dictionaries(
    {"services": st.dictionaries(st.sampled_from(("web", "db")), services, min_size=1, max_size=2)},
    optional={"volumes": values, "networks": values, "version": values, "secrets": values, "x-a": values},
)


def check(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "f.yml")
        file.write_bytes(data)
        for files in ([file], [file, file]):
            message = fault_of(files)
            assert message is None or (directory in message and "\n" not in message)


def fault_of(paths: list[Path]) -> str | None:
    """What is wrong with the files; anything but a ComposeError gets through."""
    try:
        convert(load(paths, {"X": "1"}), "st")
    except ComposeError as error:
        return str(error)
    return None


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbfservices: {}")
@example(b"a: !!float 1\nb: !!null x")
@example(b"services: {web: {image: a, ports: [1e400]}}")
@example(b"services: {web: {image: a, environment: {A: .nan, B: -.inf}}}")
def test_any_bytes(data: bytes) -> None:
    """Random bytes."""
    check(data)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.sampled_from([*WORDS, ": ", "\n", "  ", "- ", "[", "]", "{", "}", "&a ", "*a", "'", '"', "|", "#", "!"])
    )
)
def test_any_yaml_like_text(parts: list[str]) -> None:
    """Random sequences of YAML's own signs."""
    check("".join(parts).encode())


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(files, values))
def test_any_structure(data: Any) -> None:
    """Random structures of the right words in the wrong places."""
    check(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))

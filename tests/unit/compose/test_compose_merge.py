"""Several stack files laid over each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swarmpy.compose.load import load
from swarmpy.errors import ComposeError


def merged(directory: Path, *texts: str) -> dict[str, Any]:
    files = []
    for number, text in enumerate(texts):
        file = directory / f"{number}.yml"
        file.write_text(text)
        files.append(file)
    return load(files, {}).document.data


def service(directory: Path, first: str, second: str) -> dict[str, Any]:
    data = merged(
        directory, f"services:\n  web: {{image: a, {first}}}\n", f"services:\n  web: {{image: a, {second}}}\n"
    )
    web: dict[str, Any] = data["services"]["web"]
    del web["image"]
    return web


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        ("user: a", "user: b", {"user": "b"}),
        ("command: [a]", "command: b c", {"command": "b c"}),
        ("environment: [A=1, B=1]", "environment: {B: 2}", {"environment": {"A": "1", "B": "2"}}),
        ("dns: 1.1.1.1", "dns: [2.2.2.2]", {"dns": ["1.1.1.1", "2.2.2.2"]}),
        ("cap_add: [A]", "cap_add: [B]", {"cap_add": ["A", "B"]}),
        ("volumes: ['a:/a', 'b:/b']", "volumes: ['c:/a']", {"volumes": ["c:/a", "b:/b"]}),
        ("networks: [a]", "networks: {b: {aliases: [x]}}", {"networks": {"a": None, "b": {"aliases": ["x"]}}}),
        (
            "deploy: {replicas: 1, labels: [a=1]}",
            "deploy: {replicas: 2, labels: {b: 2}}",
            {"deploy": {"replicas": 2, "labels": {"a": "1", "b": "2"}}},
        ),
        (
            "deploy: {placement: {constraints: [a==1]}}",
            "deploy: {placement: {constraints: [b==1]}}",
            {"deploy": {"placement": {"constraints": ["a==1", "b==1"]}}},
        ),
        (
            "logging: {driver: a, options: {x: '1'}}",
            "logging: {driver: b}",
            {"logging": {"driver": "b"}},
        ),
        (
            "logging: {driver: a, options: {x: '1'}}",
            "logging: {options: {y: '2'}}",
            {"logging": {"driver": "a", "options": {"x": "1", "y": "2"}}},
        ),
        ("healthcheck: {test: [CMD, a]}", "healthcheck: {test: [CMD, b]}", {"healthcheck": {"test": ["CMD", "b"]}}),
    ],
)
def test_services_are_merged_by_key(tmp_path: Path, first: str, second: str, result: dict[str, Any]) -> None:
    """Single values are replaced, mappings merged, lists appended, and entries replaced by what identifies them."""
    assert service(tmp_path, first, second) == result


def test_ports_are_merged_by_published_port(tmp_path: Path) -> None:
    """A later file moves a published port to another target; other protocols and ports stay."""
    web = service(tmp_path, "ports: ['80:80', '53:53/udp', '53:53']", "ports: ['80:8080']")
    assert [(p["published"], p["target"], p["protocol"]) for p in web["ports"]] == [
        (80, 8080, "tcp"),
        (53, 53, "udp"),
        (53, 53, "tcp"),
    ]


def test_the_top_is_merged_by_name(tmp_path: Path) -> None:
    """Services and volumes of both files are there; a volume of the later file replaces the earlier one whole."""
    data = merged(
        tmp_path,
        "services: {a: {image: a}}\nvolumes: {v: {driver: x}, w: }\n",
        "services: {b: {image: b}}\nvolumes: {v: {name: n}}\n",
    )
    assert list(data["services"]) == ["a", "b"]
    assert data["volumes"] == {"v": {"name": "n"}, "w": None}


def test_versions_must_agree(tmp_path: Path) -> None:
    """Files of different versions are not laid over each other."""
    with pytest.raises(ComposeError, match=r"different versions \(3\.1 and 3\.2\)"):
        merged(tmp_path, "version: '3.1'\nservices: {}\n", "version: '3.2'\nservices: {}\n")

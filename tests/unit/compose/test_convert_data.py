"""Secrets and configs of stack files."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmpy.compose.convert import convert
from swarmpy.compose.convert_data import UNRESOLVED
from swarmpy.compose.load import StackFile, load
from swarmpy.errors import ComposeError
from swarmpy.model.ids import ConfigId, SecretId
from swarmpy.model.specs import ConfigReference, ConfigSpec, FileTarget, SecretReference, SecretSpec

NAMESPACE = {"com.docker.stack.namespace": "st"}


def stack(directory: Path, text: str, *more: str) -> StackFile:
    files = []
    for number, content in enumerate((text, *more)):
        files.append(directory / f"f{number}.yml")
        files[-1].write_text(content)
    return convert(load(files, {}), "st")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with two files for data."""
    (tmp_path / "one").write_bytes(b"1\0\xff")
    (tmp_path / "two").write_bytes(b"2")
    return tmp_path


def test_secrets_and_configs_and_who_has_them(project: Path) -> None:
    """Names, labels, templates, files beside the stack file; short and long references, sorted by name."""
    found = stack(
        project,
        """
services:
  web:
    image: a
    secrets: [tok, {source: other, target: /etc/key, uid: "7", gid: "8", mode: 0400}, ext, moved]
    configs: [{source: cfg}]
secrets:
  tok: {file: ./one, labels: [a=b]}
  other: {file: one, name: named, template_driver: golang}
  unused: {file: two}
  ext: {external: true}
  moved: {external: {name: elsewhere}}
configs:
  cfg: {file: two, labels: {c: 1}}
""",
    )
    assert found.secrets == (
        SecretSpec(name="st_tok", labels={"a": "b", **NAMESPACE}, data=b"1\0\xff"),
        SecretSpec(name="named", labels=NAMESPACE, data=b"1\0\xff", templating="golang"),
        SecretSpec(name="st_unused", labels=NAMESPACE, data=b"2"),
    )
    assert found.configs == (ConfigSpec(name="st_cfg", labels={"c": "1", **NAMESPACE}, data=b"2"),)
    (web,) = found.services

    def secret(name: str, file: FileTarget) -> SecretReference:
        return SecretReference(secret_id=SecretId(UNRESOLVED), secret_name=name, file=file)

    assert web.task.container.secrets == (
        secret("elsewhere", FileTarget(name="moved")),
        secret("ext", FileTarget(name="ext")),
        secret("named", FileTarget(name="/etc/key", uid="7", gid="8", mode=0o400)),
        secret("st_tok", FileTarget(name="tok")),
    )
    assert web.task.container.configs == (
        ConfigReference(config_id=ConfigId(UNRESOLVED), config_name="st_cfg", file=FileTarget(name="cfg")),
    )
    assert found.warnings == ()
    assert "1\\x00" not in repr(found)


def test_a_later_file_replaces_what_it_names(project: Path) -> None:
    """A whole reference by its source, a whole entry by its name; files are beside the first one."""
    (project / "sub").mkdir()
    base = "services: {web: {image: a, secrets: [tok]}}\nsecrets: {tok: {file: one, labels: {a: b}}}\n"
    later = "services: {web: {secrets: [{source: tok, target: t}]}}\nsecrets: {tok: {file: two}}\n"
    found = stack(project, base, later)
    assert found.secrets == (SecretSpec(name="st_tok", labels=NAMESPACE, data=b"2"),)
    assert [r.file.name for r in found.services[0].task.container.secrets] == ["t"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("secrets: {s: {}}", "secrets.s: name a file by 'file', or say external: true"),
        ("configs: {s: {labels: {a: b}}}", "configs.s: name a file by 'file', or say external: true"),
        ("secrets: {s: {driver: vault}}", "secrets.s.driver: drivers are not supported: put the data in a file"),
        ("secrets: {s: {file: one, external: true}}", "secrets.s.file: an external entry is made elsewhere"),
        ("secrets: {s: {file: nosuch}}", "nosuch: cannot be read: No such file or directory"),
        ("secrets: {s: {file: empty}}", "secrets.s: secret data must be larger than 0 and less than 512000 bytes"),
        ("secrets: {s: {file: one, name: '-a'}}", "secrets.s: invalid name '-a', only 64 [a-zA-Z0-9-_.] characters"),
        ("configs: {c: {file: one, template_driver: jinja}}", "configs.c: config st_c: unknown template driver jinja"),
        ("secrets: {a: {file: one, name: x}, b: {file: two, name: x}}", "two secrets would be named 'x'"),
        ("configs: {c: {environment: X}}", 'configs.c: key "environment" is not supported: put the data in a file'),
    ],
)
def test_what_cannot_be_is_said_where_it_stands(project: Path, text: str, message: str) -> None:
    """With file, line and key."""
    (project / "empty").write_bytes(b"")
    with pytest.raises(ComposeError) as caught:
        stack(project, f"services: {{web: {{image: a}}}}\n{text}\n")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{project}/f0.yml:2: ")


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ("secrets: [a, {source: b, target: a}]", "secret references 'st_a' and 'st_b' have a conflicting target: 'a'"),
        ("secrets: [{source: a, target: ../x}]", "write it without '..'"),
        ("secrets: [{source: a, uid: root}]", "UID: 'root' is not the number of a user or group"),
        ("secrets: [{source: a, mode: 99999}]", "must be from 0 to 4095, not 99999"),
        ("secrets: [{target: a}]", "the key 'source' is missing"),
        ("configs: [a]", "undefined config 'a': declare it under the top-level configs key"),
    ],
)
def test_references_that_cannot_be(project: Path, references: str, message: str) -> None:
    """As the API would refuse them, with the place in the file."""
    text = f"services:\n  web:\n    image: a\n    {references}\nsecrets: {{a: {{file: one}}, b: {{file: two}}}}\n"
    with pytest.raises(ComposeError) as caught:
        stack(project, text)
    assert message in str(caught.value)

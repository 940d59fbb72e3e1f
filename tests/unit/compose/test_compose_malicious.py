"""Stack files that were written to do harm: what they cost is bounded, and they reach nothing they should not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from swarmpy.compose import load as loading
from swarmpy.compose.convert import convert
from swarmpy.compose.load import StackFile, load
from swarmpy.errors import ComposeError, InvalidArgument

WEB = "services:\n  web:\n    image: busybox\n"


def stack(directory: Path, text: str, environment: dict[str, str] | None = None) -> StackFile:
    file = directory / "f.yml"
    file.write_text(text)
    return convert(load([file], environment or {}), "st")


def refused(directory: Path, text: str, environment: dict[str, str] | None = None) -> str:
    """The one line that is said of a file, without the directory."""
    with pytest.raises(ComposeError) as caught:
        stack(directory, text, environment)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 500 + len(str(directory))
    return line.removeprefix(f"{directory}/")


def list_of(item: str, count: int) -> str:
    return "[" + ",".join([item] * count) + "]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"x-a: &a '{'a' * 500_000}'\nx-b: {list_of('*a', 50_000)}\n{WEB}", "aliases expand to more than 4194304 char"),
        (f"{WEB}    environment: {{A: '{'$B' * 200_000}'}}\n", "the variables of this file stand for more than"),
        (f"x-a: &a '{'$B' * 50}'\n{WEB}    command: {list_of('*a', 40_000)}\n", "the variables of this file stand for"),
        (f"{WEB}    ports: [{', '.join(f'1-65535:{n}' for n in range(1, 10_000))}]\n", "these are too many ports"),
        ("services: {" + ", ".join(f"w{n}: {{image: a, ports: ['1-4000']}}" for n in range(5_000)) + "}",
         "these are too many ports: a service may have 4096 at most, all of a file 65536"),
        (f"services: {{? {'a' * 100_000}! : {{image: a}}}}", "a name is made of letters"),
        (f"services: {{? {'a' * 100_000}_ : {{image: a}}}}", "a name has letters, digits"),
        (f"{WEB}    command: ['{{{{{' ' * 200_000}']\n    hostname: '{{{{{'a' * 200_000}'\n", "services.web.hostname"),
        (f"services: {{web: {{image: {'a-' * 100_000}!}}}}", "is no image reference"),
        (f"{WEB}    stop_grace_period: {'1h' * 100_000}x\n", "is not a duration"),
        (f"{WEB}    command: \"'{'a' * 1_000_000}\"\n", "has an unclosed ' quote"),
        (f"x-a: {'[' * 1_000_000}", "nested deeper than 100 levels"),
        (f"{'#' * (4 << 20)}\n{WEB}", "the file is larger than the 4194304 bytes that are read"),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path, text: str, words: str) -> None:
    """A file that means far more than it says, or is hard to look at, is refused in a few seconds of work."""
    began = time.process_time()
    assert words in refused(tmp_path, text, {"B": "x" * 1500})
    assert time.process_time() - began < 10


def test_a_long_command_line_is_read_once(tmp_path: Path) -> None:
    """Words of any length take time in proportion."""
    began = time.process_time()
    (service,) = stack(tmp_path, f"{WEB}    command: \"'{'a' * 1_000_000}' {'b' * 1_000_000}\"\n").services
    assert [len(word) for word in service.task.container.args] == [1_000_000, 1_000_000]
    assert time.process_time() - began < 10


def test_a_stack_name_is_read_once() -> None:
    """The name of a stack comes before any file."""
    began = time.process_time()
    with pytest.raises(InvalidArgument, match="invalid stack name"):
        convert(None, "a" * 100_000 + "!")  # type: ignore[arg-type]
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('hostname: "a\\n10.0.0.1 b"', "f.yml:4: services.web.hostname: 'a\\n10.0.0.1 b' is not a host name"),
        ("user: 'root; id'", "f.yml:4: services.web.user: 'root; id' is not a user"),
        ("working_dir: ../..", "f.yml:4: services.web.working_dir: '../..' is not a working directory"),
        ("stop_signal: TERM x", "f.yml:4: services.web.stop_signal: 'TERM x' is not a signal"),
        ("cap_add: [NET_ADMIN, 'A B']", "f.yml:4: services.web.cap_add[1]: 'A B' is not a capability"),
        ("dns: resolver", "f.yml:4: services.web.dns: 'resolver' is not an IP address"),
        ('dns_search: ["a\\nb"]', "f.yml:4: services.web.dns_search[0]: 'a\\nb' is not a search domain"),
        ('command: ["a\\0b"]', "f.yml:2: services.web: ContainerSpec: Args: 'a\\x00b' has a NUL"),
        ('environment: {A: "\\0"}', "f.yml:2: services.web: ContainerSpec: invalid environment variable 'A=\\x00'"),
        ("environment: {A: '{{.Nope}}'}", "f.yml:2: services.web: ContainerSpec: unknown placeholder {{.Nope}}"),
        ("sysctls: {net/../../x: 1}", "f.yml:2: services.web: ContainerSpec: Sysctls: 'net/../../x' is not a kernel"),
        ("extra_hosts: ['a:b:c']", "f.yml:2: services.web: ContainerSpec: Hosts: 'b:c' is not an IP address"),
        ("ulimits: {files: 1}", "f.yml:2: services.web: ContainerSpec: Ulimits: 'files' is not a resource limit"),
        ("volumes: ['/data:/b/../../etc']", 'f.yml:2: services.web: invalid mount config for type "bind"'),
        ('labels: {"a\\nb": c}', "f.yml:2: services.web: ContainerSpec: Labels: the name of the label 'a\\nb'"),
        ("logging: {driver: ../x}", "f.yml:2: services.web: TaskSpec: LogDriver: '../x' is not the name of a driver"),
    ],
)  # fmt: skip
def test_every_text_is_checked_where_it_stands(tmp_path: Path, lines: str, message: str) -> None:
    """What the engine, a path or a command line would get is refused with file, line and service."""
    assert refused(tmp_path, WEB + f"    {lines}\n").startswith(message)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [id]", "!!python/name:os.system", "!include x.yml"])
def test_no_tag_makes_anything(tmp_path: Path, text: str) -> None:
    """A tag is no way to an object or a file."""
    assert "is not supported here" in refused(tmp_path, WEB + f"    command: {text}\n")


# -- files that a stack file names ------------------------------------------------------------------------------------


def env_file(*names: str) -> str:
    return f"{WEB}    env_file: [{', '.join(names)}]\n"


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/dev/tty", ".", "/proc/self/mem", "/nowhere", '"a\\0b"'])
def test_an_env_file_is_a_file(tmp_path: Path, name: str) -> None:
    """A pipe nobody writes to, a device without an end or a directory is refused at once; nothing waits."""
    os.mkfifo(tmp_path / "pipe")
    began = time.monotonic()
    line = refused(tmp_path, env_file(name))
    assert line.startswith("f.yml:4: services.web.env_file: ")
    assert "cannot be read" in line
    assert time.monotonic() - began < 10


def test_env_files_are_bounded(tmp_path: Path) -> None:
    """One that is large, or one that is named again and again under other names."""
    (tmp_path / "large").write_text("A=" + "x" * (4 << 20))
    assert "is larger than the 4194304 bytes" in refused(tmp_path, env_file("large"))
    (tmp_path / "some").write_text("A=" + "x" * 100_000)
    names = ["./" * n + "some" for n in range(1000)]
    assert "the env files of all services have more than 4194304 bytes" in refused(tmp_path, env_file(*names))


def test_an_env_file_may_be_anywhere(tmp_path: Path) -> None:
    """As with Docker: whoever deploys a file that somebody else wrote lets it read what he himself may read."""
    (tmp_path / "elsewhere").write_text("SECRET=1\n")
    directory = tmp_path / "project"
    directory.mkdir()
    for name in ("../elsewhere", str(tmp_path / "elsewhere")):
        (service,) = stack(directory, env_file(name)).services
        assert service.task.container.env == ("SECRET=1",)


def test_only_what_is_named_is_taken_from_the_environment(tmp_path: Path) -> None:
    """The variables of whoever deploys do not get into a service by themselves."""
    text = f"{WEB}    environment: [NAMED, OTHER=$ALSO]\n"
    (service,) = stack(tmp_path, text, {"NAMED": "1", "ALSO": "2", "AWS_SECRET_ACCESS_KEY": "3"}).services
    assert service.task.container.env == ("NAMED=1", "OTHER=2")


def test_nothing_else_of_the_machine_is_reached(tmp_path: Path) -> None:
    """Other ways to other files are refused, not followed."""
    for key in ("include: [x.yml]", "services: {web: {image: a, extends: {file: x.yml, service: y}}}"):
        assert "is not supported" in refused(tmp_path, key + "\n")


def test_the_file_of_a_secret_is_a_file(tmp_path: Path) -> None:
    """It may be anywhere, as an env file; it is never waited for, and no more of it is read than a secret may have."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(1_100_000))
    (tmp_path / "elsewhere").write_text("data")
    directory = tmp_path / "project"
    directory.mkdir()
    for section in ("secrets", "configs"):

        def text(file: object, section: str = section) -> str:
            return f"{WEB}    {section}: [c]\n{section}: {{c: {{file: {file}}}}}\n"

        assert "it is not a regular file" in refused(directory, text(tmp_path / "pipe"))
        assert "it is not a regular file" in refused(directory, text("/dev/zero"))
        assert "the file is larger than the" in refused(directory, text(tmp_path / "large"))
        for name in ("../elsewhere", tmp_path / "elsewhere"):
            (spec,) = getattr(stack(directory, text(name)), section)
            assert spec.data == b"data"


def test_all_secrets_of_a_file_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file on the disk may be named many times."""
    monkeypatch.setattr(loading, "MAX_DATA_BYTES", 2500)
    (tmp_path / "s").write_bytes(bytes(1000))
    text = WEB + "configs:\n" + "".join(f"  c{number}: {{file: s}}\n" for number in range(3))
    assert "all secrets and configs of a file have more than 2500 bytes" in refused(tmp_path, text)

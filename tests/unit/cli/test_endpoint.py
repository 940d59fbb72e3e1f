"""Where the command line asks: a socket, or a manager over TCP."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from swarmpy.cli.endpoint import TcpEndpoint, parse_tcp
from swarmpy.cli.main import main
from swarmpy.cli.settings import default_cert_dir, make_settings
from swarmpy.errors import InvalidArgument, PermissionDenied
from swarmpy.security.ca import create_root_ca

HERE = Path("/certs")


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("10.0.0.1", "10.0.0.1", 2376, "10.0.0.1:2376"),
        ("m1.example:99", "m1.example", 99, "m1.example:99"),
        ("tcp://m1.example:99", "m1.example", 99, "m1.example:99"),
        ("[2001:db8::1]:99", "2001:db8::1", 99, "[2001:db8::1]:99"),
        ("[2001:db8::1]", "2001:db8::1", 2376, "[2001:db8::1]:2376"),
        ("2001:db8::1", "2001:db8::1", 2376, "[2001:db8::1]:2376"),
    ],
)
def test_addresses(text: str, host: str, port: int, shown: str) -> None:
    """With a port or Docker's, with a scheme or none, of both kinds."""
    found = parse_tcp(text, HERE)
    assert (found.host, found.port, str(found)) == (host, port, shown)


@pytest.mark.parametrize("text", ["", "tcp://", ":99", "a:b", "a:0", "a:99999", "a/b", "unix:///s", "a:٣", "[::1]x"])
def test_addresses_that_are_none(text: str) -> None:
    """They are named."""
    with pytest.raises(InvalidArgument, match="is not HOST:PORT"):
        parse_tcp(text, HERE)


def test_where_the_certificate_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As given, or where the docker command has its own."""
    assert default_cert_dir({"DOCKER_CERT_PATH": "/d", "HOME": "/h"}) == Path("/d")
    assert default_cert_dir({"HOME": "/h"}) == Path("/h/.docker")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/d")
    made = make_settings(None, None, "info", api="a", cert_dir="/c").endpoint
    assert made == TcpEndpoint(host="a", port=2376, cert_dir=Path("/c"))
    assert make_settings(None, None, "info", api="a").endpoint == TcpEndpoint(host="a", port=2376, cert_dir=Path("/d"))


def test_docker_host_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says where the engine is; "swarm init" sent there would found a swarm of Docker's."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert make_settings(str(tmp_path), None, "info").endpoint == tmp_path / "swarmpy.sock"


def test_what_is_about_this_machine_is_not_asked_elsewhere() -> None:
    """The daemon of this machine has a socket, and that of another machine none here."""
    settings = make_settings("/data", None, "info", api="a", cert_dir="/c")
    with pytest.raises(click.UsageError, match="about the daemon of this machine"):
        _ = settings.local_socket
    assert make_settings("/data", None, "info").local_socket == Path("/data/swarmpy.sock")


def test_files_that_are_not_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is missing, or is none, is named in one line."""
    endpoint = parse_tcp("127.0.0.1", tmp_path)
    with pytest.raises(InvalidArgument, match=r"ca\.pem is not there"):
        endpoint.context()
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(InvalidArgument, match=r"ca\.pem is not usable"):
        endpoint.context()
    assert main(["--api", "127.0.0.1", "--cert-dir", str(tmp_path), "status"]) == 1
    assert "ca.pem is not usable" in capsys.readouterr().err


def test_a_file_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that may not be read."""

    (tmp_path / "ca.pem").write_bytes(create_root_ca(1_790_000_000_000_000_000).cert_pem)
    (tmp_path / "key.pem").write_text("x")

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionDenied, match=r"cannot read .*key\.pem"):
        parse_tcp("127.0.0.1", tmp_path).context()

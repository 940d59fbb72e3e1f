"""``swarm ca``: what is asked for, how far it is said to be, and how waiting ends."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from swarmpy.api.swarm_json import tls_info
from swarmpy.cli import swarm_ca
from swarmpy.cli.main import main
from swarmpy.cli.swarm_ca import observe
from swarmpy.security.ca import create_root_ca
from swarmpy.security.roots import joined

OLD, NEW = (create_root_ca(time.time_ns()).cert_pem for _ in range(2))
SHOWS = {
    "nothing": {},
    "old": tls_info((OLD,), OLD),
    "old, trusts both": tls_info((OLD, NEW), OLD),
    "moved": tls_info((OLD, NEW), NEW),
    "done": tls_info((NEW,), NEW),
}


def swarm(*, changing: bool) -> dict[str, Any]:
    """What the API says while the root is changed, or after that."""
    return {
        "Version": {"Index": 5},
        "Spec": {"Name": "default", "CAConfig": {"NodeCertExpiry": 7, "ForceRotate": 1}},
        "TLSInfo": SHOWS["moved" if changing else "done"],
        "RootRotationInProgress": changing,
        "JoinTokens": {},
    }


def node(name: str, shows: str, state: str = "ready", message: str = "") -> dict[str, Any]:
    """A node as the API shows it."""
    return {
        "ID": f"id-{name}",
        "Description": {"Hostname": name, "TLSInfo": SHOWS[shows]},
        "Status": {"State": state, "Message": message},
    }


# -- how far it is ----------------------------------------------------------------------------------------------------


def test_how_far_a_change_is() -> None:
    """Who has moved is not waited for, who is down is not either, and the rest is named with what it lacks."""
    nodes = [
        node("a", "moved"),
        node("b", "old"),
        node("c", "old, trusts both", message="no leader answered"),
        node("d", "nothing"),
        node("e", "old", "down"),
    ]
    progress = observe(swarm(changing=True), nodes)
    assert progress.lines() == [
        f"desired root digest: sha256:{hashlib.sha256(NEW).hexdigest()}",
        "  rotated TLS certificates: 1/5 nodes",
        "  rotated CA certificates:  0/5 nodes",
    ]
    assert progress.waiting_lines() == [
        "waiting for b: it still has a certificate of the root before",
        "waiting for c: it still has a certificate of the root before (no leader answered)",
        "waiting for d: it does not tell which certificate it has: its swarmpy is too old, or it has not come yet",
    ]
    assert progress.away == ("e",)
    assert not progress.is_over


def test_when_a_change_is_over() -> None:
    """When all that are there trust the new root alone."""
    done = [node("a", "done"), node("b", "done")]
    assert observe(swarm(changing=False), done).is_over
    assert not observe(swarm(changing=True), done).is_over
    last = observe(swarm(changing=False), [node("a", "done"), node("b", "moved")])
    assert last.waiting_lines() == ["waiting for b: it still trusts the root before"]
    assert last.lines()[1:] == ["  rotated TLS certificates: 2/2 nodes", "  rotated CA certificates:  1/2 nodes"]
    away = observe(swarm(changing=False), [node("a", "done"), node("b", "old", "down")])
    assert away.is_over
    assert away.away == ("b",)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(daemon: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line against the daemon, whose root is changed; the exit code, and what it said."""
    daemon.swarm = swarm(changing=False)
    daemon.nodes = {"a": node("a", "done")}

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--socket", str(daemon.socket), "swarm", "ca", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def changes(daemon: Any) -> list[str]:
    """What was asked for."""
    return [request for request in daemon.requests if request.startswith("POST")]


def test_the_root_certificate_is_shown(run: Any, daemon: Any) -> None:
    """And nothing is changed."""
    assert run() == (0, NEW.decode(), "")
    assert changes(daemon) == []


def test_a_change_is_asked_for_and_waited_for(run: Any, daemon: Any) -> None:
    """The progress is said as it is; the new root comes last, and who is down is named."""
    daemon.nodes = {"a": node("a", "old"), "b": node("b", "old", "down")}
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            daemon.swarm |= {"TLSInfo": SHOWS["moved"], "RootRotationInProgress": True}
        if looks == 4:
            daemon.nodes["a"] = node("a", "moved")
        if looks == 6:
            daemon.swarm |= {"TLSInfo": SHOWS["done"], "RootRotationInProgress": False}
            daemon.nodes["a"] = node("a", "done")

    daemon.on_swarm = look
    code, out, err = run("--rotate", "--cert-expiry", "48h")
    assert (code, err) == (0, "down, and to follow when they are back: b\n")
    assert out.splitlines()[:6] == [
        f"desired root digest: sha256:{hashlib.sha256(NEW).hexdigest()}",
        "  rotated TLS certificates: 0/2 nodes",
        "  rotated CA certificates:  0/2 nodes",
        "  rotated TLS certificates: 1/2 nodes",
        "  rotated CA certificates:  1/2 nodes",
        "-----BEGIN CERTIFICATE-----",
    ]
    assert out.endswith(NEW.decode())
    assert daemon.swarm["Spec"]["CAConfig"] == {"NodeCertExpiry": 48 * 3600 * 10**9, "ForceRotate": 2}
    assert daemon.swarm["Spec"]["Name"] == "default"
    assert changes(daemon) == ["POST /swarm/update"]


def test_a_root_is_brought_along(run: Any, daemon: Any, tmp_path: Path) -> None:
    """It is sent instead of the number."""
    (tmp_path / "ca.crt").write_bytes(joined((NEW,)))
    (tmp_path / "ca.key").write_text("the key")
    assert run("--rotate", "-q", "--ca-cert", str(tmp_path / "ca.crt"), "--ca-key", str(tmp_path / "ca.key"))[0] == 0
    assert daemon.swarm["Spec"]["CAConfig"] == {
        "NodeCertExpiry": 7,
        "ForceRotate": 1,
        "SigningCACert": NEW.decode(),
        "SigningCAKey": "the key",
    }


@pytest.mark.parametrize("option", ["--detach", "--quiet"])
def test_nothing_is_said_if_nothing_is_to_be(run: Any, daemon: Any, option: str) -> None:
    """As Docker's."""
    assert run("--rotate", option) == (0, "", "")
    assert changes(daemon) == ["POST /swarm/update"]
    assert ("GET /nodes" in daemon.requests) is (option == "--quiet")


def test_waiting_ends_with_who_is_waited_for(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named before, if it takes long; the change goes on."""
    monkeypatch.setattr(swarm_ca, "SLOW_S", 0.0)
    daemon.swarm = swarm(changing=True)
    daemon.nodes = {"a": node("a", "moved"), "b": node("b", "old", message="disk full")}
    code, out, err = run("--rotate", "--timeout", "0.3")
    assert code == 75
    assert "waiting for b: it still has a certificate of the root before (disk full)\n" in out
    hint, reason = err.splitlines()
    assert hint == 'The change of the root CA goes on in the background: "swarmpy status" shows what it waits for.'
    assert reason == f"swarmpy: the root CA is not changed within 0.3 s: {out.splitlines()[-1]}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--quiet",), "give --rotate, too"),
        (("--cert-expiry", "48h"), "give --rotate, too"),
        (("--rotate", "--ca-cert", "x"), "--ca-cert and --ca-key go together"),
        (("--rotate", "--cert-expiry", "soon"), "soon"),
        (("--rotate", "--ca-cert", "/none", "--ca-key", "/none"), "cannot read /none: No such file or directory"),
    ],
)
def test_bad_arguments_ask_for_nothing(run: Any, daemon: Any, arguments: tuple[str, ...], words: str) -> None:
    """One line says what is wrong."""
    code, _, err = run(*arguments)
    assert code != 0
    assert words in err
    assert changes(daemon) == []


def test_files_that_are_no_pem_are_refused(run: Any, daemon: Any, tmp_path: Path) -> None:
    """Before anything is sent; what is in them is not quoted."""
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    (tmp_path / "odd").write_bytes(b"\xff\xfesecret")
    for name, words in (("big", "larger than"), ("odd", "not a PEM file")):
        code, _, err = run("--rotate", "--ca-cert", str(tmp_path / name), "--ca-key", str(tmp_path / name))
        assert code == 1
        assert words in err
        assert "secret" not in err
    assert changes(daemon) == []

"""The group's socket: its members rule the cluster with any client, others do not; the other one is its owner's."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import DOCKER, Hosts, refused, swarmpy, until

from swarmpy.node.doors import GROUPS

NOBODY = 65534
CURL = shutil.which("curl") or "curl"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can pass through, as /run is."""
    directory = Path(tempfile.mkdtemp(prefix="swarmpy-run-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def group() -> int:
    """The group whose socket it is; made for the test where there is none."""
    for name in GROUPS:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            continue
    pytest.skip("there is neither a group swarmpy nor a group docker on this machine")


def run_as(gids: list[int], *command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of a user who is nobody but a member of some groups."""
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        user=NOBODY,
        group=NOBODY,
        extra_groups=gids,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "DOCKER_CONFIG": "/nonexistent"},
        cwd="/",
    )


def test_members_of_the_group_use_the_socket_and_nobody_else_does(hosts: Hosts, public: Path) -> None:
    """The docker command of a member works unchanged; for others it is shut, and so is the data directory."""
    gid = group()
    socket = public / "swarmpy" / "swarmpy.sock"
    host = hosts.new()
    host.resume("--group-socket", str(socket))
    host.does("swarm", "init", "--listen-addr", host.cluster_address)
    found = socket.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid, found.st_uid) == (0o660, gid, os.geteuid())
    assert stat.S_IMODE((host.data_dir / "swarmpy.sock").stat().st_mode) == 0o600
    docker = [DOCKER, "-H", f"unix://{socket}"]
    create = ["service", "create", "-d", "--no-resolve-image", "--name", "web", "--replicas", "0", "none"]
    done = run_as([gid], *docker, *create)
    assert done.returncode == 0, done.stderr
    shown = run_as([gid], *docker, "service", "ls", "--format", "{{.Name}}")
    assert (shown.returncode, shown.stdout) == (0, "web\n")
    outsider = run_as([], *docker, "service", "ls")
    assert outsider.returncode != 0
    assert "permission denied" in outsider.stderr
    for gids in ([], [gid]):
        inside = run_as(gids, CURL, "-s", "--unix-socket", host.data_dir / "swarmpy.sock", "http://swarmpy/info")
        assert inside.returncode != 0
    # Who it was is known by the kernel's word.
    entries = until(lambda: host.rows("audit"), "it is written down")
    made = next(entry for entry in entries if entry["path"].endswith("/services/create"))
    assert made["who"]["uid"] == NOBODY
    assert made["from"] == str(socket)
    assert (made["status"], made["object"]["name"]) == (201, "web")
    host.kill()


def test_a_place_that_is_not_safe_is_refused(hosts: Hosts, public: Path) -> None:
    """A directory that others can write to, a file in the way, another daemon's socket: one line, and no daemon."""
    host = hosts.new()
    public.chmod(0o1777)
    run = ["--data-dir", host.data_dir, "node", "run", *host.own, "--group-socket"]
    refused(swarmpy(*run, public / "s"), 1, str(public), "can be changed by others")
    public.chmod(0o755)
    (public / "s").write_text("precious")
    refused(swarmpy(*run, public / "s"), 1, f"{public}/s is in the way")
    assert (public / "s").read_text() == "precious"
    host.resume("--group-socket", str(public / "other"))
    second = hosts.new()
    done = swarmpy("--data-dir", second.data_dir, "node", "run", *second.own, "--group-socket", public / "other")
    refused(done, 1, f"another daemon listens on {public}/other")
    host.kill()

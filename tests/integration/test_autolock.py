"""Managers that wait for the unlock key: real daemons, killed and started again, over changes of leader and of key."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hosts import Finished, Host, Hosts, refused, until
from looking import files_below

LOCKED = "Swarm is encrypted and needs to be unlocked before it can be used"
WORD = "a-planted-word-that-nobody-else-says"
STACK = f"""
services:
  web:
    image: none
    command: ["sleep", "100000"]
    environment: {{PASSWORD: "{WORD}"}}
    deploy: {{replicas: 0}}
"""


def readable(directory: Path, word: str = WORD) -> list[str]:
    """The files of a data directory that say ``word``, as it is or in base64, wherever it begins."""
    forms = [word.encode(), *(base64.b64encode(bytes(shift) + word.encode())[4:-4] for shift in range(3))]
    files = sorted(files_below(directory).items())
    return [path.name for path, data in files if any(form in data for form in forms)]


def command(host: Host, *arguments: str, key: str = "", timeout: float = 60) -> Finished:
    """A command that reads its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "swarmpy", "--data-dir", str(host.data_dir), *arguments],
        input=key,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def unlock(host: Host, key: str) -> Finished:
    """Give it a key, as an operator without a terminal."""
    return command(host, "swarm", "unlock", key=f"{key}\n")


def state_of(host: Host) -> str:
    """Its place in the swarm."""
    return str(host.api("/info")["Swarm"]["LocalNodeState"])


def header(host: Host) -> dict[str, Any]:
    """What the vault says in clear."""
    plain: dict[str, Any] = json.loads((host.data_dir / "vault").read_text())
    return plain


def is_locking(host: Host) -> bool:
    """True when its vault needs a key that is not on its disk, and everything is sealed with the newest data key."""
    return header(host)["autolock"] and not (host.data_dir / "vault.key").exists()


def settled(host: Host, times: int = 1) -> None:
    """Everything was sealed anew so often in this life of the daemon."""
    until(lambda: host.log.count("event=disk_sealed_anew") >= times, f"{host.name} has sealed anew {times} times")


def key_of(host: Host) -> str:
    """As an operator sees it."""
    key = host.does("swarm", "unlock-key", "-q").strip()
    assert re.fullmatch(r"SWMKEY-1-[A-Za-z0-9+/]{43}", key)
    return key


def deploy(host: Host, directory: Path) -> None:
    """Have the word in the state: in the environment of a service, in a secret and in a config."""
    (directory / "word").write_text(WORD)
    for kind in ("secret", "config"):
        host.does(kind, "create", "planted", directory / "word")
    (directory / "stack.yml").write_text(STACK)
    host.does("stack", "deploy", "-c", directory / "stack.yml", "shop")


def test_a_locked_manager_waits_for_its_key(hosts: Hosts, tmp_path: Path) -> None:
    """From the founding on: killed, it is locked, tells nothing and does nothing; with the key it goes on, live."""
    host = hosts.new()
    said = host.init("--autolock")
    key = key_of(host)
    assert f"    {key}\n" in said
    assert is_locking(host)
    deploy(host, tmp_path)
    swarm, node_id = host.api("/swarm"), host.ids()["host-1"]
    assert not readable(host.data_dir)
    assert readable(host.data_dir, key) == ["daemon.log"], "where the command that founded it has said it"
    host.kill(signal.SIGKILL)
    assert not readable(host.data_dir)
    assert b"PRIVATE KEY" not in (host.data_dir / "certificates" / "swarm-node.key").read_bytes()

    host.resume()
    info = host.api("/info")["Swarm"]
    assert (info["LocalNodeState"], info["NodeID"], info["ControlAvailable"]) == ("locked", node_id, False)
    assert info["Error"].startswith(LOCKED)
    assert host.api("/version")["Version"]
    assert "Swarm: locked" in host.docker("info")
    for arguments in (
        ("node", "ls"),
        ("stack", "ls"),
        ("swarm", "unlock-key"),
        ("swarm", "backup", str(tmp_path / "backup")),
        ("swarm", "init"),
        ("swarm", "init", "--force-new-cluster"),
        ("swarm", "update", "--autolock=false"),
    ):
        refused(host.swarmpy(*arguments), 1, LOCKED)
    refused(host.swarmpy("swarm", "leave"), 1, "encrypted and locked")
    assert host.get("/readyz")[0] == 503
    assert host.get("/healthz")[0] == 200

    began = time.monotonic()
    for count in range(1, 4):
        done = unlock(host, "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8")
        refused(done, 1, "swarm could not be unlocked: invalid key provided")
        assert host.status()["problems"][-1] == f"wrong unlock keys were given: {count}"
    assert time.monotonic() - began > 1 + 2, "each has to wait for longer"
    refused(unlock(host, "SWMKEY-1-tooshort"), 1, "invalid key: an unlock key is SWMKEY-1-")
    assert host.log.count("event=unlock_key_wrong") == 3
    assert key not in host.log
    assert "7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8" not in host.log
    assert "7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8" not in (host.data_dir / "audit.log").read_text()

    done = unlock(host, key)
    assert (done.returncode, done.stdout) == (0, "Swarm unlocked: this manager goes on.\n"), done.stderr
    until(lambda: host.api("/swarm") == swarm, "it goes on")
    assert [service["Spec"]["Name"] for service in host.api("/services")] == ["shop_web"]
    refused(unlock(host, key), 1, "swarm is not locked")
    assert host.pid
    assert key not in host.log


def test_autolock_is_turned_on_and_off(hosts: Hosts, tmp_path: Path) -> None:
    """The key that lay on the disk opens nothing any more once it is on; off, managers start by themselves again."""
    host = hosts.new()
    host.init()
    deploy(host, tmp_path)
    refused(host.swarmpy("swarm", "unlock-key"), 1, "no unlock key is set")
    refused(host.swarmpy("swarm", "unlock-key", "--rotate"), 1, "autolock is not turned on")
    refused(host.swarmpy("swarm", "unlock"), 1, "swarm is not locked")
    old_key, old_vault = (host.data_dir / "vault.key").read_text(), header(host)["sealed"]
    said = host.does("swarm", "update", "--autolock=true")
    key = key_of(host)
    assert said.startswith("Swarm updated.\n")
    assert key in said
    assert host.api("/swarm")["Spec"]["EncryptionConfig"] == {"AutoLockManagers": True}
    settled(host)
    assert is_locking(host)
    assert header(host)["sealed"] != old_vault
    assert not readable(host.data_dir, old_key.strip())
    host.kill(signal.SIGKILL)
    assert not readable(host.data_dir)

    host.resume()
    assert state_of(host) == "locked"
    refused(unlock(host, old_key.strip()), 1, "invalid key provided")
    assert unlock(host, key).returncode == 0
    until(lambda: host.api("/services"), "it goes on")
    host.does("swarm", "update", "--autolock=false")
    settled(host)
    assert not is_locking(host)
    refused(host.swarmpy("swarm", "unlock-key"), 1, "no unlock key is set")
    host.kill(signal.SIGKILL)
    host.resume()
    until(lambda: host.api("/services"), "it needs no key")


def test_a_key_is_replaced_while_a_manager_is_away(hosts: Hosts, tmp_path: Path) -> None:
    """Who was away is unlocked with the key before, and hears of the new one; whoever leads."""
    first, second, third = hosts.cluster(3, 0)
    deploy(first, tmp_path)
    first.does("swarm", "update", "--autolock=true")
    old = key_of(second)
    for host in (first, second, third):
        settled(host)
    third.kill(signal.SIGKILL)
    said = second.does("swarm", "unlock-key", "--rotate")
    new = key_of(first)
    assert new in said
    assert new != old
    for host in (first, second):
        settled(host, 2)
    first.kill(signal.SIGKILL)
    first.resume()
    until(lambda: state_of(first) == "locked", "the leader is locked when it comes back")
    refused(unlock(first, old), 1, "invalid key provided")
    assert unlock(first, new).returncode == 0
    until(lambda: first.api("/services"), "two of three go on")

    third.resume()
    assert state_of(third) == "locked"
    refused(unlock(third, new), 1, "invalid key provided")
    assert unlock(third, old).returncode == 0
    until(lambda: third.nodes()["host-3"] == ("ready", "reachable"), "all three")
    settled(third)
    third.kill(signal.SIGKILL)
    third.resume()
    refused(unlock(third, old), 1, "invalid key provided")
    assert unlock(third, new).returncode == 0
    until(lambda: third.api("/services"), "it has heard of the new key")
    assert not [host.name for host in (first, second, third) if readable(host.data_dir)]

    first.does("node", "demote", "host-3")
    until(lambda: not (third.data_dir / "vault").exists(), "a worker has no vault")
    third.kill(signal.SIGKILL)
    third.resume()
    until(lambda: first.nodes()["host-3"] == ("ready", ""), "a worker needs no key")
    first.does("node", "promote", "host-3")
    until(lambda: first.nodes()["host-3"] == ("ready", "reachable"), "a manager again")
    until(lambda: is_locking(third), "which locks")
    assert not readable(third.data_dir)


def test_a_locked_manager_leaves(hosts: Hosts) -> None:
    """By force, without any key; then it may found another cluster."""
    host = hosts.new()
    host.init("--autolock")
    host.kill(signal.SIGKILL)
    host.resume()
    refused(host.swarmpy("swarm", "leave"), 1, "unlock it first")
    assert host.does("swarm", "leave", "--force") == "Node left the swarm.\n"
    assert state_of(host) == "inactive"
    assert not [path.name for path in host.data_dir.iterdir() if "vault" in path.name]
    refused(unlock(host, "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"), 1, "not part of a swarm")
    host.does("swarm", "init", "--listen-addr", host.cluster_address)
    assert state_of(host) == "active"


def test_the_docker_cli(hosts: Hosts) -> None:
    """The same, as an operator with the docker CLI does it."""
    host = hosts.new()
    host.resume()
    said = host.docker(
        "swarm", "init", "--autolock", "--listen-addr", host.cluster_address, "--advertise-addr", host.address
    )
    (key,) = re.findall(r"SWMKEY-1-\S+", said)
    assert host.docker("swarm", "unlock-key", "-q").strip() == key
    newer = host.docker("swarm", "unlock-key", "--rotate", "-q").strip()
    assert newer != key
    settled(host)
    host.kill(signal.SIGKILL)
    host.resume()
    assert "Swarm: locked" in host.docker("info")
    for words, code, text in (
        (("node", "ls"), 1, LOCKED),
        (("swarm", "leave"), 1, "Swarm is encrypted and locked"),
        (("swarm", "init"), 1, LOCKED),
    ):
        done = docker(host, *words)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert "invalid key provided" in docker(host, "swarm", "unlock", key=key).stderr
    assert docker(host, "swarm", "unlock", key=newer).returncode == 0
    until(lambda: host.docker("node", "ls", "-q"), "it goes on")
    assert "swarm is not locked" in docker(host, "swarm", "unlock", key=newer).stderr
    host.docker("swarm", "update", "--autolock=false")
    done = docker(host, "swarm", "unlock-key")
    assert (done.returncode, "no unlock key is set" in done.stderr) == (1, True)


def docker(host: Host, *arguments: str, key: str = "") -> Finished:
    """The docker CLI, whatever comes of it."""
    command = ["docker", "-H", f"unix://{host.data_dir}/swarmpy.sock", *arguments]
    return subprocess.run(command, input=f"{key}\n", capture_output=True, text=True, timeout=60, check=False)


def test_the_tools_take_the_key(hosts: Hosts, tmp_path: Path) -> None:
    """Of a stopped manager, of a backup, of a cluster begun anew: from a file or standard input, with nothing told."""
    first, second = hosts.cluster(2, 0)
    deploy(first, tmp_path)
    first.does("swarm", "update", "--autolock=true")
    key = key_of(first)
    for host in (first, second):
        settled(host)
    file, wrong, backup = tmp_path / "key", tmp_path / "wrong", tmp_path / "backup"
    file.write_text(f"{key}\n")
    wrong.write_text("SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8\n")
    assert "It is sealed" in first.does("swarm", "backup", str(backup))
    assert not [form for form in (WORD, key, first.token("worker")) if form.encode() in backup.read_bytes()]

    second.kill(signal.SIGKILL)
    for tool in ("verify", "dump"):
        shown = second.does("raft", tool, "--unlock-key-file", file, second.data_dir)
        assert "verdict: sound" in shown if tool == "verify" else "create service shop_web" in shown
        assert command(second, "raft", tool, str(second.data_dir), key=key).stdout == shown
        assert key not in shown
        refused(second.swarmpy("raft", tool, "--unlock-key-file", wrong, second.data_dir), 1, "invalid key provided")
        refused(command(second, "raft", tool, str(second.data_dir)), 1, "an unlock key is SWMKEY-1-")
    first.kill(signal.SIGKILL)
    second.resume()
    assert unlock(second, key).returncode == 0
    second.does("swarm", "init", "--force-new-cluster")
    until(lambda: second.nodes()["host-2"][1] == "leader", "it leads alone")
    assert key_of(second) == key
    assert is_locking(second)
    assert not readable(second.data_dir)
    second.kill(signal.SIGKILL)
    second.resume()
    assert unlock(second, key).returncode == 0
    until(lambda: second.api("/services"), "the log of the cluster that was begun anew opens")
    second.kill(signal.SIGKILL)

    assert "nothing in it was looked at" in first.does("swarm", "restore", "--check", str(backup))
    assert "verdict: sound" in first.does("swarm", "restore", "--check", "--unlock-key-file", file, str(backup))
    third = hosts.new()
    restore = ["swarm", "restore", str(backup), "--listen-addr", third.cluster_address, "--detach", *third.own]
    refused(command(third, *restore, key=wrong.read_text()), 1, "invalid key provided")
    done = command(third, *restore, key=key)
    assert done.returncode == 0, done.stderr
    try:
        until(lambda: third.api("/services"), "the backup is back")
        assert key_of(third) == key
        assert is_locking(third)
        assert not readable(third.data_dir)
    finally:
        third.does("swarm", "leave", "--force")

"""A word that is planted in a secret is looked for everywhere, from its creation to its end."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hosts import DOCKER, Host, Hosts, until
from looking import files_below

from swarmpy.runtime.memory_files import usual_bases

FIRST, SECOND = "first-planted-Zq7wXk93", "second-planted-Vt2mRp58"
STACK = """
services:
  web:
    image: none
    command: sleep 100000
    stop_grace_period: 1s
    secrets: [tok]
    deploy:
      replicas: 2
      placement: {constraints: [node.hostname == host-4]}
      update_config: {monitor: 500ms, parallelism: 2}
      rollback_config: {monitor: 500ms, parallelism: 2}
secrets:
  tok: {external: true}
"""
PAGES = ("/services", "/tasks", "/nodes", "/secrets", "/secrets/tok", "/info", "/swarm", "/status", "/status/raft")


@attrs.frozen
class World:
    """Three managers and two workers, of which host-4 runs the tasks."""

    hosts: list[Host]
    directory: Path

    @property
    def manager(self) -> Host:
        """One of them."""
        return self.hosts[0]

    def planted(self, word: str, *command: str) -> None:
        """A command that gets the secret from its standard input. It has the word often: a file may split it."""
        arguments = [sys.executable, "-m", "swarmpy", "--data-dir", str(self.manager.data_dir), *command]
        done = subprocess.run(
            arguments, input=(f"{word}\n" * 200).encode(), capture_output=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        self.check_no_word(done.stdout + done.stderr, " ".join(command))

    def does(self, *command: str | Path) -> None:
        """A command, which says nothing of the word."""
        self.check_no_word(self.manager.does(*command).encode(), " ".join(map(str, command)))

    def check_no_word(self, data: bytes, where: str) -> None:
        """Neither word is in it, in whatever form."""
        found = PATTERN.search(data)
        assert found is None, f"{found.group()!r} is in {where}"

    def in_memory(self) -> dict[str, set[str]]:
        """The words that each host has in files in its memory."""
        found: dict[str, set[str]] = {}
        ids = self.manager.ids()
        for host in self.hosts:
            words = found.setdefault(host.name, set())
            for base in usual_bases(os.geteuid(), os.environ):
                for data in files_below(base.path / ids[host.name]).values():
                    words.update(word for word in (FIRST, SECOND) if word.encode() in data)
        return found

    def check(self, *words: str) -> None:
        """The words are in the memory of the host that runs the tasks, and nowhere else."""
        expected = {host.name: set(words) if host.name == "host-4" else set() for host in self.hosts}
        until(lambda: self.in_memory() == expected, f"{words} in memory of host-4 only: {self.in_memory()}")
        for path, data in files_below(self.directory).items():
            self.check_no_word(data, str(path))
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != os.getpid():
                self._check_process(process)
        for host in self.hosts:
            for page in PAGES:
                self.check_no_word(_page(host, page), f"{page} of {host.name}")
            self.check_no_word(json.dumps(host.get("/status")).encode(), f"the status page of {host.name}")

    def _check_process(self, process: Path) -> None:
        for name in ("environ", "cmdline"):
            try:
                data = (process / name).read_bytes()
            except OSError:
                continue  # it has ended
            self.check_no_word(data, f"{process}/{name}")


def _forms(word: str) -> Iterator[bytes]:
    """The word as it is, and as it looks in base64 wherever it begins in the text; and in hexadecimal."""
    yield word.encode()
    yield word.encode().hex().encode()
    for before in range(3):
        # Of the first and of the last group only a part is the word's own.
        coded = base64.b64encode(bytes(before) + word.encode()).rstrip(b"=")
        yield coded[4:-2]
        yield coded[4:-2].replace(b"+", b"-").replace(b"/", b"_")


PATTERN = re.compile(b"|".join(sorted({re.escape(form) for word in (FIRST, SECOND) for form in _forms(word)})))


def _page(host: Host, page: str) -> bytes:
    try:
        return json.dumps(host.api(page)).encode()
    except AssertionError as refusal:
        return str(refusal).encode()  # a worker's, mostly


def test_what_is_looked_for_would_be_found() -> None:
    """Wherever the word is in a text that is coded, and in databases and logs as it is."""
    for before in range(3):
        text = b"x" * before + FIRST.encode() + b"y"
        for coded in (text, base64.b64encode(text), base64.urlsafe_b64encode(text), text.hex().encode()):
            assert PATTERN.search(b"..." + coded + b"...")


@pytest.mark.skipif(
    not os.access(DOCKER, os.X_OK) and os.environ.get("SWARMPY_REQUIRE_ENGINE") != "1", reason="needs the docker CLI"
)
def test_a_planted_word_is_nowhere_but_with_its_tasks(tmp_path: Path) -> None:
    """Created, used, updated, rolled back and removed: it is in no file, log, answer or process, and ends with them."""
    made = Hosts(tmp_path)
    try:
        world = World(made.cluster(3, 2), tmp_path)
        manager = world.manager
        (tmp_path / "st.yml").write_text(STACK)
        # Before there are tasks, and with a snapshot that holds it.
        world.does("swarm", "update", "--snapshot-interval", "10")
        world.planted(FIRST, "secret", "create", "tok", "-")
        world.check()
        world.does("stack", "deploy", "-c", tmp_path / "st.yml", "st")
        world.check(FIRST)
        world.planted(SECOND, "secret", "update", "tok", "-")
        world.check(SECOND)
        world.check_no_word(
            manager.docker("service", "rollback", "--detach", "st_web").encode(), "docker service rollback"
        )
        world.check(FIRST)
        # The daemon of the node that has it dies and comes back: it still has it, and goes on to let go of it.
        worker = world.hosts[3]
        worker.kill()
        worker.resume()
        until(lambda: manager.nodes()["host-4"][0] == "ready", "host-4 is back")
        world.check(FIRST)
        world.does("stack", "rm", "st")
        until(lambda: not manager.api("/tasks"), "all tasks are gone")
        world.check()
        world.does("secret", "rm", "tok")
        world.check()
        assert manager.api("/secrets") == []
    finally:
        made.close()

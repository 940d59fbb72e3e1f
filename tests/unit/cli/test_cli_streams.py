"""Standard streams that take nothing, are closed or have no reader: one line and an exit code, as everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmpy.cli.main import main


def run(shell: str, socket: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarmpy", "--socket", str(socket), *arguments.split()]
    return subprocess.run(
        ["bash", "-c", shell, "bash", *command], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("shell", "code", "err"),
    [
        ('"$@" > /dev/full', 74, "swarmpy: cannot write the output: No space left on device\n"),
        ('"$@" <&- >&-', 0, ""),
    ],
    ids=["full", "closed"],
)
def test_standard_output_that_takes_nothing(daemon: Any, shell: str, code: int, err: str) -> None:
    """A full disk is the disk's fault and no defect; who closes the output wants none."""
    done = run(shell, daemon.socket, "node ls")
    assert (done.returncode, done.stderr) == (code, err)


def test_standard_output_that_nobody_reads(daemon: Any) -> None:
    """Whoever has read enough has not refused anything: the exit code is a shell's for SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "swarmpy", "--socket", daemon.socket, "node", "ls"]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_error_is_told_although_nothing_can_be_printed(daemon: Any) -> None:
    """What is wrong with the request comes before what is wrong with the output."""
    done = run('"$@" > /dev/full', daemon.socket, "node inspect nope")
    assert (done.returncode, done.stderr) == (1, "swarmpy: service nope not found\n")


def test_a_stack_file_may_come_from_standard_input(daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """As with docker: ``-c -``; its faults are told with that name."""
    shell = 'printf "services:\\n  web: {image: busybox}\\n" | "$@"'
    done = run(shell, daemon.socket, "stack deploy --detach -c - piped")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Creating service piped_web\n", "")
    done = run('echo "services: {web: {}}" | "$@"', daemon.socket, "stack deploy --detach -c - piped")
    assert done.stderr == "swarmpy: standard input:1: services.web: no image given: add the key 'image'\n"
    assert main(["--version"]) == 0, "the streams of this process are as they were"
    assert capsys.readouterr().out.startswith("swarmpy ")

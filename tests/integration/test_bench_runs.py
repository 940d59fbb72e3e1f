"""The measurements still run; what they find is not looked at here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("writes", ["--managers", "1"]),
        ("api", ["--managers", "2"]),
        ("cost", ["--managers", "2"]),
        ("sealing", ["--managers", "1"]),
        ("scheduler", ["--most-nodes", "1000", "--most-tasks", "1000"]),
        ("agents", ["--managers", "3", "--agents", "12"]),
        ("handshake", []),
        ("scale", ["--managers", "1", "--agents", "6", "--tasks", "60", "--agent-heartbeat-s", "1"]),
        ("big", ["--managers", "3", "--tasks", "200"]),
    ],
)
def test_a_bench_prints_json(name: str, options: list[str]) -> None:
    """One object a line, each of which says what it belongs to."""
    command = [sys.executable, "-m", "tests.bench", name, "--seconds", "0.2", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found
    assert {line["bench"] for line in found} == {"machine", name}

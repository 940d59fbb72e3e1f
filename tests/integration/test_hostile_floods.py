"""A leader under attack from other processes: whoever else talks to it gets every answer, and it keeps its measure.

How long the answers take is for ``python -m tests.bench hostile`` to tell: it depends on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from swarmpy.wire.entrance import EntranceLimits
from swarmpy.wire.serving import ServerConfig

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = ("hold", "words", "worker")
OWN_DESCRIPTORS = 60
"""Of a daemon of a small cluster in peace, and then some."""
OWN_MIB = 250


def test_a_leader_under_attack_serves_the_others() -> None:
    """Connections that are held, words that are no TLS, a worker that does all it can: nobody else is refused."""
    command = [sys.executable, "-m", "tests.bench", "hostile", "--managers", "1", "--workers", "2", "--seconds", "1"]
    command += ["--attacks", ",".join(ATTACKS), "--connections", "3000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    machine, *attacks, end = [json.loads(line) for line in done.stdout.splitlines()]
    assert machine["bench"] == "machine"
    assert [line["attack"] for line in attacks] == ["none", *ATTACKS]
    bounds, limits = ServerConfig(), EntranceLimits()
    strangers = limits.waiting + limits.handshakes + bounds.max_anonymous + bounds.max_of_worker
    for line in attacks:
        assert line["errors"] == 0, line["first_error"]
        assert line["calls"] > 0
        assert line["dials"] > 0
        assert line["leader_descriptors"] <= OWN_DESCRIPTORS + strangers
        assert line["leader_mib"] <= OWN_MIB
        assert line["log_lines"] <= 60
    assert all(sum(line["attacker"].values()) > 0 for line in attacks[1:])
    assert end["term_after"] == end["term_before"]


def test_the_fuzzers_run(tmp_path: Path) -> None:
    """For a moment, with mutations that are the same each time; a campaign is run by hand (docs/testing.md)."""
    command = [sys.executable, "-m", "tests.fuzz.frames", "--plain", "--seconds", "3", "--seed", "1"]
    command += ["--findings", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["frames", "connection", "handlers", "raft"]
    assert not list(tmp_path.iterdir())

"""The command that plays many universes: what it prints, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import batch
import pytest
import workers
from loop import SimLoop, SimulationError
from universe import WORLDS

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str) -> subprocess.Popen[str]:
    """``python -m tests.simulation``, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def played(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    process = command(*arguments)
    out, err = process.communicate()
    return process.returncode, out, err


def test_a_batch_ends_with_a_summary() -> None:
    """Every figure is there, and nothing but the runner writes to stdout."""
    code, out, err = played("--seeds", "4", "--first-seed", "10", "--jobs", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "4 universes from seed 10 on, 2 at a time"
    labels = [line.split(" ")[0] for line in lines[lines.index("") :] if line and not line.startswith(" ")]
    assert labels == ["seeds", "time", "steps", "faults", "checks", "operations", "violations"]
    assert lines[-1] == "violations  0"


def test_a_seed_is_replayed_as_a_film() -> None:
    """A line for each event, of one shape: virtual time, who, what; production logs among them."""
    code, out, err = played("--seed", "4", "--world", "cluster", "--verbose")
    assert (code, err) == (0, "")
    *film, verdict = out.splitlines()
    assert all(re.match(r"[ \d]{3}\d\.\d{4}  \S.{9}  \S", line) for line in film)
    for event in (
        "universe",
        "nemesis",
        "operator",
        "info: leadership_begins",
        "raft_status role='leader'",
        "FAULT",
        "create task",
    ):
        assert event in out, event
    assert re.match(r"seed 4 of world cluster: all laws hold; .* digest [0-9a-f]{16}$", verdict)
    assert played("--seed", "4", "--world", "cluster") == (0, verdict + "\n", "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seeds", "0"], "argument --seeds: '0' is not a whole number of 1 or more"),
        (["--seeds", "many"], "argument --seeds: 'many' is not a whole number of 1 or more"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number of 0 or more"),
        (["--sead", "1"], "unrecognized arguments: --sead 1"),
        (["--world", "moon"], "argument --world: invalid choice: 'moon'"),
        (["--seed", "1", "--seeds", "2"], "--seed replays one universe: it goes with --world and --verbose only"),
        (["--verbose"], "--verbose needs --seed"),
    ],
)
def test_bad_usage_is_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and what is wrong, without a page of usage."""
    with pytest.raises(SystemExit) as ended:
        batch.main(arguments)
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"python -m tests.simulation: {complaint}")
    assert line.count("\n") == 1


def test_a_violation_is_told_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; without --verbose the verdict and the command, with it the film as well."""

    async def broken(loop: SimLoop, *_: object) -> None:
        raise SimulationError("the sky falls")

    monkeypatch.setitem(WORLDS, "managers", broken)
    assert batch.main(["--seed", "5", "--world", "managers"]) == 1
    assert capsys.readouterr().out == (
        "seed 5 of world managers VIOLATED: SimulationError: the sky falls\n"
        "see it with: python -m tests.simulation --seed 5 --world managers --verbose\n"
    )
    monkeypatch.setattr(workers.Workers, "play", lambda self, seeds: iter([workers.outcome(5, "managers")]))
    assert batch.main(["--seeds", "1", "--first-seed", "5", "--world", "managers"]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "violations  1",
        "  seed 5: SimulationError: the sky falls",
        "    python -m tests.simulation --seed 5 --world managers --verbose",
    ]


def test_a_universe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs a bounded amount of CPU time, wherever in the code it spins."""

    async def hanging(loop: SimLoop, *_: object) -> None:
        while True:
            pass

    monkeypatch.setitem(WORLDS, "managers", hanging)
    monkeypatch.setattr(workers, "CPU_LIMIT_S", 0.2)
    before = signal.signal(signal.SIGVTALRM, workers.interrupt)
    try:
        outcome = workers.outcome(1, "managers")
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert outcome.violation == "Hung: more than 0.2 s of CPU time"


def test_an_interrupt_ends_all_processes_and_still_sums_up() -> None:
    """Ctrl-C, which every process of the terminal gets, leaves nobody behind who holds the terminal."""
    process = command("--seeds", "1000", "--jobs", "2")
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert "interrupted" in out
    assert out.splitlines()[-1] == "violations  0"


def test_a_process_that_dies_costs_its_universe_only() -> None:
    """The batch goes on with a new process."""
    with workers.Workers(1, "managers") as pool:
        pool.kill()
        lost, played = list(pool.play(range(2)))
    assert (lost.seed, lost.violation) == (0, "its process died with exit code -9")
    assert played.report is not None

"""``swarm unlock``, ``swarm unlock-key`` and ``--autolock``: where a key comes from, and who is shown it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from swarmpy.cli.main import main

KEY = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8"
ON = {"EncryptionConfig": {"AutoLockManagers": True}}


@pytest.fixture
def run(daemon: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line against the daemon; the exit code, and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["--socket", str(daemon.socket), "swarm", *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.mark.parametrize(
    ("given", "sent"),
    [(("--autolock",), True), (("--autolock=true",), True), (("--autolock=false",), False)],
)
def test_autolock_is_a_setting(run: Any, daemon: Any, given: tuple[str, ...], sent: bool) -> None:
    """With a value or without one; the key is shown when it is turned on."""
    daemon.unlock_key = KEY
    code, said = run("update", *given)
    assert (code, daemon.swarm["Spec"]["EncryptionConfig"]) == (0, {"AutoLockManagers": sent})
    assert said.startswith("Swarm updated.\n")
    assert (KEY in said) is sent
    code, said = run("init", *given, "--task-history-limit", "3")
    assert code == 0
    assert daemon.inits[0]["Spec"] == {
        "EncryptionConfig": {"AutoLockManagers": sent},
        "Orchestration": {"TaskHistoryRetentionLimit": 3},
    }
    assert (KEY in said) is sent


def test_the_key_is_shown(run: Any, daemon: Any) -> None:
    """Alone, or with what it is for; where there is none, that is said."""
    code, said = run("unlock-key")
    assert (code, "no unlock key is set" in said) == (1, True)
    daemon.unlock_key = KEY
    assert run("unlock-key", "-q") == (0, f"{KEY}\n")
    code, said = run("unlock-key")
    assert (code, f"    {KEY}\n" in said, "swarmpy swarm unlock" in said) == (0, True, True)
    assert "POST /swarm/update" not in daemon.requests


def test_the_key_is_replaced(run: Any, daemon: Any) -> None:
    """Nothing else is changed; without autolock there is nothing to replace."""
    daemon.swarm["Spec"] = {"Name": "default", "EncryptionConfig": {"AutoLockManagers": False}}
    code, said = run("unlock-key", "--rotate")
    assert (code, "autolock is not turned on" in said) == (1, True)
    daemon.swarm["Spec"] = {"Name": "default", **ON}
    daemon.unlock_key = KEY
    code, said = run("unlock-key", "--rotate")
    assert (code, KEY in said) == (0, True)
    assert daemon.swarm["Spec"] == {"Name": "default", **ON}
    assert {"version": "5", "rotateManagerUnlockKey": "true"} in daemon.queries
    assert run("unlock-key", "--rotate", "-q") == (0, f"{KEY}\n")


def test_unlocking_from_standard_input(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first line is the key; what is no key is not sent."""
    daemon.local_state = "locked"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{KEY}\nmore\n"))
    assert run("unlock") == (0, "Swarm unlocked: this manager goes on.\n")
    assert daemon.unlocks == [KEY]
    monkeypatch.setattr(sys, "stdin", io.StringIO("sesame\n"))
    code, said = run("unlock")
    assert (code, "an unlock key is SWMKEY-1-" in said, "sesame" in said) == (1, True, False)
    assert daemon.unlocks == [KEY]


def test_unlocking_at_a_terminal(run: Any, daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt does not show what is typed."""
    asked: list[dict[str, Any]] = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def prompt(_text: str, **options: Any) -> str:
        asked.append(options)
        return KEY

    daemon.local_state = "locked"
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(click, "prompt", prompt)
    assert run("unlock")[0] == 0
    assert (daemon.unlocks, asked[0]["hide_input"]) == ([KEY], True)


@pytest.mark.parametrize(("state", "words"), [("active", "swarm is not locked"), ("inactive", "not part of a swarm")])
def test_nothing_to_unlock(run: Any, daemon: Any, state: str, words: str) -> None:
    """It is said before a key is asked for."""
    daemon.local_state = state
    code, said = run("unlock")
    assert (code, words in said, daemon.unlocks) == (1, True, [])


def test_no_key_on_the_command_line(run: Any) -> None:
    """Everybody on the machine can read it there."""
    assert run("unlock", KEY)[0] == 2


def test_a_key_file_is_a_plain_file(tmp_path: Path) -> None:
    """Anything else might wait for ever."""
    from swarmpy.cli.swarm_lock import read_unlock_key
    from swarmpy.errors import InvalidArgument

    (tmp_path / "key").write_text(f"{KEY}\n")
    assert read_unlock_key(tmp_path / "key").text == KEY
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(InvalidArgument, match="cannot read the unlock key"):
            read_unlock_key(path)

"""The protocol as text: every file in ``transcripts/`` plays as it is recorded.

``RAFT_TRANSCRIPTS=rewrite pytest tests/unit/raft/test_raft_transcripts.py`` records them anew; read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from datadriven import Command, TranscriptError, check_recorded, difference, play
from raft_scenario import Scenario

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path) -> None:
    """Each command prints what is recorded; a change of behaviour is a difference to be read."""
    check_recorded(path, Scenario().run, "RAFT_TRANSCRIPTS")


def test_every_file_says_what_to_look_at() -> None:
    """A transcript opens with a comment for its reader."""
    assert len(FILES) >= 14
    assert [path.name for path in FILES if not path.read_text().startswith("# ")] == []


def test_wrong_expectation_is_a_readable_difference() -> None:
    """The one line that differs is shown with a minus and a plus, among those around it."""
    recorded = play("# An election.\ncluster 3\n----\n\ncampaign 1\n----\n\nstabilize\n----\n", Scenario().run)
    wrong = recorded.replace("1 is leader in term 2", "1 is leader in term 3")
    found = difference("election.txt", wrong, play(wrong, Scenario().run))
    header, body = found.splitlines()[:2], found.splitlines()[2:]
    assert header == ["--- election.txt (recorded)", "+++ election.txt (now)"]
    assert [line for line in body if line[0] in "+-"] == ["-1 is leader in term 3", "+1 is leader in term 2"]


def test_a_difference_fails_and_can_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changed the protocol sees what is different, and how to record it."""
    path = tmp_path / "election.txt"
    path.write_text("cluster 3\n----\n\ncampaign 1\n----\nnothing\n")
    with pytest.raises(AssertionError, match=r"(?s)-nothing.*RECORDED=rewrite pytest -k election"):
        check_recorded(path, Scenario().run, "RECORDED")
    monkeypatch.setenv("RECORDED", "rewrite")
    check_recorded(path, Scenario().run, "RECORDED")
    monkeypatch.delenv("RECORDED")
    check_recorded(path, Scenario().run, "RECORDED")
    assert "nothing" not in path.read_text()


def test_same_transcript_twice() -> None:
    """Playing a played file changes nothing."""
    once = FILES[0].read_text()
    assert play(play(once, Scenario().run), Scenario().run) == play(once, Scenario().run)


class TestParser:
    def test_arguments_and_options(self) -> None:
        """Words, pairs and lists are told apart."""
        command = Command.parse("deliver 2 3 drop=(1->3, VOTE) keep=2")
        assert command == Command(name="deliver", args=("2", "3"), options={"drop": ("1->3", "VOTE"), "keep": ("2",)})

    def test_comments_and_blank_lines_are_kept(self) -> None:
        """Only what is printed is replaced."""
        text = "# one\n\nfirst a\n----\nold\nlines\n\n# two\nsecond\n----\nold\n"
        assert play(text, lambda command: f"did {command.name}") == (
            "# one\n\nfirst a\n----\ndid first\n\n# two\nsecond\n----\ndid second\n"
        )

    def test_command_without_a_rule_is_an_error(self) -> None:
        """A forgotten ---- is named with its line."""
        with pytest.raises(TranscriptError, match="line 2"):
            play("# a\ncampaign 1\n", lambda command: "")

    def test_unknown_command_is_an_error(self) -> None:
        """A misspelt command does not pass for a silent one."""
        with pytest.raises(TranscriptError, match="campain"):
            play("campain 1\n----\n", Scenario().run)

    def test_refusal_is_printed(self) -> None:
        """An error of the core is part of the transcript."""
        assert "NotLeader" in play("cluster 3\n----\n\npropose 2 a\n----\n", Scenario().run)

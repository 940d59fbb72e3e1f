"""The protocol as text: every file in ``transcripts/`` plays as it is recorded.

``RAFT_TRANSCRIPTS=rewrite pytest tests/unit/raft/test_raft_transcripts.py`` records them anew; read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from datadriven import Command, TranscriptError, difference, play
from raft_scenario import Scenario

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
REWRITE = os.environ.get("RAFT_TRANSCRIPTS") == "rewrite"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path) -> None:
    """Each command prints what is recorded; a change of behaviour is a difference to be read."""
    recorded = path.read_text()
    now = play(recorded, Scenario().run)
    if REWRITE:
        path.write_text(now)
        return
    found = difference(path.name, recorded, now)
    assert not found, f"\n{found}\nIf this is meant: RAFT_TRANSCRIPTS=rewrite pytest {Path(__file__).name}"


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

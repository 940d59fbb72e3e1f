"""Updates, restarts, jobs and drains as text: every file in ``transcripts/`` plays as it is recorded.

``CONTROL_TRANSCRIPTS=rewrite pytest tests/unit/control/test_control_transcripts.py`` records them anew; read the
difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from control_scenario import Scenario
from datadriven import TranscriptError, check_recorded, play

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.fixture(autouse=True)
def short_slices() -> None:
    """As long as a leader's here: the order of what is written is recorded, too."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """Each command prints what is recorded; a change of behaviour is a difference to be read."""
    check_recorded(path, Scenario().run, "CONTROL_TRANSCRIPTS")


def test_every_file_says_what_to_look_at() -> None:
    """A transcript opens with a comment for its reader, and none is empty."""
    assert len(FILES) >= 12
    assert [path.name for path in FILES if not path.read_text().startswith("# ")] == []
    assert [path.name for path in FILES if "----" not in path.read_text()] == []


def test_what_is_misspelt_is_an_error() -> None:
    """It does not pass for a command that changes nothing."""
    for line in ("servce create web", "node dran n1", "service create web repicas=3", "image web:1 explodes"):
        with pytest.raises(TranscriptError):
            play(f"node add n1\n----\n\n{line}\n----\n", Scenario().run)
    with pytest.raises(TranscriptError, match=r"no task of web\.1 runs"):
        play("node add n1\n----\n\nservice create web replicas=0\n----\n\ntask fail web.1\n----\n", Scenario().run)

"""The shipped examples: what they come to is written down, and changes only on purpose.

``SWARMPY_UPDATE_GOLDEN=1`` writes the files anew; review the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from swarmpy.compose.convert import convert
from swarmpy.compose.load import load
from swarmpy.model.codec import to_plain

EXAMPLES = Path(__file__).parents[3] / "compose-examples"
GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yml"))


def test_there_are_examples() -> None:
    """The examples are where the documentation says."""
    assert {"hello", "web-api", "constraints", "env-health"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_examples_convert_as_written_down(name: str) -> None:
    """Each example loads without a warning and gives the services that are written down."""
    stack = convert(load([EXAMPLES / f"{name}.yml"], {}), "demo")
    assert stack.warnings == ()
    text = json.dumps([to_plain(spec) for spec in stack.services], indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("SWARMPY_UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_examples_say_what_they_show(name: str) -> None:
    """Each example starts with a comment that tells what it shows and how to run it."""
    text = (EXAMPLES / f"{name}.yml").read_text()
    comment = text.partition("\n\nx-")[0].partition("\n\nservices:")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "Shows:" in comment
    assert f"swarmpy dev compose-examples/{name}.yml" in comment

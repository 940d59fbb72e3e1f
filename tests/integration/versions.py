"""The swarmpy of an earlier commit beside the one that is tested."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from pathlib import Path

import attrs
import pytest

import swarmpy

REPOSITORY = Path(__file__).parents[2]
TESTED = Path(swarmpy.__file__).parents[1]
"""Where the swarmpy that is tested is imported from: the checkout, or site-packages under tox."""
MARK = "+previous"


@attrs.frozen
class Previous:
    """An earlier swarmpy, unpacked."""

    ref: str
    code: Path
    """To be put on the path."""
    schema: int
    """The newest schema version that it reads."""


def previous_version(directory: Path) -> Previous:
    """The commit ``SWARMPY_PREVIOUS`` (default: the one before), unpacked into ``directory``, its version marked.

    Without a history the test is skipped, and fails where nothing may be skipped.
    """
    ref = os.environ.get("SWARMPY_PREVIOUS") or "HEAD~1"
    archive = directory / "previous.tar"
    command = ["git", "-C", str(REPOSITORY), "archive", "-o", str(archive), ref, "swarmpy"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        reason = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        message = f"the code of {ref} cannot be had, give a commit in SWARMPY_PREVIOUS: {reason}"
        strict = any(os.environ.get(name) for name in ("CI", "SWARMPY_REQUIRE_ENGINE", "SWARMPY_PREVIOUS"))
        (pytest.fail if strict else pytest.skip)(message)
    code = directory / "previous"
    with tarfile.open(archive) as tar:
        tar.extractall(code, filter="data")
    package = code / "swarmpy"
    init = package / "__init__.py"
    marked, count = re.subn(r'__version__ = "([^"]+)"', rf'__version__ = "\1{MARK}"', init.read_text())
    assert count == 1, "its version is not where it used to be"
    init.write_text(marked)
    places = [package / "model" / name for name in ("schema.py", "codec.py")]
    text = "".join(place.read_text() for place in places if place.exists())
    found = re.search(r"^SCHEMA_VERSION = (\d+)$", text, re.MULTILINE)
    assert found is not None, "its schema version is not where it used to be"
    return Previous(ref=ref, code=code, schema=int(found.group(1)))

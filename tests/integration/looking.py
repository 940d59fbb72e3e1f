"""What is in a directory that a daemon is at work in: what vanishes while it is looked at is not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def paths_below(directory: Path) -> list[Path]:
    """Everything below it; nothing where there is no such directory."""
    return [Path(place, name) for place, directories, files in os.walk(directory) for name in (*directories, *files)]


def files_below(directory: Path) -> dict[Path, bytes]:
    """The regular files below it, and what is in them."""
    found = {}
    for path in paths_below(directory):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink():
                found[path] = path.read_bytes()
    return found

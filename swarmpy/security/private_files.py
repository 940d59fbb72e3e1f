"""Files and directories that nobody but their owner may use, whatever the umask of whoever started us."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

OTHERS_MAY_WRITE = 0o022
"""The bits of a mode by which somebody else than the owner can put something in the place of what is there."""


def make_private_directory(path: Path) -> None:
    """Make a directory for its owner only, if it is not there. What is missing above it others may pass through.

    Raises OSError, FileExistsError when something else is there.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in reversed(missing):
        with contextlib.suppress(FileExistsError):
            parent.mkdir(mode=0o755)
    path.mkdir(mode=0o700, exist_ok=True)


def append_privately(path: Path) -> BinaryIO:
    """Open a file to append to; one that is made is its owner's only. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def write_privately(path: Path, data: bytes) -> None:
    """Put a file of ``data``, its owner's only, in the place of what is there: whole or not at all, durably.

    Raises OSError.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

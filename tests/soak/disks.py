"""Small disks under the data directories of some managers, which can be filled up. Needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs

SIZE = "256m"
_BALLAST = "ballast"
_CHUNK = bytes(1 << 20)


@attrs.frozen
class SmallDisk:
    """A file system in memory, mounted on a data directory."""

    path: Path

    def mount(self) -> None:
        """Raises OSError where that is not allowed."""
        self.path.mkdir(mode=0o700)
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(self.path))

    def unmount(self) -> None:
        """What is on it is lost."""
        _run("umount", "--lazy", str(self.path))

    def fill(self) -> None:
        """Leave not a byte."""
        with (self.path / _BALLAST).open("ab", buffering=0) as file:
            size = len(_CHUNK)
            while size:
                try:
                    size = size if file.write(_CHUNK[:size]) else 0
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """Make room again."""
        (self.path / _BALLAST).unlink(missing_ok=True)


def possible(directory: Path) -> str:
    """Why no disk can be mounted; "" when one can."""
    if os.geteuid() != 0:
        return "small disks need root"
    disk = SmallDisk(directory / "trial")
    try:
        disk.mount()
    except OSError as error:
        return f"no small disk can be mounted: {error}"
    disk.unmount()
    disk.path.rmdir()
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")

"""A real file system of a megabyte, and a kernel that fails to sync: what a broken disk looks like from a process."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FSYNC = {"x86_64": (74, 75), "aarch64": (82, 83)}
"""The numbers of fsync and fdatasync."""
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def missing(what: str) -> None:
    """Skip, or fail where everything must run."""
    if os.environ.get("SWARMPY_REQUIRE_ENGINE"):
        pytest.fail(f"SWARMPY_REQUIRE_ENGINE is set, but {what}")
    pytest.skip(what)


class SmallDisk:
    """A tmpfs of a megabyte, mounted at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, leave: int = 0) -> None:
        """Take all room but ``leave`` bytes."""
        room = os.statvfs(self.path)
        with (self.path / "ballast").open("wb", buffering=0) as ballast:
            ballast.write(bytes(max(0, room.f_bavail * room.f_frsize - leave)))

    def free(self) -> None:
        """Make room again."""
        (self.path / "ballast").unlink()


@contextmanager
def mounted(path: Path, size: str = "1m") -> Iterator[SmallDisk]:
    """A small disk. Skips the test when it may not be mounted."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=False, capture_output=True, text=True
    )
    if done.returncode:
        missing(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", path], check=True)


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def fail_every_sync() -> None:
    """From now on the kernel answers EIO to fsync and fdatasync of the calling thread; see seccomp(2).

    It cannot be undone: the thread must end with the test.
    """
    numbers = _FSYNC.get(platform.machine())
    if numbers is None:
        raise OSError(f"the numbers of system calls on {platform.machine()} are not known here")
    steps = (
        _Instruction(_LOAD_NUMBER, 0, 0, 0),
        _Instruction(_JUMP_IF_EQUAL, 2, 0, numbers[0]),
        _Instruction(_JUMP_IF_EQUAL, 1, 0, numbers[1]),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _FAIL | errno.EIO),
    )
    program = _Program(len(steps), (_Instruction * len(steps))(*steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "system calls cannot be filtered here")

"""Mounting a file system in memory, and telling whether a directory is in one. Linux only; blocks for a moment."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
"""Of mount(2)."""
IN_MEMORY = frozenset({"tmpfs", "ramfs"})
OWN_NAMESPACE, FIRST_NAMESPACE = Path("/proc/self/ns/mnt"), Path("/proc/1/ns/mnt")
MOUNTS = Path("/proc/self/mountinfo")


def mount(path: Path, *, size: str) -> None:
    """Mount an empty tmpfs at ``path``, for its owner only, of ``size`` at most (a number of bytes, or a percentage).

    Its pages are never swapped out where the kernel can promise that (Linux 6.4). Raises OSError.
    """
    options = f"mode=0700,size={size}"
    try:
        _mount(path, f"{options},noswap")
    except OSError:
        _mount(path, options)


def unmount(path: Path) -> None:
    """Raises OSError, also while something in it is in use."""
    if _libc().umount2(os.fsencode(path), 0) != 0:
        raise _error(path)


def is_in_memory(path: Path) -> bool:
    """True when ``path`` is on a file system that no disk is behind, but for swap."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text().splitlines():
        # id, parent, major:minor, root, mount point, options, optional fields ..., "-", type, source, options
        fields, _, rest = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return rest.split(" ")[0] in IN_MEMORY
    return False


def mounts_are_seen_by_others() -> bool:
    """False when this process has mounts of its own, unlike the machine's first one: then no engine may see them."""
    try:
        return OWN_NAMESPACE.readlink() == FIRST_NAMESPACE.readlink()
    except OSError:
        # Nobody says so. An engine that does not see a file refuses to mount it.
        return True


def _mount(path: Path, options: str) -> None:
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if _libc().mount(b"swarmpy", os.fsencode(path), b"tmpfs", flags, options.encode()) != 0:
        raise _error(path)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
    libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
    return libc


def _error(path: Path) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path))

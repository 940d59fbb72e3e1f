"""Files that somebody else has named: a stack file its env files, a request a backup."""

from __future__ import annotations

import errno
import os
import stat


def open_regular(path: str, flags: int) -> int:
    """An opener (see :func:`open`) for nothing but plain files: never one that waits for a writer or a terminal.

    Raises OSError.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor

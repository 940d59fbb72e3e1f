"""``other_time.py CLOCK ARGUMENT...``: the swarmpy command with a wall clock of its own.

The file CLOCK holds how many nanoseconds it is ahead of the machine's; it is looked at each time. Monotonic clocks stay
as they are, and so does what no Python code asks for the time, as OpenSSL when it checks certificates. (libfaketime
would reach that too, but makes every timed wait of a thread spin, and with it the whole interpreter.)
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path


def use(clock: Path) -> None:
    """Let time.time and time.time_ns go by ``clock`` from now on."""
    with clock.open("rb") as file:
        offset = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    real = time.time_ns

    def time_ns() -> int:
        return real() + int(struct.unpack_from("<q", offset)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    use(Path(sys.argv.pop(1)))
    runpy.run_module("swarmpy", run_name="__main__", alter_sys=True)

"""Which layer the processor's time goes to: a sample every few milliseconds of it, named by the code that was running.

The signal of the timer is heard by the main thread, where the event loop is. Time of other threads (SQLite's, mostly)
is told from the whole by the clock of the main thread.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from types import FrameType

SAMPLE_S = 0.002
_LAYERS = (
    ("asyncio/sslproto.py", "TLS and sockets"),
    ("/ssl.py", "TLS and sockets"),
    ("asyncio/selector_events.py", "TLS and sockets"),
    ("selectors.py", "waiting for sockets"),
    ("swarmpy/model/", "encoding and decoding"),
    ("swarmpy/raft/encoding.py", "encoding and decoding"),
    ("swarmpy/wire/frames.py", "encoding and decoding"),
    ("swarmpy/wire/log", "log"),
    ("swarmpy/wire/", "connections"),
    ("swarmpy/raft/", "raft"),
    ("swarmpy/store/", "store"),
    ("swarmpy/manager/", "manager's loops"),
    ("swarmpy/control/", "manager's loops"),
    ("swarmpy/api/", "API"),
    ("aiohttp/", "HTTP server"),
    ("/asyncio/", "event loop"),
    ("tests/bench/", "the client"),
)


class Attribution:
    """Samples from its creation on, until :meth:`stop`."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()
        self._cpu, self._main = time.process_time(), time.thread_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        self._found[_layer_of(frame)] += 1

    def stop(self) -> dict[str, float]:
        """Seconds of processor time by layer."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        main, whole = time.thread_time() - self._main, time.process_time() - self._cpu
        total = max(1, sum(self._found.values()))
        seconds = {layer: main * count / total for layer, count in self._found.most_common()}
        return {**seconds, "other threads (SQLite, fsync)": whole - main}


def _layer_of(frame: FrameType | None) -> str:
    while frame is not None:
        file = frame.f_code.co_filename
        for part, layer in _LAYERS:
            if part in file:
                return layer
        frame = frame.f_back
    return "event loop"


async def attributed(seconds: float) -> dict[str, float]:
    """Sample for so long whatever goes on in this process."""
    attribution = Attribution()
    await asyncio.sleep(seconds)
    return attribution.stop()

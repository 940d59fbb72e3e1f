"""What the machine does at this moment: figures of two days are of two machines where a hypervisor shares it out."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from tests.bench.figures import emit, quantile

ADDITIONS = 1_000_000
SYNCS = 50


def machine() -> None:
    """The speed of plain Python on one core, and of the disk."""
    emit(bench="machine", python_additions_per_us=round(_additions_per_us(), 1), fdatasync_p50_ms=round(_sync_ms(), 2))


def _additions_per_us() -> float:
    best = float("inf")
    for _ in range(3):
        began, total = time.perf_counter(), 0
        for number in range(ADDITIONS):
            total += number
        best = min(best, time.perf_counter() - began)
    return ADDITIONS / best / 1e6


def _sync_ms() -> float:
    took = []
    with tempfile.TemporaryDirectory() as directory:
        file = os.open(Path(directory) / "file", os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            for _ in range(SYNCS):
                began = time.perf_counter()
                os.write(file, bytes(4096))
                os.fdatasync(file)
                took.append(time.perf_counter() - began)
        finally:
            os.close(file)
    return quantile(took, 0.5) * 1e3

"""Figures of a series, and how they are printed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any


def emit(**values: Any) -> None:
    """One result."""
    print(json.dumps(values), flush=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def distribution(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and most, in milliseconds."""
    return {
        "p50_ms": round(quantile(seconds, 0.5) * 1e3, 3),
        "p99_ms": round(quantile(seconds, 0.99) * 1e3, 3),
        "max_ms": round(max(seconds) * 1e3, 3),
    }


def summary(name: str, seconds: Sequence[float], **more: Any) -> None:
    """Median, least and most of a series."""
    emit(
        bench=name,
        runs=len(seconds),
        median_s=round(statistics.median(seconds), 3),
        min_s=round(min(seconds), 3),
        max_s=round(max(seconds), 3),
        **more,
    )

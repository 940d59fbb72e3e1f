"""Jobs in a cluster under faults, with an operator who executes them again; then peace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from film import Film
from loop import seeds
from universe import play


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    with Film().rolling():
        yield


@pytest.mark.parametrize("seed", seeds(5))
def test_jobs_survive(seed: int) -> None:
    """Never more than is asked for, neither at once nor in all; in the end exactly that has completed."""
    report = play(seed, world="jobs")
    assert Counter(report.checks)["jobs"] > 10

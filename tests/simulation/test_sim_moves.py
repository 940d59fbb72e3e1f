"""Nodes that are about to leave, and that change under their tasks, in a cluster under faults; then peace."""

from __future__ import annotations

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
def test_moves_survive(seed: int) -> None:
    """No law of the cluster is broken, and who may leave has nothing left."""
    report = play(seed, world="moves")
    assert report.operations["operator: done"] > 0

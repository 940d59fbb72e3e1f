"""Secrets, configs and their versions in a cluster under faults, with an operator who changes them; then peace."""

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
def test_versions_survive(seed: int) -> None:
    """Services follow once, go back where they were, and lose nothing that they need; nothing else is left over."""
    report = play(seed, world="secrets")
    assert Counter(report.checks)["versions"] > 10

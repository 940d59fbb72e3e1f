"""Decisions of the small worlds here are made in slices so short that everything is interleaved."""

from __future__ import annotations

import pytest

from swarmpy.control import orchestrator


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots at a time, one of which is changed."""
    monkeypatch.setattr(orchestrator, "SLICE_SLOTS", 2)
    monkeypatch.setattr(orchestrator, "SLICE_TASKS", 1)

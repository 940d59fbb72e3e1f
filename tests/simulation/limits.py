"""Bounds of the product, made small in some universes, so that a log of a few entries gets to them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

SMALL: dict[tuple[str, str], tuple[int, ...]] = {
    ("swarmpy.raft.replication", "MAX_APPEND_ENTRIES"): (1, 3),
    ("swarmpy.raft.progress", "MAX_INFLIGHT_MESSAGES"): (1, 4),
    ("swarmpy.raft.core", "MAX_APPLY_ENTRIES"): (1, 3),
    ("swarmpy.raft.core", "MAX_UNAPPLIED_ENTRIES"): (1, 5),
    ("swarmpy.raft.core", "MAX_UNCOMMITTED_ENTRIES"): (3, 20),
    ("swarmpy.raft.core", "MAX_UNCOMMITTED_BYTES"): (500, 5000),
    ("swarmpy.raft.state", "MAX_QUEUED_MESSAGES"): (8, 40),
    ("swarmpy.raft.inbox", "MAX_MESSAGES"): (8, 40),
    ("swarmpy.raft.reads", "MAX_PENDING_READS"): (1, 5),
    ("swarmpy.raft.duties", "APPLY_SLICE"): (1, 2),
    ("swarmpy.raft.transfer", "CHUNK_BYTES"): (300, 3000),
    ("swarmpy.store.snapshot", "SLICE_OBJECTS"): (1, 10),
    ("swarmpy.manager.messages", "PART_BYTES"): (1, 8000),
}
"""(module, constant): what it may become."""
SLICES: dict[tuple[str, str], tuple[int, ...]] = {
    ("swarmpy.control.orchestrator", "SLICE_SLOTS"): (1, 2, 3),
    ("swarmpy.control.orchestrator", "SLICE_TASKS"): (1, 2, 3),
    ("swarmpy.manager.reconcile", "KEPT_TASKS"): (0, 0, 2),
    ("swarmpy.manager.reconcile", "READ_SLICE"): (1, 2),
    ("swarmpy.manager.reconcile", "STEPS"): (1, 2),
    ("swarmpy.control.allocator", "SLICE_TASKS"): (1, 2),
    ("swarmpy.manager.reconcile", "TURN_SLICES"): (1, 2, 8),
}
"""Those of decisions, which are all small in every other universe: else no service there is ever decided in parts."""
LIKELY = 0.3
"""How likely each of them is small, in a universe that has small ones."""


@contextmanager
def small_limits(seed: int) -> Iterator[dict[str, int]]:
    """In every other universe some bounds are small. Yields which; all are as before at the end."""
    random = Random(f"the limits of universe {seed}")
    drawn: dict[tuple[str, str], int] = {}
    before: dict[tuple[str, str], int] = {}
    if random.random() < 0.5:
        drawn = {name: random.choice(values) for name, values in SMALL.items() if random.random() < LIKELY}
    slicing = Random(f"the slices of universe {seed}")
    if slicing.random() < 0.5:
        drawn |= {name: slicing.choice(values) for name, values in SLICES.items()}
    try:
        for (module, constant), value in drawn.items():
            owner = importlib.import_module(module)
            before[module, constant] = getattr(owner, constant)
            setattr(owner, constant, value)
        yield {f"{module.rpartition('.')[2]}.{constant}": value for (module, constant), value in drawn.items()}
    finally:
        for (module, constant), value in before.items():
            setattr(importlib.import_module(module), constant, value)

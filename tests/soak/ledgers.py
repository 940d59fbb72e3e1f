"""The Raft logs of managers that have stopped: each must be sound, and where two have an entry it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from swarmpy.errors import SwarmpyError
from swarmpy.node.raft_verification import Outcome, verify
from swarmpy.node.stopped_raft import stopped_log

TOLD = 5


def verified(name: str, data_dir: Path) -> list[str]:
    """What ``swarmpy raft verify`` says against the log in ``data_dir``."""
    try:
        found = list(verify(data_dir))
    except SwarmpyError as error:
        return [f"the log of {name} cannot be verified: {error}"]
    return [f"the log of {name}: {one.check}: {one.text}" for one in found if one.outcome is not Outcome.OK]


Log = Mapping[int, tuple[object, ...]]
"""What an entry is, by index; only committed ones."""


def differences(logs: Mapping[str, Log]) -> list[str]:
    """Entries that are committed on two managers and are not the same."""
    found: list[str] = []
    seen: dict[int, tuple[str, tuple[object, ...]]] = {}
    for name, log in logs.items():
        for index, entry in log.items():
            other, known = seen.setdefault(index, (name, entry))
            if known != entry:
                found.append(f"entry {index} is {known} on {other} and {entry} on {name}")
    return found[:TOLD]


def differing_logs(directories: Mapping[str, Path]) -> list[str]:
    """As :func:`differences`, of data directories."""
    logs = {}
    for name, directory in directories.items():
        with stopped_log(directory) as log:
            commit = log.hard_state().state.commit
            logs[name] = {
                entry.index: (entry.term, entry.kind, hashlib.sha256(entry.data).hexdigest())
                for entry in log.entries(None)
                if entry.index <= commit
            }
    return differences(logs)

"""What an agent has on its disk while it runs: what it will know after a kill -9."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from swarmpy.agent.local import Remembered
from swarmpy.agent.local_database import LocalDatabase
from swarmpy.node.datadir import DataDir


def remembered(data_dir: Path) -> Remembered:
    """As of the last time that it wrote something down; of an agent that is writing just now, an AssertionError."""
    path = DataDir(data_dir).agent / "state.db"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            return LocalDatabase(path)._read(db)
    except sqlite3.OperationalError as error:
        raise AssertionError(str(error)) from None

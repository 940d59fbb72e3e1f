"""``python -m tests.soak``: real daemons under random faults, for as long as you like. See docs/testing.md."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).parent
    sys.path[:0] = [str(here), str(here.parent / "simulation")]
    from course import main

    sys.exit(main(sys.argv[1:]))

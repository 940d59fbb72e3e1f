"""``python -m tests.simulation``: many universes and a summary, or one of them as a film. See docs/testing.md."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from batch import main

    sys.exit(main(sys.argv[1:]))

"""``python -m swarmpy``."""

from __future__ import annotations

import sys

from swarmpy.cli.main import main

sys.exit(main())

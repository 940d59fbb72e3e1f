"""``python -m tests.audit``: are there known vulnerabilities in what swarmpy needs? Asked of osv.dev by pip-audit.

Looked up is every package that the installed swarmpy requires, directly or not, in the version that is installed here;
the tools of the tests are not. The exit code is 1 when a vulnerability is known, or when the answer is no answer.

Where the database cannot be reached at all (no name, no route, no connection, nothing said in time), that is told in a
line that begins with SKIPPED, and the exit code is 0; with SWARMPY_REQUIRE_AUDIT=1 it is 1. All of it takes
two minutes at most.
"""

from __future__ import annotations

import argparse
import sys

from tests.audit.vulnerabilities import OSV, main

parser = argparse.ArgumentParser(
    prog="python -m tests.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--osv-url", default=OSV, help="another database of the same form")
sys.exit(main(parser.parse_args().osv_url))

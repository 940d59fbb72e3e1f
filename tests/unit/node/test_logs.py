"""What is written to the log: whatever others say in it, a line is a line."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import subprocess
import sys

from swarmpy.node.logs import LIBRARY_LINES, FewOfAKind

SCRIPT = """
import logging, structlog
from swarmpy.node import logs
logs.configure("info")
log = structlog.get_logger("x")
log.warning("refused", method="a\\x1b[2J\\r\\nevil=1 level=error\\u202e", address="é 1")
log.warning("long", reason="x" * 100_000)
for number in range(1000):
    logging.getLogger("asyncio").warning("SSL connection is closed")
logging.getLogger("asyncio").warning("another one")
try:
    raise ZeroDivisionError("by design")
except ZeroDivisionError:
    log.exception("defect")
"""


def test_texts_of_others_do_nothing_to_the_log() -> None:
    """Control characters are written out, long texts cut, and what libraries say again and again is left out."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert 'event=refused method="a' in lines[0]
    assert "nevil=1 level=error" in lines[0]
    assert lines[0].endswith(' address="é 1"')
    assert len(lines[1]) < 1200
    assert lines.count("WARNING asyncio: SSL connection is closed") == int(LIBRARY_LINES.burst)
    assert "WARNING asyncio: another one" in lines
    assert "ZeroDivisionError: by design" in done.stderr
    assert not {"\x1b", "\r", "\u202e"} & set(done.stderr)


LEAK = """
from swarmpy.node import logs
import structlog
logs.configure("info")
def fails():
    password = "hunter2-planted"
    raise ZeroDivisionError("by design")
try:
    fails()
except ZeroDivisionError:
    structlog.get_logger("x").exception("defect")
"""


def test_a_defect_on_a_terminal_shows_no_values() -> None:
    """A traceback for a person has the lines of the code, and not what the variables were."""
    terminal, end = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", LEAK], stderr=end)
    os.close(end)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while data := os.read(terminal, 65536):
            said += data
    os.close(terminal)
    assert done.wait(10) == 0
    assert b"by design" in said
    assert b"Traceback" in said
    assert b"hunter2-planted" not in said


def test_library_lines_come_again_after_a_while() -> None:
    """One kind of line does not hide another, nor itself for ever; what is in it does not make it another kind."""
    now = 0.0
    few = FewOfAKind(lambda: now)

    def passes(text: str, *values: object) -> bool:
        return few.filter(logging.LogRecord("asyncio", logging.WARNING, "", 0, text, values, None))

    assert sum(passes("closed %s", number) for number in range(100)) == LIBRARY_LINES.burst
    assert passes("other")
    now = 1 / LIBRARY_LINES.per_s
    assert [passes("closed %s", 0), passes("closed %s", 0)] == [True, False]

"""Where log lines go: structlog to standard error, for people on a terminal and as key=value lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

import structlog

from swarmpy.model.rates import Buckets, Rate

LIBRARY_LINES = Rate(burst=10, per_s=0.1)
MAX_KINDS = 256
MAX_KIND_CHARS = 100
MAX_TEXT_CHARS = 1000
"""Of one text in a line, but for tracebacks."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str = "info") -> None:
    """Send log lines of ``level`` (a key of :data:`LEVELS`) and above to standard error."""
    on_terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        # Not the renderer's own choice, which shows what the functions' variables are: secrets, perhaps.
        structlog.dev.ConsoleRenderer(pad_event_to=28, exception_formatter=structlog.dev.plain_traceback)
        if on_terminal
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _shown,
            structlog.processors.format_exc_info if not on_terminal else _keep,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that log through the standard library say only what is wrong.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(FewOfAKind(time.monotonic))


class FewOfAKind(logging.Filter):
    """Lets so many lines of one kind through: what a library complains of, a peer may have brought about."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._buckets: Buckets[tuple[str, str]] = Buckets(LIBRARY_LINES, most=MAX_KINDS)

    def filter(self, record: logging.LogRecord) -> bool:
        """True for a line that is to be written."""
        now = self._clock()
        # The text without its values: not what is in it, but what it is about.
        return self._buckets.of((record.name, str(record.msg)[:MAX_KIND_CHARS]), now).take(now)


def _shown(
    _logger: structlog.typing.WrappedLogger, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Texts of others are short, and do nothing to the terminal that shows them."""
    for name, value in event.items():
        if isinstance(value, str) and (len(value) > MAX_TEXT_CHARS or not value.isprintable()):
            event[name] = "".join(c if c.isprintable() else _escaped(c) for c in value[:MAX_TEXT_CHARS])
    return event


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _keep(
    _logger: structlog.typing.WrappedLogger, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return event

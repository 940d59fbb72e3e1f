"""The command line's entry: the top group, the global options, and the one place where errors become exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO, TypeGuard, cast

import click

from swarmpy import __version__
from swarmpy.cli.lazy import LazyGroup
from swarmpy.cli.settings import LOG_LEVELS, make_settings
from swarmpy.errors import SwarmpyError
from swarmpy.model.grammar import printable

EXIT_INTERRUPTED = 130
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_BROKEN_PIPE = 141
EXIT_OUTPUT = 74  # EX_IOERR, as for every disk that is full
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)

_COMMANDS = {
    "status": ("swarmpy.cli.status:status", "Show the cluster at a glance"),
    "stack": ("swarmpy.cli.stack:stack", "Deploy and manage stacks of services"),
    "service": ("swarmpy.cli.service:service", "Manage services"),
    "task": ("swarmpy.cli.task:task", "Look into tasks, and read their logs"),
    "secret": ("swarmpy.cli.data:secret", "Manage secrets"),
    "config": ("swarmpy.cli.data:config", "Manage configs"),
    "node": ("swarmpy.cli.node:node", "Manage nodes; join and run this one"),
    "swarm": ("swarmpy.cli.swarm:swarm", "Create, change, back up, restore or leave a cluster"),
    "audit": ("swarmpy.cli.audit:audit", "Show who asked this node's API for what"),
    "raft": ("swarmpy.cli.raft:raft", "Look into the Raft log of a stopped manager"),
    "dev": ("swarmpy.cli.dev:dev", "Run a whole cluster on this machine"),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-H", "--socket", "--host", "host", envvar="SWARMPY_HOST", metavar="PATH", help="The daemon's unix socket."
)
@click.option(
    "--api",
    envvar="SWARMPY_API",
    metavar="HOST[:PORT]",
    help="A manager's API over TLS instead, as its --api-addr opens it.",
)
@click.option(
    "--cert-dir",
    envvar="SWARMPY_CERT_DIR",
    metavar="DIR",
    help="The client certificate for --api: ca.pem, cert.pem, key.pem  [default: DOCKER_CERT_PATH, or ~/.docker].",
)
@click.option(
    "--data-dir",
    metavar="DIR",
    help="Where the node keeps its state  [default: SWARMPY_DATA_DIR, or /var/lib/swarmpy for root, or "
    "~/.local/share/swarmpy].",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="For daemons.")
@click.version_option(__version__, prog_name="swarmpy", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    host: str | None,
    api: str | None,
    cert_dir: str | None,
    data_dir: str | None,
    log_level: str,
) -> None:
    """A Swarm-style container cluster manager."""
    if host and api:
        raise click.UsageError("--host and --api are two daemons: give one of them")
    ctx.obj = make_settings(data_dir, host, log_level, api=api, cert_dir=cert_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code. No error leaves a traceback unless SWARMPY_DEBUG=1."""
    _open_closed_streams()
    try:
        code = cli.main(args=None if argv is None else list(argv), prog_name="swarmpy", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader of our output has gone: when click meets that it wants to exit, and at nothing else.
        _discard_output()
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, a user gets one line
        if _is_of_output(error):
            _discard_output()
            click.echo(f"swarmpy: cannot write the output: {error.strerror}", err=True)
            return EXIT_OUTPUT
        return _report(error)
    return code if isinstance(code, int) else 0


def _open_closed_streams() -> None:
    """Standard streams that the caller has closed (``>&-``) are empty, or swallow what is written to them."""
    # In this order, so that each gets the descriptor that is its own, and no socket gets it.
    sys.stdin = sys.stdin or _nothing(os.O_RDONLY, "r")
    sys.stdout = sys.stdout or _nothing(os.O_WRONLY, "w")
    sys.stderr = sys.stderr or _nothing(os.O_WRONLY, "w")


def _nothing(flags: int, mode: str) -> TextIO:
    # Not closed with the object, as Python's own are not: it warns of files that are still open at exit.
    return cast("TextIO", open(os.open(os.devnull, flags), mode, encoding="utf-8", closefd=False))


def _is_of_output(error: Exception) -> TypeGuard[OSError]:
    """True where standard output takes no more. Whoever writes a file tells of its errors by its name."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _NOT_WRITTEN


def _discard_output() -> None:
    """Python would complain when it flushes at exit what nobody takes."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception) -> int:
    if os.environ.get("SWARMPY_DEBUG") == "1":
        traceback.print_exception(error)
    causes = _leaves(error)
    cause = next((leaf for leaf in causes if isinstance(leaf, SwarmpyError)), causes[0])
    if isinstance(cause, SwarmpyError):
        click.echo(f"swarmpy: {printable(' '.join(cause.message.split())) or cause.code}", err=True)
        return cause.exit_code
    text = printable(" ".join(str(cause).split()))
    click.echo(
        f"swarmpy: unexpected {type(cause).__name__}{': ' if text else ''}{text} "
        "(this is a defect; SWARMPY_DEBUG=1 shows where)",
        err=True,
    )
    return EXIT_INTERNAL


def _leaves(error: BaseException) -> list[BaseException]:
    """What went wrong in work that was done side by side."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]

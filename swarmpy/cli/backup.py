"""``swarm backup`` and ``swarm restore``: the state of a cluster in a file, and a cluster brought back from one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from swarmpy.cli.client import DEFAULT_TIMEOUT, ApiClient
from swarmpy.cli.daemon import JOIN_TIMEOUT_S, with_daemon
from swarmpy.cli.daemon_options import advertise_option, daemon_options, listen_option
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.cli.swarm_lock import read_unlock_key
from swarmpy.errors import AlreadyExists, InvalidArgument, StorageError, SwarmpyError
from swarmpy.model.grammar import printable
from swarmpy.store.backup import Header, Reader

PROBE_S = 10.0
"""Restoring asks the managers of the backup, a few at a time, and those that are gone may take seconds."""


@click.command("backup", short_help="Write the whole state of the cluster to a file")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-f", "--force", is_flag=True, help="Replace FILE if it is there.")
@data_dir_option
@pass_settings
def swarm_backup(settings: Settings, file: Path, force: bool) -> None:
    """Write the whole state of the cluster to FILE ("-": standard output), as of one moment.

    It holds every secret of the cluster: the key of its CA, the join tokens, the environment of services. Keep it as
    safe as the key of a house. With autolock it is sealed: only the unlock key of now opens it, so keep that, too.
    """
    asyncio.run(_back_up(settings, file, force=force))


@click.command("restore", short_help="Bring a cluster back from its backup")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only check FILE, and show what is in it.")
@click.option("-f", "--force", is_flag=True, help="Although managers of that cluster answer: they count no more then.")
@click.option(
    "--unlock-key-file",
    type=click.Path(path_type=Path),
    metavar="KEY_FILE",
    help="Where the unlock key of a sealed backup is; without it the key is asked for, or read from standard input.",
)
@listen_option
@advertise_option
@daemon_options
@data_dir_option
@pass_settings
def swarm_restore(
    settings: Settings,
    file: Path,
    check: bool,
    force: bool,
    unlock_key_file: Path | None,
    listen_addr: str,
    advertise_addr: str,
    **daemon: Any,
) -> None:
    """Bring the cluster in FILE back, with this machine as its only manager.

    The daemon on this machine must be in no cluster; where none runs, one is started.
    """
    from swarmpy.node.clock import SystemClock
    from swarmpy.node.restoring import read_backup, read_header

    header = read_header(file)
    if check and header.sealed and unlock_key_file is None:
        click.echo(_described(header))
        click.echo("verdict: whole; it is sealed, and without --unlock-key-file nothing in it was looked at")
        return
    key = read_unlock_key(unlock_key_file) if header.sealed else None
    read_backup(file, SystemClock(), key)
    if check:
        click.echo(_described(header))
        click.echo("verdict: sound")
        return

    body = {
        "File": str(file.absolute()),
        "ListenAddr": listen_addr,
        "AdvertiseAddr": advertise_addr,
        "Force": force,
        **({} if key is None else {"UnlockKey": key.text}),
    }

    async def restore(client: ApiClient) -> None:
        node_id = await client.post("/swarm/restore", body, timeout=JOIN_TIMEOUT_S + PROBE_S)
        click.echo(_described(header))
        click.echo(f"Swarm restored: current node ({node_id}) is now its only manager.")

    with_daemon(settings, restore, **daemon)


def _described(header: Header) -> str:
    taken = datetime.fromtimestamp(header.time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    holds = ", ".join(f"{count} {kind}" for kind, count in header.holds.items())
    return "\n".join(
        printable(line)
        for line in (
            f"cluster   {header.cluster_id}",
            f"taken     {taken}, by swarmpy {header.swarmpy}",
            f"state     at index {header.index}, term {header.term}",
            f"holds     {holds}, and the secrets of the cluster",
            f"managers  {', '.join(manager.address for manager in header.managers)}",
        )
    )


async def _back_up(settings: Settings, file: Path, *, force: bool) -> None:
    async with ApiClient(settings.endpoint) as client:
        if str(file) == "-":
            if sys.stdout.isatty():
                raise InvalidArgument("a backup is binary and full of secrets: do not send it to a terminal")
            await _copy(client.stream("/swarm/backup", silence=DEFAULT_TIMEOUT), sys.stdout.buffer, "standard output")
            return
        _check_target(file, force=force)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with _new_file(temporary) as out:
                header, size = await _copy(client.stream("/swarm/backup", silence=DEFAULT_TIMEOUT), out, str(file))
                _sync(out, file)
            _check_target(file, force=force)
            _put_in_place(temporary, file)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    click.echo(_described(header))
    sealed = " It is sealed: only the swarm's unlock key of now opens it." if header.sealed else ""
    click.echo(f"{file}: {size} bytes. It holds the key of the cluster's CA and all its secrets: keep it safe.{sealed}")


def _check_target(file: Path, *, force: bool) -> None:
    try:
        is_directory, has_parent = file.is_dir(), file.parent.is_dir()
        is_there = file.exists() or file.is_symlink()
    except OSError as error:
        raise InvalidArgument(f"cannot write {file}: {error.strerror}") from error
    if is_directory:
        raise InvalidArgument(f"{file} is a directory: give the name of a file")
    if not has_parent:
        raise InvalidArgument(f"there is no directory {file.parent}")
    if not force and is_there:
        raise AlreadyExists(f"{file} exists already: give another name, or --force to replace it")


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    try:
        out = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise InvalidArgument(f"cannot write in {path.parent}: {error.strerror}") from error
    try:
        yield out
    finally:
        # A file whose disk is full tries to write the rest once more. What counts was synced before, or has failed.
        with contextlib.suppress(OSError):
            out.close()


async def _copy(pieces: AsyncIterator[bytes], out: BinaryIO, name: str) -> tuple[Header, int]:
    """Copy a backup and check it on the way; what was copied is good only if this returns."""
    reader, size = Reader(), 0
    async for piece in pieces:
        for _ in reader.feed(piece):
            pass
        size += len(piece)
        try:
            out.write(piece)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _cannot_write(name, error) from error
    header = reader.finish()
    return header, size


def _sync(out: BinaryIO, file: Path) -> None:
    try:
        out.flush()
        os.fsync(out.fileno())
    except OSError as error:
        raise _cannot_write(str(file), error) from error


def _put_in_place(temporary: Path, file: Path) -> None:
    try:
        temporary.replace(file)
        descriptor = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _cannot_write(str(file), error) from error


def _cannot_write(name: str, error: OSError) -> SwarmpyError:
    return StorageError(f"cannot write the backup to {name}: {error.strerror}; nothing was left there")

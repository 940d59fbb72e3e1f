"""``swarm client-cert``: who may use the API over TCP. Keys are made here and stay here."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.endpoint import CA_FILE, CERT_FILE, KEY_FILE
from swarmpy.cli.render import Listing, format_option, show
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.compose.units import parse_duration
from swarmpy.errors import AlreadyExists, InvalidArgument, StorageError
from swarmpy.model.states import ApiRole
from swarmpy.security.identity import new_key_and_csr
from swarmpy.security.private_files import make_private_directory

ROLES = [str(role) for role in ApiRole]


def _expiry(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int:
    try:
        return 0 if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("client-cert", short_help="Make, list and revoke certificates for the API over TCP")
@click.argument("name", required=False)
@click.option("--role", type=click.Choice(ROLES), help="An admin may do everything, a viewer only look.")
@click.option("--expiry", callback=_expiry, metavar="DURATION", help="How long it is valid  [default: 2160h].")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write the certificate and its key."
)
@click.option("-f", "--force", is_flag=True, help="Replace the files that are in DIR.")
@click.option("--revoke", metavar="SERIAL|NAME", help="Take a certificate back, or all of a name.")
@click.option("--ls", "lists", is_flag=True, help="Show the certificates that count.")
@format_option
@data_dir_option
@pass_settings
def client_cert(
    settings: Settings,
    name: str | None,
    role: str | None,
    expiry: int,
    out: Path | None,
    force: bool,
    revoke: str | None,
    lists: bool,
    output_format: str,
) -> None:
    """Let NAME use the API over TCP (--api-addr), with a certificate for the docker command or this one.

    DIR gets ca.pem, cert.pem and key.pem, as docker's DOCKER_CERT_PATH has them. With --revoke or --ls nothing is
    made.
    """
    if sum(choice is not None and choice is not False for choice in (name, revoke, lists)) != 1:
        raise click.UsageError("give a NAME, or --revoke, or --ls")
    if revoke is not None:
        asyncio.run(_revoke(settings, revoke))
    elif lists:
        show(asyncio.run(_listing(settings)), output_format)
    elif name is not None:
        if role is None or out is None:
            raise click.UsageError("a certificate needs --role and --out")
        asyncio.run(_make(settings, {"Name": name, "Role": role, "Expiry": expiry}, out, force=force))


async def _revoke(settings: Settings, reference: str) -> None:
    async with ApiClient(settings.endpoint) as client:
        await client.remove_client(reference)
    click.echo(f"{reference} is revoked.")


async def _listing(settings: Settings) -> Listing:
    async with ApiClient(settings.endpoint) as client:
        clients = await client.clients()
    return Listing(
        headings=("SERIAL", "NAME", "ROLE", "CREATED", "EXPIRES"),
        rows=tuple(
            (c["ID"], c["Name"], c["Role"], _seconds(c["CreatedAt"]), _seconds(c["ExpiresAt"])) for c in clients
        ),
    )


def _seconds(time: str) -> str:
    return f"{time[:19]}Z"


async def _make(settings: Settings, body: dict[str, Any], directory: Path, *, force: bool) -> None:
    key_pem, csr_pem = new_key_and_csr()
    # What cannot be written is to be known before there is a certificate that nobody has the key of.
    _prepare(directory, key_pem, force=force)
    try:
        async with ApiClient(settings.endpoint) as client:
            made = await client.create_client({**body, "CSR": csr_pem.decode()})
        _put(directory, {CA_FILE: made["CA"].encode(), CERT_FILE: made["Certificate"].encode()})
    finally:
        with contextlib.suppress(OSError):
            _new(directory, KEY_FILE).unlink(missing_ok=True)
    click.echo(f"{directory}: the certificate of {body['Name']} ({body['Role']}), serial {made['ID']}, and its key.")


def _prepare(directory: Path, key_pem: bytes, *, force: bool) -> None:
    if not force and (taken := [name for name in (CA_FILE, CERT_FILE, KEY_FILE) if (directory / name).exists()]):
        raise AlreadyExists(f"{directory / taken[0]} exists already: name another directory, or --force to replace it")
    try:
        make_private_directory(directory)
        _write(_new(directory, KEY_FILE), key_pem)
    except OSError as error:
        raise InvalidArgument(f"cannot write in {directory}: {error.strerror}") from error


def _put(directory: Path, files: dict[str, bytes]) -> None:
    """Put the files in place; the key last, which makes a set of them."""
    try:
        for name, data in files.items():
            _write(_new(directory, name), data)
            _new(directory, name).replace(directory / name)
        _new(directory, KEY_FILE).replace(directory / KEY_FILE)
    except OSError as error:
        raise StorageError(f"cannot write in {directory}: {error.strerror}; the certificate is of no use") from error


def _new(directory: Path, name: str) -> Path:
    return directory / f".{name}.{os.getpid()}.tmp"


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())

"""``swarmpy secret`` and ``swarmpy config``: create, list, look into, change and remove them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import click

from swarmpy.cli import data_listings
from swarmpy.cli.client import ApiClient
from swarmpy.cli.data_client import DataClient
from swarmpy.cli.node import parse_labels
from swarmpy.cli.progress import make_view, unfinished, wait_for_services
from swarmpy.cli.render import format_option, quiet_option, show, show_ids, show_json
from swarmpy.cli.settings import SECONDS, Settings, pass_settings
from swarmpy.errors import InvalidArgument, SwarmpyError
from swarmpy.model.data_checks import GOLANG, MAX_CONFIG_BYTES, MAX_SECRET_BYTES

FOLLOW_TIMEOUT_S = 300.0
_STANDARD_INPUT = "-"


@attrs.frozen(kw_only=True)
class _Word:
    """One of both kinds."""

    name: str
    most_bytes: int

    def client(self, client: ApiClient) -> DataClient:
        """Asks for this kind."""
        return DataClient(client, self.name)


SECRET = _Word(name="secret", most_bytes=MAX_SECRET_BYTES)
CONFIG = _Word(name="config", most_bytes=MAX_CONFIG_BYTES)

_label_option = click.option("-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
_template_option = click.option(
    "--template-driver", type=click.Choice([GOLANG]), help="The data is a template: placeholders are replaced."
)


def _group(word: _Word) -> click.Group:
    group = click.Group(word.name, help=f"Manage {word.name}s.")
    for make in (_create, _ls, _inspect, _update, _rm):
        group.add_command(make(word))
    return group


def read_data(file: str, most_bytes: int) -> bytes:
    """What is in a file, or on standard input for ``-``. Raises InvalidArgument: it cannot be read, or is too large."""
    shown = "standard input" if file == _STANDARD_INPUT else file
    try:
        if file == _STANDARD_INPUT:
            data = sys.stdin.buffer.read(most_bytes + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidArgument(f"{shown}: cannot be read: {reason}") from error
    if len(data) > most_bytes:
        raise InvalidArgument(f"{shown}: it has more than {most_bytes} bytes")
    return data


def _create(word: _Word) -> click.Command:
    @click.command("create", help=f"Create a {word.name} from FILE, or from standard input as -.")
    @_label_option
    @_template_option
    @click.argument("name")
    @click.argument("file")
    @pass_settings
    def create(settings: Settings, labels: tuple[str, ...], template_driver: str | None, name: str, file: str) -> None:
        data = read_data(file, word.most_bytes)

        async def work() -> None:
            async with ApiClient(settings.endpoint) as client:
                click.echo(
                    await word.client(client).create(name, data, labels=parse_labels(labels), template=template_driver)
                )

        asyncio.run(work())

    return create


def _ls(word: _Word) -> click.Command:
    @click.command("ls", help=f"List {word.name}s.")
    @format_option
    @quiet_option
    @click.option(
        "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="id, name, names or label; repeatable."
    )
    @pass_settings
    def ls(settings: Settings, output_format: str, quiet: bool, filters: tuple[str, ...]) -> None:
        wanted: dict[str, list[str]] = {}
        for text in filters:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise InvalidArgument(f"{text!r} is not KEY=VALUE")
            wanted.setdefault(key, []).append(value)

        async def work() -> None:
            async with ApiClient(settings.endpoint) as client:
                found = await word.client(client).list(wanted)
                if quiet:
                    show_ids(found)
                else:
                    show(data_listings.listing(found, now=datetime.now(UTC)), output_format)

        asyncio.run(work())

    return ls


def _inspect(word: _Word) -> click.Command:
    but = " but their data" if word.name == "secret" else ""

    @click.command("inspect", help=f"Show all about {word.name}s{but}: as JSON, or --pretty.")
    @click.option("--pretty", is_flag=True, help="For people.")
    @click.argument("names", nargs=-1, required=True, metavar=f"{word.name.upper()}...")
    @pass_settings
    def inspect(settings: Settings, pretty: bool, names: tuple[str, ...]) -> None:
        async def work() -> None:
            async with ApiClient(settings.endpoint) as client:
                found = [await word.client(client).get(name) for name in names]
                if pretty:
                    click.echo("\n\n".join(data_listings.pretty(item) for item in found))
                else:
                    show_json(found)

        asyncio.run(work())

    return inspect


def _rm(word: _Word) -> click.Command:
    @click.command("rm", help=f"Remove {word.name}s, with all their versions.")
    @click.argument("names", nargs=-1, required=True, metavar=f"{word.name.upper()}...")
    @pass_settings
    def rm(settings: Settings, names: tuple[str, ...]) -> None:
        async def work() -> None:
            last: SwarmpyError | None = None
            async with ApiClient(settings.endpoint) as client:
                for name in names:
                    try:
                        await word.client(client).remove(name)
                        click.echo(name)
                    except SwarmpyError as error:
                        if last is not None:
                            click.echo(f"swarmpy: {last}", err=True)
                        last = error
            if last is not None:
                raise last

        asyncio.run(work())

    return rm


# -- update -----------------------------------------------------------------------------------------------------------


def _update(word: _Word) -> click.Command:
    @click.command(
        "update",
        help=f"Give a {word.name} other labels, or the data of FILE (- is standard input): a new version, to which the "
        "services that use it are updated.",
        short_help=f"Give a {word.name} other labels or a new version",
    )
    @click.option("--label-add", "added", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
    @click.option("--label-rm", "removed", multiple=True, metavar="KEY", help="May be repeated.")
    @_template_option
    @click.option("-d", "--detach", is_flag=True, help="Do not wait until the services run with it.")
    @click.option("--timeout", type=SECONDS, default=FOLLOW_TIMEOUT_S, show_default=True, help="Seconds.")
    @click.argument("name")
    @click.argument("file", required=False)
    @pass_settings
    def update(
        settings: Settings,
        added: tuple[str, ...],
        removed: tuple[str, ...],
        template_driver: str | None,
        detach: bool,
        timeout: float,
        name: str,
        file: str | None,
    ) -> None:
        if file is None and template_driver:
            raise click.UsageError("--template-driver is about the data: give FILE, too")
        if not (file or added or removed):
            raise click.UsageError("nothing to change: give FILE, --label-add or --label-rm")
        data = None if file is None else read_data(file, word.most_bytes)

        async def work() -> None:
            async with ApiClient(settings.endpoint) as client:
                of_word = word.client(client)
                if added or removed:
                    await of_word.change_labels(name, parse_labels(added), removed)
                if data is None:
                    click.echo(name)
                    return
                waited_for = await new_version(client, of_word, name, data, template=template_driver)
                if waited_for and not detach:
                    with unfinished('The update goes on without you: "swarmpy service ls" shows how far it is.'):
                        await wait_for_services(client, waited_for, view=make_view(), timeout=timeout)

        asyncio.run(work())

    return update


async def new_version(
    client: ApiClient, of_word: DataClient, name: str, data: bytes, *, template: str | None
) -> dict[str, Mapping[str, Any] | None]:
    """Makes a new version and says so; returns the services that follow, with their UpdateStatus from before."""
    before = await of_word.get(name)
    users = sorted({service for version in before.get("Versions", ()) for service in version.get("Services") or ()})
    services = [await client.service(user) for user in users]
    made = await of_word.new_version(name, data, template=template)
    if made["ID"] == before["ID"]:
        click.echo(f"{name} has this data already: it is version {made['Number']}")
        return {}
    follow = f": {data_listings.counted(users, 'service')} {'follows' if len(users) == 1 else 'follow'}"
    click.echo(f"{name} is version {made['Number']} now{f'{follow} ({data_listings.some(users)})' if users else ''}")
    return {service["ID"]: service.get("UpdateStatus") or {} for service in services}


secret = _group(SECRET)
config = _group(CONFIG)

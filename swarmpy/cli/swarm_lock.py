"""``swarm unlock`` and ``swarm unlock-key``: the key that locked managers wait for."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.deploy import change
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.cli.swarm_spec import unlock_advice
from swarmpy.errors import FailedPrecondition, InvalidArgument
from swarmpy.security.files import open_regular
from swarmpy.security.sealing import UnlockKey

Json = dict[str, Any]

UNLOCK_TIMEOUT_S = 90.0
"""After wrong keys the next one waits; then the log is read."""
MAX_KEY_BYTES = 1024
_CLUSTER_STATES = {"inactive": "this node is not part of a swarm"}


@click.command("unlock", short_help="Unlock this manager")
@data_dir_option
@pass_settings
def swarm_unlock(settings: Settings) -> None:
    """Unlock this manager; the key is asked for, or read from standard input where that is no terminal."""

    async def work() -> None:
        client = ApiClient(settings.endpoint)
        state = (await client.info())["Swarm"]["LocalNodeState"]
        if state != "locked":
            raise FailedPrecondition(_CLUSTER_STATES.get(state, "swarm is not locked"))
        key = read_unlock_key(None)
        await client.post("/swarm/unlock", {"UnlockKey": key.text}, timeout=UNLOCK_TIMEOUT_S)
        click.echo("Swarm unlocked: this manager goes on.")

    asyncio.run(work())


@click.command("unlock-key", short_help="Show or replace the key that unlocks managers")
@click.option("--rotate", is_flag=True, help="Replace the key. Managers that are away keep the one before until then.")
@click.option("-q", "--quiet", is_flag=True, help="Only the key.")
@data_dir_option
@pass_settings
def swarm_unlock_key(settings: Settings, rotate: bool, quiet: bool) -> None:
    """Show the key that unlocks managers after they were started."""

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            if rotate:
                await _rotate(client)
                if not quiet:
                    click.echo("Unlock key replaced.\n")
            key = str((await client.get("/swarm/unlockkey"))["UnlockKey"])
            if not key:
                raise FailedPrecondition('no unlock key is set: "swarm update --autolock" makes one')
            click.echo(key if quiet else await unlock_advice(client))

    asyncio.run(work())


async def _rotate(client: ApiClient) -> None:
    async def write(swarm: Json) -> None:
        if not swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"]:
            raise FailedPrecondition('cannot rotate because autolock is not turned on: "swarm update --autolock" does')
        query = {"version": str(swarm["Version"]["Index"]), "rotateManagerUnlockKey": "true"}
        await client.post("/swarm/update", swarm["Spec"], query=query)

    await change(lambda: client.get("/swarm"), write)


def read_unlock_key(file: Path | None) -> UnlockKey:
    """The key in a file, or from a prompt without an echo, or the first line of standard input.

    It is never taken from the command line, which every user of the machine can read. Raises InvalidArgument.
    """
    if file is not None:
        try:
            with open(file, "rb", opener=open_regular) as opened:
                return UnlockKey.parse(opened.read(MAX_KEY_BYTES).decode(errors="replace"))
        except OSError as error:
            raise InvalidArgument(f"cannot read the unlock key in {file}: {error.strerror}") from error
    if sys.stdin.isatty():
        return UnlockKey.parse(click.prompt("Please enter unlock key", hide_input=True, err=True))
    return UnlockKey.parse(sys.stdin.readline(MAX_KEY_BYTES))

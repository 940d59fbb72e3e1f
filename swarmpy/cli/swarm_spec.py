"""The cluster's own settings on the command line: options of ``swarm init`` and ``swarm update``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.deploy import change
from swarmpy.cli.settings import Settings, data_dir_option, pass_settings
from swarmpy.compose.units import parse_duration
from swarmpy.model.cluster_spec import RaftConfig

Json = dict[str, Any]


def duration(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Nanoseconds, given as ``500ms`` or ``1m30s``."""
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.option("--task-history-limit", type=int, metavar="N", help="Ended tasks kept for each slot  [default: 5]."),
    click.option(
        "--cert-expiry",
        callback=duration,
        metavar="DURATION",
        help="How long nodes' certificates are valid  [default: 2160h].",
    ),
    click.option(
        "--dispatcher-heartbeat", callback=duration, metavar="DURATION", help="How often nodes report  [default: 1s]."
    ),
    click.option(
        "--snapshot-interval",
        type=click.IntRange(1),
        metavar="N",
        help="Log entries between snapshots [default: 10000].",
    ),
    click.option(
        "--heartbeat-interval",
        callback=duration,
        metavar="DURATION",
        help="How often the leader of the managers is heard  [default: 100ms].",
    ),
    click.option(
        "--election-timeout",
        callback=duration,
        metavar="DURATION",
        help="Silence after which another manager takes over, at the earliest; at least five heartbeats "
        "[default: 500ms].",
    ),
    click.option(
        "--autolock",
        type=bool,
        is_flag=False,
        flag_value=True,
        metavar="[=true|false]",
        help="Whether a manager that is started waits for the unlock key  [default: false].",
    ),
)


SPEC_OPTIONS = (
    "task_history_limit",
    "cert_expiry",
    "dispatcher_heartbeat",
    "snapshot_interval",
    "heartbeat_interval",
    "election_timeout",
    "autolock",
)
"""What :func:`edited` takes."""


def spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that :func:`edited` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def edited(
    spec: Json,
    *,
    task_history_limit: int | None,
    cert_expiry: int | None,
    dispatcher_heartbeat: int | None,
    snapshot_interval: int | None,
    heartbeat_interval: int | None,
    election_timeout: int | None,
    autolock: bool | None,
) -> Json:
    """Docker's JSON of a cluster's spec with what the options say. Raises InvalidArgument."""
    out = dict(spec)
    _set(out, "Orchestration", "TaskHistoryRetentionLimit", task_history_limit)
    _set(out, "CAConfig", "NodeCertExpiry", cert_expiry)
    _set(out, "Dispatcher", "HeartbeatPeriod", dispatcher_heartbeat)
    _set(out, "Raft", "SnapshotInterval", snapshot_interval)
    _set(out, "EncryptionConfig", "AutoLockManagers", autolock)
    if heartbeat_interval is not None or election_timeout is not None:
        config = _timing(out.get("Raft") or {})
        config = config.with_timing(
            heartbeat_ns=config.heartbeat_ns if heartbeat_interval is None else heartbeat_interval,
            election_ns=config.election_ns if election_timeout is None else election_timeout,
        )
        _set(out, "Raft", "TickInterval", config.tick_ns)
        _set(out, "Raft", "HeartbeatTick", config.heartbeat_tick)
        _set(out, "Raft", "ElectionTick", config.election_tick)
    return out


def _timing(raft: Json) -> RaftConfig:
    default = RaftConfig()
    return RaftConfig(
        tick_ns=raft.get("TickInterval") or default.tick_ns,
        heartbeat_tick=raft.get("HeartbeatTick") or default.heartbeat_tick,
        election_tick=raft.get("ElectionTick") or default.election_tick,
    )


def _set(spec: Json, part: str, field: str, value: int | bool | None) -> None:
    if value is not None:
        spec[part] = {**(spec.get(part) or {}), field: value}


async def unlock_advice(client: ApiClient) -> str:
    """What to do with the cluster's unlock key; "" without one."""
    key = str((await client.get("/swarm/unlockkey"))["UnlockKey"])
    if not key:
        return ""
    return (
        'To unlock a swarm manager after it restarts, run "swarmpy swarm unlock" and provide the following key:\n\n'
        f"    {key}\n\n"
        "Store it in a password manager: without it no manager can be started again."
    )


@click.command("update", short_help="Change the cluster's settings while it runs")
@spec_options
@data_dir_option
@pass_settings
def swarm_update(settings: Settings, **options: Any) -> None:
    """Change the cluster's settings while it runs; nothing is restarted."""
    if all(value is None for value in options.values()):
        raise click.UsageError("nothing to change: give an option, as --help lists them")

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:

            async def write(swarm: Json) -> None:
                query = {"version": str(swarm["Version"]["Index"])}
                await client.post("/swarm/update", edited(swarm["Spec"], **options), query=query)

            await change(lambda: client.get("/swarm"), write)
            click.echo("Swarm updated.")
            if options["autolock"]:
                click.echo(await unlock_advice(client))

    asyncio.run(work())

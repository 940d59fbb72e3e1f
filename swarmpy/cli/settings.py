"""What the global options of the command line come to: where the data directory and the daemon's socket are."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from swarmpy.cli.endpoint import TcpEndpoint, parse_tcp
from swarmpy.errors import InvalidArgument


class Seconds(click.FloatRange):
    """A number of seconds, not negative, for which a command waits at most."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails with a usage error."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


SECONDS = Seconds(min=0)
LOG_LEVELS = ("debug", "info", "warning", "error")
SOCKET_NAME = "swarmpy.sock"


@attrs.frozen(kw_only=True)
class Settings:
    """The global options, with their defaults filled in."""

    data_dir: Path
    endpoint: Path | TcpEndpoint
    """Where the daemon is asked: its socket, or over TCP."""
    log_level: str = "info"

    @property
    def local_socket(self) -> Path:
        """The socket of this machine's daemon. Raises UsageError where another machine's was asked for."""
        if isinstance(self.endpoint, TcpEndpoint):
            raise click.UsageError("this is about the daemon of this machine: leave --api away")
        return self.endpoint


pass_settings: Callable[[Callable[..., Any]], Callable[..., Any]] = click.make_pass_decorator(Settings)
"""Gives a command the :class:`Settings` as its first argument."""


def default_data_dir(environment: Mapping[str, str], *, is_root: bool) -> Path:
    """``SWARMPY_DATA_DIR``, or else the system's place for root and the user's own for anybody else."""
    given = environment.get("SWARMPY_DATA_DIR", "")
    if given:
        return Path(given)
    if is_root:
        return Path("/var/lib/swarmpy")
    return Path(environment.get("HOME") or "/").joinpath(".local", "share", "swarmpy")


def make_settings(
    data_dir: str | None, host: str | None, log_level: str, *, api: str | None = None, cert_dir: str | None = None
) -> Settings:
    """The settings of this invocation. Raises InvalidArgument for an address that is none."""
    directory = Path(data_dir) if data_dir else default_data_dir(os.environ, is_root=os.geteuid() == 0)
    endpoint: Path | TcpEndpoint = socket_path(host, directory)
    if api:
        endpoint = parse_tcp(api, Path(cert_dir) if cert_dir else default_cert_dir(os.environ))
    return Settings(data_dir=directory, endpoint=endpoint, log_level=log_level)


def default_cert_dir(environment: Mapping[str, str]) -> Path:
    """Where the docker command looks for its certificates."""
    given = environment.get("DOCKER_CERT_PATH", "")
    return Path(given) if given else Path(environment.get("HOME") or "/").joinpath(".docker")


def socket_path(host: str | None, data_dir: Path) -> Path:
    """The daemon's socket: as given (a path, or ``unix://`` and a path), or else the one in ``data_dir``."""
    if not host:
        return data_dir / SOCKET_NAME
    scheme, separator, rest = host.partition("://")
    if not separator:
        return Path(host)
    if scheme != "unix" or not rest:
        raise InvalidArgument(
            f"{host!r} is not a unix socket: give a path, or unix:// and a path; for an address there is --api"
        )
    return Path(rest)


def _use_data_dir(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value:
        outer = ctx.find_object(Settings)
        assert outer is not None, "the top group makes the settings"
        ctx.obj = make_settings(value, None, outer.log_level)


data_dir_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--data-dir",
    metavar="DIR",
    expose_value=False,
    callback=_use_data_dir,
    help="As the global option of this name, which it overrides.",
)
"""For the commands that are about this machine's daemon, where people look for it."""

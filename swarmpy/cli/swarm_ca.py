"""``swarm ca``: the root CA's certificate, and a change of the root CA with its progress.

Watching is pure; only :func:`wait_for_root` asks. Waiting changes nothing: when it is broken off, the change goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.deploy import change
from swarmpy.cli.progress import MAX_ERRORS_S, POLL_S, unfinished
from swarmpy.cli.settings import SECONDS, Settings, data_dir_option, pass_settings
from swarmpy.cli.swarm_spec import duration
from swarmpy.errors import DeadlineExceeded, InvalidArgument, Unavailable
from swarmpy.security.certificates import MAX_PEM_BYTES
from swarmpy.security.roots import split

Json = dict[str, Any]

TIMEOUT_S = 600.0
SLOW_S = 5.0
"""When nothing has happened for so long, it is said which nodes are waited for, and why."""
BACKGROUND = 'The change of the root CA goes on in the background: "swarmpy status" shows what it waits for.'


# -- watching -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Progress:
    """How far the nodes are at one moment."""

    digest: str
    """SHA-256 of the root certificate that is to be the only one, as Docker's client shows it."""
    is_changing: bool
    nodes: int
    certificates: int
    """Nodes with a certificate of that root."""
    roots: int
    """Nodes that trust that root and no other."""
    awaited: tuple[tuple[str, str], ...] = ()
    """Names of nodes that have to do something yet, and what."""
    away: tuple[str, ...] = ()
    """Names of nodes that are down and do it when they are back."""

    @property
    def is_over(self) -> bool:
        """True when nothing is left to be done by the nodes that are there."""
        return not self.is_changing and not self.awaited

    def lines(self) -> list[str]:
        """The same, in words."""
        return [
            f"desired root digest: sha256:{self.digest}",
            f"  rotated TLS certificates: {self.certificates}/{self.nodes} nodes",
            f"  rotated CA certificates:  {self.roots}/{self.nodes} nodes",
        ]

    def waiting_lines(self) -> list[str]:
        """Who is waited for, one line each."""
        return [f"waiting for {name}: {why}" for name, why in self.awaited]


def observe(swarm: Json, nodes: Sequence[Json]) -> Progress:
    """The progress, from what ``GET /swarm`` and ``GET /nodes`` answer."""
    wanted: Json = swarm.get("TLSInfo") or {}
    root = _last_root(str(wanted.get("TrustRoot", "")))
    issuer = _issuer(wanted)
    awaited, away = [], []
    certificates = roots = 0
    for node in nodes:
        shown: Json = (node.get("Description") or {}).get("TLSInfo") or {}
        trusted = str(shown.get("TrustRoot", ""))
        has_certificate, has_root = _issuer(shown) == issuer, trusted == root
        certificates += has_certificate
        roots += has_root
        if has_certificate and has_root:
            continue
        status: Json = node.get("Status") or {}
        name = str((node.get("Description") or {}).get("Hostname") or node.get("ID", ""))
        if status.get("State") == "down":
            away.append(name)
        elif not (has_certificate and swarm.get("RootRotationInProgress") and root in trusted):
            message = f" ({status['Message']})" if status.get("Message") else ""
            awaited.append((name, _reason(shown, trusted, root, issuer) + message))
    return Progress(
        digest=hashlib.sha256(root.encode()).hexdigest(),
        is_changing=bool(swarm.get("RootRotationInProgress")),
        nodes=len(nodes),
        certificates=certificates,
        roots=roots,
        awaited=tuple(awaited),
        away=tuple(away),
    )


def _reason(shown: Json, trusted: str, root: str, issuer: tuple[object, object]) -> str:
    if not shown:
        return "it does not tell which certificate it has: its swarmpy is too old, or it has not come yet"
    if _issuer(shown) != issuer:
        return "it still has a certificate of the root before"
    return "it still trusts the root before" if root in trusted else "it does not trust the new root yet"


def _issuer(info: Json) -> tuple[object, object]:
    return info.get("CertIssuerSubject"), info.get("CertIssuerPublicKey")


def _last_root(bundle: str) -> str:
    """While the root is changed there are two, the new one last."""
    found = split(bundle.encode())
    return found[-1].decode() if found else ""


# -- showing --------------------------------------------------------------------------------------------------------


class View(Protocol):
    """Where progress is shown."""

    def update(self, lines: Sequence[str]) -> None:
        """Show these lines now."""

    def close(self) -> None:
        """Nothing will follow."""


class LineView:
    """For files and pipes: each line when it is new."""

    def __init__(self) -> None:
        self._said: tuple[str, ...] = ()

    def update(self, lines: Sequence[str]) -> None:
        """Prints what is new."""
        for line in lines:
            if line not in self._said:
                click.echo(line)
        self._said = tuple(lines)

    def close(self) -> None:
        """Nothing to do."""


class LiveView:
    """For a terminal: lines that are rewritten in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._live.start()

    def update(self, lines: Sequence[str]) -> None:
        """Redraws."""
        from rich.text import Text

        self._live.update(Text("\n".join(lines)), refresh=True)

    def close(self) -> None:
        """Leaves the last picture on the screen."""
        self._live.stop()


class NoView:
    """For who wants to see nothing."""

    def update(self, lines: Sequence[str]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


# -- waiting --------------------------------------------------------------------------------------------------------


async def wait_for_root(client: ApiClient, view: View, timeout: float) -> Progress:
    """Returns when the root CA is changed and all nodes that are there live by the new one.

    Raises DeadlineExceeded after ``timeout`` seconds, with the nodes that are waited for.
    """
    loop = asyncio.get_running_loop()
    started = answered = stirred = loop.time()
    progress: Progress | None = None
    try:
        while True:
            try:
                before, progress = progress, observe(await client.get("/swarm"), await client.nodes())
                answered = loop.time()
                if before is None or before.lines() != progress.lines():
                    stirred = answered
                is_slow = answered - stirred >= SLOW_S
                view.update([*progress.lines(), *(progress.waiting_lines() if is_slow else ())])
                if progress.is_over:
                    return progress
            except Unavailable:
                # Managers are silent while they elect a leader; waiting through it is what waiting is for.
                if loop.time() - answered > MAX_ERRORS_S:
                    raise
            if loop.time() - started > timeout:
                raise DeadlineExceeded(_still_waiting(progress, timeout))
            # The API has no call that waits for it, so it is asked again and again.
            await asyncio.sleep(POLL_S)
    finally:
        view.close()


def _still_waiting(progress: Progress | None, timeout: float) -> str:
    lines = progress.waiting_lines() if progress is not None else []
    return f"the root CA is not changed within {timeout:g} s: {'; '.join(lines) or 'no manager has answered'}"


# -- the command ----------------------------------------------------------------------------------------------------


@click.command("ca", short_help="Show the root CA, or change it while everything runs")
@click.option("--rotate", is_flag=True, help="Change the root CA: to a new one, or the one given.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until all nodes have followed.")
@click.option("-q", "--quiet", is_flag=True, help="Wait without showing how far it is.")
@click.option("--cert-expiry", callback=duration, metavar="DURATION", help="How long nodes' certificates are valid.")
@click.option("--ca-cert", type=click.Path(path_type=Path), metavar="FILE", help="The root CA's certificate, PEM.")
@click.option("--ca-key", type=click.Path(path_type=Path), metavar="FILE", help="Its private key, PEM.")
@click.option("--timeout", type=SECONDS, default=TIMEOUT_S, show_default=True, help="Seconds to wait.")
@data_dir_option
@pass_settings
def swarm_ca(
    settings: Settings,
    rotate: bool,
    detach: bool,
    quiet: bool,
    cert_expiry: int | None,
    ca_cert: Path | None,
    ca_key: Path | None,
    timeout: float,
) -> None:
    """Show the root CA's certificate, or change the root CA while everything runs.

    Nodes that are down follow when they are back. Join tokens are new ones then.
    """
    if not rotate and (detach or quiet or cert_expiry is not None or ca_cert or ca_key):
        raise click.UsageError("these options are for changing the root CA: give --rotate, too")
    if (ca_cert is None) != (ca_key is None):
        raise click.UsageError("--ca-cert and --ca-key go together")
    given = {"SigningCACert": _read(ca_cert), "SigningCAKey": _read(ca_key)} if ca_cert and ca_key else {}

    async def work() -> None:
        async with ApiClient(settings.endpoint) as client:
            if rotate:
                await _begin(client, cert_expiry, given)
            if rotate and not detach:
                view: View = NoView() if quiet else LiveView() if sys.stdout.isatty() else LineView()
                with unfinished(BACKGROUND):
                    progress = await wait_for_root(client, view, timeout)
                if progress.away:
                    click.echo(f"down, and to follow when they are back: {', '.join(progress.away)}", err=True)
            if not (rotate and (detach or quiet)):
                click.echo(str((await client.get("/swarm"))["TLSInfo"]["TrustRoot"]).strip())

    asyncio.run(work())


async def _begin(client: ApiClient, cert_expiry: int | None, given: Json) -> None:
    async def write(swarm: Json) -> None:
        spec: Json = swarm["Spec"]
        config = {**(spec.get("CAConfig") or {}), **given}
        if not given:
            config["ForceRotate"] = int(config.get("ForceRotate") or 0) + 1
        if cert_expiry is not None:
            config["NodeCertExpiry"] = cert_expiry
        query = {"version": str(swarm["Version"]["Index"])}
        await client.post("/swarm/update", {**spec, "CAConfig": config}, query=query)

    await change(lambda: client.get("/swarm"), write)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
        if len(data) > MAX_PEM_BYTES:
            raise InvalidArgument(f"{path} is larger than {MAX_PEM_BYTES} bytes: a PEM file is needed")
        return data.decode("ascii")
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} is not a PEM file") from None

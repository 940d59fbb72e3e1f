"""``swarmpy dev``: a whole cluster on this machine, from a stack file, to look at or to check and throw away."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import click

from swarmpy.cli import probe
from swarmpy.cli.local_cluster import LocalCluster, default_directory
from swarmpy.cli.render import Listing, show
from swarmpy.cli.settings import SECONDS, Settings, pass_settings
from swarmpy.cli.stack import deploy_stack, load_stack
from swarmpy.compose.load import StackFile
from swarmpy.errors import FailedPrecondition

EXIT_INTERRUPTED = 130
CHECK_FAILED = 1
"""Exit code when a published port does not answer as it should."""
ANSWER_CHARS = 80


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Request every published port through every node, then take all down.")
@click.option(
    "--managers", type=click.IntRange(1), default=3, show_default=True, metavar="NUMBER", help="How many managers."
)
@click.option(
    "--workers", type=click.IntRange(0), default=2, show_default=True, metavar="NUMBER", help="How many workers."
)
@click.option(
    "--runtime",
    type=click.Choice(("auto", "docker", "process")),
    default="auto",
    show_default=True,
    help="Where tasks run: on Docker, as plain processes, or on Docker if an engine answers.",
)
@click.option("--data-dir", "directory", type=click.Path(path_type=Path), help="Where the nodes keep their state.")
@click.option("--keep", is_flag=True, help="Leave the nodes' state and logs behind.")
@click.option("--timeout", type=SECONDS, default=120.0, show_default=True, help="Seconds to wait for tasks.")
@pass_settings
def dev(
    _settings: Settings,
    file: Path,
    check: bool,
    managers: int,
    workers: int,
    runtime: str,
    directory: Path | None,
    keep: bool,
    timeout: float,
) -> None:
    """Run a cluster of real processes on this machine and deploy FILE on it."""
    plan = _Plan(
        file=file,
        check=check,
        managers=managers,
        workers=workers,
        runtime=runtime,
        directory=directory,
        keep=keep,
        timeout=timeout,
    )
    code = asyncio.run(_run(plan))
    if code:
        click.get_current_context().exit(code)


@attrs.frozen(kw_only=True)
class _Plan:
    file: Path
    check: bool
    managers: int
    workers: int
    runtime: str
    directory: Path | None
    keep: bool
    timeout: float


async def _run(plan: _Plan) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    name = plan.file.stem.replace(".", "-")
    stack = load_stack((plan.file,), name)
    for warning in stack.warnings:
        click.echo(warning, err=True)
    runtime = await probe.choose_runtime(plan.runtime, stack)
    click.echo(f"runtime: {runtime.name} ({runtime.reason})")
    async with _cluster(plan, stack, runtime.name) as cluster:
        set_up = asyncio.create_task(_set_up(plan, cluster, stack, name))
        if not await _finished_before(set_up, stop):
            click.echo("interrupted")
            return EXIT_INTERRUPTED
        answers = set_up.result()
        if plan.check:
            return _report(answers)
        _show_urls(cluster, answers)
        await stop.wait()
        return 0


async def _finished_before(task: asyncio.Task[Any], stop: asyncio.Event) -> bool:
    """Wait for the task or for ``stop``; a task that is not done by then is cancelled."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.done()
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _set_up(plan: _Plan, cluster: LocalCluster, stack: StackFile, name: str) -> list[_Answer]:
    began = time.monotonic()
    await cluster.start_daemons()
    await cluster.form()
    click.echo(
        f"{plan.managers} managers and {plan.workers} workers are one cluster after {time.monotonic() - began:.1f} s; "
        f"state and logs: {cluster.directory}"
    )
    began = time.monotonic()
    await deploy_stack(cluster.managers[0].client, stack, name, timeout=plan.timeout)
    click.echo(f"stack {name} runs after {time.monotonic() - began:.1f} s")
    return await _ask_all(cluster)


@contextlib.asynccontextmanager
async def _cluster(plan: _Plan, stack: StackFile, runtime: str) -> AsyncIterator[LocalCluster]:
    directory = plan.directory.absolute() if plan.directory else default_directory()
    if plan.directory and directory.exists() and any(directory.iterdir()):
        raise FailedPrecondition(f"{directory} is not empty: give another --data-dir, or empty it")
    published = [
        port.published_port for spec in stack.services for port in (spec.endpoint.ports if spec.endpoint else ())
    ]
    cluster = LocalCluster(
        directory,
        managers=plan.managers,
        workers=plan.workers,
        runtime=runtime,
        ports=[port for port in published if port],
    )
    try:
        yield cluster
    finally:
        click.echo("taking the cluster down")
        await cluster.dissolve(leave=not plan.keep)
        if plan.keep:
            click.echo(f"state and logs are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


# -- what a user would see ------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Answer:
    node: str
    role: str
    url: str
    service: str
    text: str
    ok: bool


async def _ask_all(cluster: LocalCluster) -> list[_Answer]:
    services = (await cluster.managers[0].client.status())["services"]
    published = [(service["name"], _port_of(text)) for service in services for text in service["ports"]]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        return [
            await _ask(session, node.name, "manager" if node.is_manager else "worker", node.address, service, port)
            for service, port in published
            if port is not None
            for node in cluster.nodes
        ]


def _port_of(text: str) -> int | None:
    published, _, rest = text.partition("->")
    return int(published) if published.isdigit() and rest.endswith("/tcp") else None


async def _ask(session: aiohttp.ClientSession, node: str, role: str, address: str, service: str, port: int) -> _Answer:
    url = f"http://{address}:{port}/"
    try:
        async with session.get(url) as response:
            body = (await response.content.read(2000)).decode(errors="replace")
            text, ok = f"{response.status} {_first_line(body)}", response.status < 500
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        text, ok = f"no answer: {' '.join(str(error).split()) or type(error).__name__}", False
    return _Answer(node=node, role=role, url=url, service=service, text=text, ok=ok)


def _first_line(body: str) -> str:
    line = next((line.strip() for line in body.splitlines() if line.strip()), "")
    return line if len(line) <= ANSWER_CHARS else line[: ANSWER_CHARS - 3] + "..."


def _report(answers: list[_Answer]) -> int:
    rows = tuple((a.node, a.role, a.service, a.url, a.text, "ok" if a.ok else "FAILED") for a in answers)
    show(Listing(headings=("NODE", "ROLE", "SERVICE", "URL", "ANSWER", "RESULT"), rows=rows))
    failed = [a for a in answers if not a.ok]
    if failed:
        click.echo(f"swarmpy: {len(failed)} of {len(answers)} requests failed", err=True)
        return CHECK_FAILED
    click.echo(f"all {len(answers)} requests were answered" if answers else "the stack publishes no TCP port to ask")
    return 0


def _show_urls(cluster: LocalCluster, answers: list[_Answer]) -> None:
    show(
        Listing(
            headings=("NODE", "ROLE", "STATUS PAGE", "PUBLISHED"),
            rows=tuple(
                (
                    node.name,
                    "manager" if node.is_manager else "worker",
                    node.status_url,
                    " ".join(a.url for a in answers if a.node == node.name),
                )
                for node in cluster.nodes
            ),
        )
    )
    click.echo(f"\nuse it:  swarmpy --data-dir {cluster.managers[0].data_dir} service ls")
    click.echo(f"or:      docker -H unix://{cluster.managers[0].data_dir}/swarmpy.sock service ls")
    click.echo("Ctrl-C takes everything down.")

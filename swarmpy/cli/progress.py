"""How far services have come, and waiting until they are there. Watching is pure; only :func:`wait_for_services` asks.

Waiting changes nothing: when it is broken off, the cluster goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs
import click

from swarmpy.cli.client import ApiClient
from swarmpy.cli.listings import service_mode, service_name, task_slot, total_completions
from swarmpy.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from swarmpy.model.grammar import printable
from swarmpy.model.objects import PREPARING_MESSAGE

Json = Mapping[str, Any]

POLL_S = 0.2
STABLE_S = 1.0
"""A service has converged when all its tasks have been running for so long: one that crashes at once does not count."""
MAX_ERRORS_S = 20.0
"""How long the managers may be silent (a new leader is being elected) before waiting is given up."""

WANTED = ("running", "ready", "complete")
"""Desired states of a task that is to run, now or after its delay, or to complete."""
_UNDER_WAY = ("new", "pending", "assigned", "accepted", "preparing", "ready", "starting")
_FAILED = ("failed", "rejected", "orphaned")
ENDED = ("complete", "shutdown", "remove", *_FAILED)


class Shown(Protocol):
    """What a view shows of one thing that is waited for."""

    @property
    def name(self) -> str:
        """What it is."""

    @property
    def running(self) -> int:
        """How far it is. What was said is said again when this changes."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not there, each once."""

    @property
    def is_there(self) -> bool:
        """True when nothing is left to be done."""

    @property
    def has_failed(self) -> bool:
        """True when waiting any longer is of no use."""

    def line(self) -> str:
        """The whole in one line."""


@attrs.frozen(kw_only=True)
class Progress:
    """One service at one moment."""

    name: str
    running: int
    desired: int
    counts: tuple[tuple[str, int], ...] = ()
    """Tasks on their way, by state, in the order of the states."""
    reasons: tuple[str, ...] = ()
    """Why tasks are waiting or have failed, each once."""
    outdated: int = 0
    """Tasks of an older spec that still run."""
    update_state: str = ""
    update_message: str = ""
    is_rollback: bool = False
    """It was asked for: to be rolled back is no failure then."""
    is_job: bool = False
    """Then ``running`` and ``desired`` count the tasks that have completed, and that are to."""

    @property
    def is_there(self) -> bool:
        """True when nothing is left to be done."""
        return self.running >= self.desired and not self.outdated and not self.is_updating and not self.has_failed

    @property
    def is_updating(self) -> bool:
        """True while an update or a rollback is going on."""
        return self.update_state in ("updating", "rollback_started")

    @property
    def has_failed(self) -> bool:
        """True when an update has stopped, or was rolled back: waiting any longer is of no use."""
        has_come_back = self.update_state == "rollback_completed" and not self.is_rollback
        return has_come_back or self.update_state in ("paused", "rollback_paused")

    def line(self) -> str:
        """``web  2/3 running  (starting 1)``."""
        notes = [f"{state} {count}" for state, count in self.counts]
        if self.outdated:
            notes.append(f"outdated {self.outdated}")
        if self.update_state in ("updating", "rollback_started", "paused", "rollback_paused", "rollback_completed"):
            notes.append(self.update_state.replace("_", " "))
        word = "completed" if self.is_job else "running"
        return f"{self.name}  {self.running}/{self.desired} {word}" + (f"  ({', '.join(notes)})" if notes else "")


def observe(
    service: Json,
    current: Sequence[Json],
    every: Sequence[Json],
    *,
    before: Json | None = None,
    is_rollback: bool = False,
) -> Progress:
    """The progress of ``service``. ``current``: its tasks of the present spec; ``every``: all its tasks.

    ``before``: the UpdateStatus from before the change that is waited for; the same one again says nothing about it.
    ``is_rollback``: the change is a rollback.
    """
    wanted = [task for task in current if task.get("DesiredState") in WANTED]
    states = Counter(state_of(task) for task in wanted)
    current_ids = {task.get("ID") for task in current}
    outdated = sum(
        state_of(task) == "running" and task.get("DesiredState") == "running" and task.get("ID") not in current_ids
        for task in every
    )
    mode, running = service.get("Spec", {}).get("Mode", {}), states["running"]
    is_job = service_mode(service).endswith("-job")
    if is_job:
        desired = total_completions(service)
        running = int((service.get("ServiceStatus") or {}).get("CompletedTasks", 0))
    elif "Global" in mode:
        desired = int((service.get("ServiceStatus") or {}).get("DesiredTasks", len(wanted)))
    else:
        desired = int((mode.get("Replicated") or {}).get("Replicas", 1))
    update = service.get("UpdateStatus") or {}
    if update == before:
        update = {} if update.get("State") not in ("updating", "rollback_started") else update
    return Progress(
        name=service_name(service),
        running=running,
        is_rollback=is_rollback,
        is_job=is_job,
        desired=desired,
        counts=tuple((state, states[state]) for state in (*_UNDER_WAY, *_FAILED) if states[state]),
        reasons=(*_held_up(update), *reasons_of(wanted, current)),
        outdated=outdated,
        update_state=str(update.get("State", "")),
        update_message=printable(str(update.get("Message", ""))),
    )


def state_of(task: Json) -> str:
    """How far a task has come."""
    return str(task.get("Status", {}).get("State", ""))


def _held_up(update: Json) -> tuple[str, ...]:
    """Why an update may not go on, which is no matter of its own tasks."""
    message = str(update.get("Message", ""))
    _, waits, why = message.partition(", waits: ")
    return (printable(f"waits: {why}"),) if waits and update.get("State") in ("updating", "rollback_started") else ()


def reasons_of(wanted: Sequence[Json], current: Sequence[Json]) -> tuple[str, ...]:
    """Why tasks wait or how far they are, and why the newest failed task of each slot that does not run failed."""
    out: dict[str, None] = {}
    running_slots = {_slot(task) for task in wanted if state_of(task) == "running"}
    newest_failures: dict[object, Json] = {}
    for task in sorted(current, key=lambda task: str(task.get("CreatedAt", ""))):
        error = str(task.get("Status", {}).get("Err", ""))
        if error and state_of(task) in _FAILED and _slot(task) not in running_slots:
            newest_failures[_slot(task)] = task
    waiting = [task for task in wanted if state_of(task) in _UNDER_WAY and _remark(task)]
    for task in (*waiting, *newest_failures.values()):
        out[f"{state_of(task)}: {printable(' '.join(_remark(task).split()))}"] = None
    return tuple(out)


def _remark(task: Json) -> str:
    """What is wrong with a task; else, of one that is being prepared, how far it is: ``pulling x: 1 of 2 MB``."""
    status = task.get("Status", {})
    message = str(status.get("Message", ""))
    is_told = state_of(task) == "preparing" and message not in ("", PREPARING_MESSAGE)
    return str(status.get("Err") or (message if is_told else ""))


def _slot(task: Json) -> object:
    slot = task_slot(task)
    return task.get("NodeID", "") if slot is None else slot


# -- showing ----------------------------------------------------------------------------------------------------------


class View(Protocol):
    """Where progress is shown."""

    def update(self, progress: Sequence[Shown]) -> None:
        """Show how far the services have come now."""

    def close(self) -> None:
        """Nothing will follow."""


class LineView:
    """For files and pipes: a line when something is new.

    A task that fails again and again goes through the same states every time: each line is said once, until another
    number of tasks runs.
    """

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._said: dict[str, set[str]] = {}

    def update(self, progress: Sequence[Shown]) -> None:
        """Prints what is new."""
        for service in progress:
            if self._running.get(service.name) != service.running:
                self._running[service.name] = service.running
                self._said[service.name] = set(service.reasons) & self._said.get(service.name, set())
            said = self._said[service.name]
            for line in (service.line(), *service.reasons):
                if line not in said:
                    said.add(line)
                    click.echo(line if line == service.line() else f"{service.name}  {line}")

    def close(self) -> None:
        """Nothing to do."""


class SilentView:
    """For who only wants to wait."""

    def update(self, progress: Sequence[Shown]) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Nothing to do."""


class LiveView:
    """For a terminal: lines that are rewritten in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._live.start()

    def update(self, progress: Sequence[Shown]) -> None:
        """Redraws."""
        self._live.update(rich_progress(progress), refresh=True)

    def close(self) -> None:
        """Leaves the last picture on the screen."""
        self._live.stop()


def rich_progress(progress: Sequence[Shown]) -> Any:
    """The picture of a :class:`LiveView`."""
    from rich.text import Text

    picture = Text()
    for index, service in enumerate(progress):
        style = "red" if service.has_failed else "green" if service.is_there else "yellow"
        picture.append("\n" if index else "").append(service.line(), style=style)
        for reason in service.reasons:
            picture.append(f"\n  {reason}", style="dim")
    return picture


def make_view() -> View:
    """A live view on a terminal, lines elsewhere."""
    return LiveView() if sys.stdout.isatty() else LineView()


# -- waiting ----------------------------------------------------------------------------------------------------------


async def wait_for_services(
    client: ApiClient,
    services: Mapping[str, Json | None],
    *,
    view: View,
    timeout: float,
    stable: float = STABLE_S,
    is_rollback: bool = False,
) -> None:
    """Returns when all services (id: UpdateStatus from before the change, None for a new one) have converged.

    ``is_rollback``: the change is a rollback of them.

    Raises DeadlineExceeded after ``timeout`` seconds, FailedPrecondition when an update has stopped or was rolled back,
    NotFound when a service is removed meanwhile; each says why, and none of them stops the cluster from going on.
    """
    loop = asyncio.get_running_loop()
    started = answered = loop.time()
    there_since: float | None = None
    progress: list[Progress] = []
    try:
        while True:
            try:
                progress = [
                    await _look(client, service_id, before, is_rollback=is_rollback)
                    for service_id, before in services.items()
                ]
                answered = loop.time()
            except Unavailable:
                # Managers are silent while they elect a leader; waiting through it is what waiting is for.
                if loop.time() - answered > MAX_ERRORS_S:
                    raise
            now = loop.time()
            view.update(progress)
            _raise_if_failed(progress)
            is_there = bool(progress) and all(service.is_there for service in progress) and now - answered < POLL_S
            there_since = (now if there_since is None else there_since) if is_there else None
            if there_since is not None and now - there_since >= stable:
                return
            if now - started > timeout:
                raise DeadlineExceeded(_still_waiting(progress, timeout))
            # The API has no call that waits for a service, so it is asked again and again.
            await asyncio.sleep(POLL_S)
    finally:
        view.close()


async def _look(client: ApiClient, service_id: str, before: Json | None, *, is_rollback: bool) -> Progress:
    services = await client.services(ids=(service_id,))
    if not services:
        raise NotFound(f"service {service_id} was removed while it was waited for")
    current = await client.current_tasks(service_id)
    every = await client.tasks(service=service_id)
    return observe(services[0], current, every, before=before, is_rollback=is_rollback)


def _raise_if_failed(progress: Sequence[Progress]) -> None:
    for service in progress:
        if service.has_failed:
            what = "was rolled back" if service.update_state == "rollback_completed" else "has stopped"
            change = "rollback" if service.is_rollback else "update"
            reasons = "; ".join(filter(None, (service.update_message, *service.reasons)))
            raise FailedPrecondition(f"the {change} of service {service.name} {what}{': ' if reasons else ''}{reasons}")


def _still_waiting(progress: Sequence[Progress], timeout: float) -> str:
    parts = [
        f"{service.line()}{': ' if service.reasons else ''}{'; '.join(service.reasons)}"
        for service in progress
        if not service.is_there
    ]
    return f"not converged within {timeout:g} s: {' | '.join(parts) or 'not stable yet'}"


@contextlib.contextmanager
def unfinished(hint: str) -> Iterator[None]:
    """Says ``hint`` when waiting is given up, by the user or for the time: the cluster goes on all the same."""
    try:
        yield
    except (asyncio.CancelledError, DeadlineExceeded):
        click.echo(hint, err=True)
        raise


async def wait_for_removal(client: ApiClient, label: str, *, timeout: float) -> None:
    """Returns when no task that carries ``label`` is left. Raises DeadlineExceeded after ``timeout`` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        left = [task for task in await client.tasks(label=label) if state_of(task) in (*_UNDER_WAY, "running")]
        if not left:
            return
        if loop.time() > deadline:
            raise DeadlineExceeded(
                f"{len(left)} tasks are still there after {timeout:g} s (the cluster goes on stopping them)"
            )
        await asyncio.sleep(POLL_S)

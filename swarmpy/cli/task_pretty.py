"""A task for people to read: what it runs, where, and what became of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from swarmpy.cli.listings import age, parse_time
from swarmpy.cli.render import Rows, rows_text
from swarmpy.cli.service_pretty import task_rows
from swarmpy.model.grammar import printable

Json = Mapping[str, Any]

_ASSIGNED, _STOPPING = "assigned", ("shutdown", "remove")


def pretty(task: Json, *, name: str, service: str, node: str, now: datetime) -> str:
    """The text. ``name``, ``service`` and ``node``: what the task, its service and its node are called."""
    status = task.get("Status") or {}
    since = age(str(status.get("Timestamp", "")), now)
    rows: Rows = [
        ("ID", task.get("ID")),
        ("Name", name),
        ("Service", service),
        ("Node", node or "none yet"),
        ("Container", _container(status.get("ContainerStatus") or {})),
        ("State", f"{status.get('State', '')} {since}".strip()),
        ("", [line for line in (status.get("Err") or status.get("Message"), task.get("Waits")) if line]),
        ("Desired", _desired(task)),
        ("Ports", [_port(port) for port in (status.get("PortStatus") or {}).get("Ports") or ()]),
        ("Replaces", task.get("Replaces")),
        ("Replaced by", task.get("ReplacedBy")),
    ]
    told = rows_text([*rows, *task_rows(task.get("Spec") or {})])
    return "\n".join([told, "", *history(task, node)])


def history(task: Json, node: str) -> list[str]:
    """The story of a task, a line for each state; what is known of the last one is with it."""
    moments, status = list(task.get("History") or ()), task.get("Status") or {}
    if not moments and status.get("State") != "new":
        return ["No history: it was not written down before all managers were of this version."]
    told = [("new", str(task.get("CreatedAt", "")))]
    told += [(_words(moment, status, node), str(moment.get("Timestamp", ""))) for moment in moments]
    days = {str(at)[:10] for _, at in told}
    return [f"{_time(at, with_day=len(days) > 1)}  {words}" for words, at in told]


def _words(moment: Json, status: Json, node: str) -> str:
    reason = f": {moment['Reason']}" if moment.get("Reason") else ""
    if "DesiredState" in moment:
        state = str(moment["DesiredState"])
        return f"{'not wanted any more' if state in _STOPPING else f'to be {state}'}{reason}"
    state = str(moment.get("State", ""))
    if state == _ASSIGNED and node:
        return f"{state} to {node}"
    err = printable(" ".join(str(status.get("Err", "")).split())) if state == status.get("State") else ""
    return f"{state}: {err}" if err else state


def _time(timestamp: str, *, with_day: bool) -> str:
    moment = parse_time(timestamp)
    if moment is None:
        return timestamp
    shown = moment.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")
    return shown if with_day else shown.partition(" ")[2]


def _desired(task: Json) -> str:
    start = str(task.get("NotBefore", ""))
    return f"{task.get('DesiredState', '')}{f', to start at {_time(start, with_day=False)}' if start else ''}"


def _container(container: Json) -> str:
    identity, pid, code = (container.get(key) for key in ("ContainerID", "PID", "ExitCode"))
    parts = [str(identity or ""), f"pid {pid}" if pid else "", f"exit code {code}" if code else ""]
    return ", ".join(part for part in parts if part)


def _port(port: Json) -> str:
    return f"{port.get('PublishedPort')} -> {port.get('TargetPort')}/{port.get('Protocol', 'tcp')}"

"""A task as text for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from swarmpy.cli.task_pretty import history, pretty

NOW = datetime(2026, 1, 1, 12, 0, 10, tzinfo=UTC)
TASK: dict[str, Any] = {
    "ID": "f518whkgxjs9arygajl7zj4nr",
    "CreatedAt": "2026-01-01T12:00:00.002Z",
    "DesiredState": "shutdown",
    "ReplacedBy": "dxw5upeh0jhenk4m4te1op3wh",
    "Spec": {"ContainerSpec": {"Image": "busybox:1", "Args": ["sleep", "1"]}},
    "Status": {
        "State": "failed",
        "Timestamp": "2026-01-01T12:00:05Z",
        "Err": "task: non-zero exit (3)",
        "ContainerStatus": {"ContainerID": "abc", "PID": 7, "ExitCode": 3},
    },
    "History": [
        {"Timestamp": "2026-01-01T12:00:00.01Z", "State": "pending"},
        {"Timestamp": "2026-01-01T12:00:00.1Z", "State": "assigned"},
        {"Timestamp": "2026-01-01T12:00:01Z", "State": "running"},
        {"Timestamp": "2026-01-01T12:00:05Z", "State": "failed"},
        {"Timestamp": "2026-01-01T12:00:05.5Z", "DesiredState": "shutdown", "Reason": "it had ended"},
    ],
}


def test_a_task_and_what_became_of_it() -> None:
    """What it is first, then a line for each of its states."""
    assert pretty(TASK, name="web.1", service="web", node="host-1", now=NOW).splitlines() == [
        "ID:          f518whkgxjs9arygajl7zj4nr",
        "Name:        web.1",
        "Service:     web",
        "Node:        host-1",
        "Container:   abc, pid 7, exit code 3",
        "State:       failed 5 seconds ago",
        "             task: non-zero exit (3)",
        "Desired:     shutdown",
        "Replaced by: dxw5upeh0jhenk4m4te1op3wh",
        "Image:       busybox:1",
        "Args:        sleep 1",
        "",
        "12:00:00.002  new",
        "12:00:00.010  pending",
        "12:00:00.100  assigned to host-1",
        "12:00:01.000  running",
        "12:00:05.000  failed: task: non-zero exit (3)",
        "12:00:05.500  not wanted any more: it had ended",
    ]


def test_a_story_of_several_days_has_dates() -> None:
    """Else a time would be of any day. What a node says cannot move a cursor."""
    later = {**TASK, "History": [{"Timestamp": "2026-02-03T01:02:03Z", "State": "failed"}]}
    later["Status"] = {"State": "failed", "Err": "oh\x1b[2J\nno"}
    assert history(later, "") == ["2026-01-01 12:00:00.002  new", "2026-02-03 01:02:03.000  failed: oh?[2J no"]


def test_a_task_whose_story_was_not_written_down_says_so() -> None:
    """And one that waits says until when."""
    waiting = {**TASK, "History": [], "DesiredState": "ready", "NotBefore": "2026-01-01T12:00:30Z"}
    lines = pretty(waiting, name="web.1", service="web", node="", now=NOW).splitlines()
    assert lines[-1] == "No history: it was not written down before all managers were of this version."
    fresh = {**waiting, "Status": {"State": "new"}}
    assert history(fresh, "") == ["12:00:00.002  new"]
    assert {"Node:        none yet", "Desired:     ready, to start at 12:00:30.000"} < set(lines)

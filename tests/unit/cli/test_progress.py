"""What progress is seen in services and tasks."""

from __future__ import annotations

from typing import Any

import pytest

from swarmpy.cli.progress import LineView, Progress, observe, rich_progress

SERVICE: dict[str, Any] = {"ID": "s", "Spec": {"Name": "web", "Mode": {"Replicated": {"Replicas": 3}}}}


def task(
    id_: str, slot: int, state: str, desired: str = "running", err: str = "", created: str = "1"
) -> dict[str, Any]:
    return {
        "ID": id_,
        "Slot": slot,
        "DesiredState": desired,
        "CreatedAt": created,
        "Status": {"State": state, **({"Err": err} if err else {})},
    }


def test_tasks_are_counted_by_state() -> None:
    """The line tells how many run and where the others are."""
    tasks = [task("a", 1, "running"), task("b", 2, "running"), task("c", 3, "starting")]
    progress = observe(SERVICE, tasks, tasks)
    assert progress.line() == "web  2/3 running  (starting 1)"
    assert not progress.is_there


def test_a_service_is_there_when_all_run_and_nothing_is_left_to_do() -> None:
    """All tasks of the present spec run, none of an older one does, and no update goes on."""
    tasks = [task(str(slot), slot, "running") for slot in (1, 2, 3)]
    assert observe(SERVICE, tasks, tasks).is_there
    old = task("old", 1, "running")
    assert not observe(SERVICE, tasks, [*tasks, old]).is_there
    assert observe(SERVICE, tasks, [*tasks, old]).line() == "web  3/3 running  (outdated 1)"
    stopping = task("old", 1, "running", "shutdown")
    assert observe(SERVICE, tasks, [*tasks, stopping]).is_there
    updating = {**SERVICE, "UpdateStatus": {"State": "updating"}}
    assert not observe(updating, tasks, tasks).is_there


def test_reasons_are_told_once() -> None:
    """A waiting task and the last failure of a slot that does not run say why; what is healed is not mentioned."""
    tasks = [
        task("a1", 1, "failed", "shutdown", "exit 1", "1"),
        task("a2", 1, "failed", "shutdown", "exit 2", "2"),
        task("a3", 1, "ready", "ready", "", "3"),
        task("b", 2, "pending", "running", "no suitable node"),
        task("c", 3, "pending", "running", "no suitable node"),
        task("d1", 4, "failed", "shutdown", "healed", "1"),
        task("d2", 4, "running"),
    ]
    assert observe(SERVICE, tasks, tasks).reasons == ("pending: no suitable node", "failed: exit 2")


def test_how_far_a_pull_is_stands_with_the_reasons() -> None:
    """What is wrong comes first; that it is being prepared is told by the counts."""
    pulling, away, plain = (task(name, slot, "preparing") for slot, name in enumerate("abc"))
    pulling["Status"]["Message"] = "pulling web:8: 1 of 2 MB, layer 1 of 3"
    away["Status"] |= {"Message": "preparing", "Err": "the registry does not answer"}
    plain["Status"]["Message"] = "preparing"
    tasks = [pulling, away, plain]
    assert observe(SERVICE, tasks, tasks).reasons == (
        "preparing: pulling web:8: 1 of 2 MB, layer 1 of 3",
        "preparing: the registry does not answer",
    )


def test_an_update_that_is_held_up_says_so() -> None:
    """While it goes on: one that was given up has its message told anyway."""
    tasks = [task("a", 1, "running")]
    message = "update in progress, waits: web may miss at most 1 task"
    held_up = {**SERVICE, "UpdateStatus": {"State": "updating", "Message": message}}
    assert observe(held_up, tasks, tasks).reasons == ("waits: web may miss at most 1 task",)
    paused = {**SERVICE, "UpdateStatus": {"State": "paused", "Message": message}}
    assert observe(paused, tasks, tasks).reasons == ()


def test_a_global_service_wants_what_the_managers_want() -> None:
    """The number of a global service's tasks comes from its status."""
    service = {"Spec": {"Name": "g", "Mode": {"Global": {}}}, "ServiceStatus": {"DesiredTasks": 2}}
    assert not observe(service, [task("a", 0, "running")], []).is_there
    assert observe(service, [task("a", 0, "running"), task("b", 0, "running")], []).is_there


@pytest.mark.parametrize("state", ["paused", "rollback_paused", "rollback_completed"])
def test_an_update_that_has_stopped_has_failed(state: str) -> None:
    """A paused or rolled back update will not converge; the one from before the change says nothing."""
    status = {"State": state, "Message": "m", "StartedAt": "1"}
    tasks = [task(str(slot), slot, "running") for slot in (1, 2, 3)]
    service = {**SERVICE, "UpdateStatus": status}
    assert observe(service, tasks, tasks).has_failed
    assert observe(service, tasks, tasks, before={}).has_failed
    assert not observe(service, tasks, tasks, before=status).has_failed


def test_lines_are_printed_only_when_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A log of a deployment is as long as what happened."""
    view = LineView()
    for running in (0, 0, 1, 1):
        view.update([Progress(name="web", running=running, desired=1, reasons=("pending: x",) if not running else ())])
    view.close()
    assert capsys.readouterr().out == "web  0/1 running\nweb  pending: x\nweb  1/1 running\n"


def test_the_live_picture_has_a_line_a_service_and_its_reasons() -> None:
    """On a terminal the reasons stand under their service."""
    picture = rich_progress(
        [Progress(name="a", running=1, desired=1), Progress(name="b", running=0, desired=1, reasons=("pending: x",))]
    )
    assert picture.plain == "a  1/1 running\nb  0/1 running\n  pending: x"

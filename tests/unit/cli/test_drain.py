"""What is seen of a node that is drained, and waiting for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from swarmpy.cli.drain import observe_node, observe_service, slots_emptied, slots_on

NODE: dict[str, Any] = {"ID": "n0", "Description": {"Hostname": "host"}, "Status": {"State": "ready"}}


def service(name: str = "web", mode: str = "Replicated", **amounts: int) -> dict[str, Any]:
    return {"ID": f"id-{name}", "Spec": {"Name": name, "Mode": {mode: amounts}}}


def task(
    slot: int, node: str, state: str, desired: str = "running", err: str = "", of: str = "id-web", **more: Any
) -> dict[str, Any]:
    return {
        "ID": f"{of}.{slot}.{node}.{state}",
        "ServiceID": of,
        "NodeID": node,
        "Slot": slot,
        "CreatedAt": "1",
        "DesiredState": desired,
        "Status": {"State": state, **({"Err": err} if err else {})},
        **more,
    }


def test_slots_on_a_node_are_those_of_tasks_that_have_not_ended() -> None:
    """Also of one that was told to stop; not of global tasks, which have no other place."""
    on_node = [
        task(1, "n0", "running"),
        task(2, "n0", "running", "shutdown"),
        task(3, "n0", "shutdown", "shutdown"),
        task(4, "n0", "failed", "shutdown"),
        task(0, "n0", "running", of="id-agent"),
        task(0, "n0", "running", "complete", of="id-job", JobIteration={"Index": 0}),
    ]
    assert slots_on(on_node) == {"id-web": {1, 2}, "id-job": {0}}


def test_who_comes_back_to_a_drain_waits_for_what_it_has_stopped() -> None:
    """Slots whose last task was stopped on the node; not those that left it before, or whose task failed elsewhere."""
    tasks = [
        task(1, "n0", "shutdown", "shutdown", CreatedAt="1"),
        task(1, "", "pending", CreatedAt="2"),
        task(2, "n0", "shutdown", "shutdown", CreatedAt="1"),
        task(2, "n1", "failed", "shutdown", CreatedAt="2"),
        task(2, "n1", "ready", "ready", CreatedAt="3"),
        task(3, "n0", "failed", "shutdown", CreatedAt="1"),
        task(4, "n1", "running", CreatedAt="1"),
    ]
    assert slots_emptied(tasks, "n0") == {1}


def test_a_node_is_empty_when_all_its_tasks_have_ended() -> None:
    """Global ones as well. What waits on it says why."""
    left = observe_node(
        NODE, [task(1, "n0", "running", err="waits: x"), task(0, "n0", "starting"), task(2, "n0", "failed")]
    )
    assert left.line() == "host  2 tasks left  (running 1, starting 1)"
    assert (left.is_there, left.reasons) == (False, ("waits: x",))
    empty = observe_node(NODE, [task(1, "n0", "shutdown", "shutdown")])
    assert (empty.is_there, empty.line()) == (True, "host  no tasks left")


def test_nobody_can_tell_what_runs_on_a_node_that_is_down() -> None:
    """It is not waited for, and its user is told."""
    left = observe_node({**NODE, "Status": {"State": "down"}}, [task(1, "n0", "running", "shutdown")])
    assert (left.is_there, left.is_down) == (True, True)


def test_a_slot_has_moved_when_its_task_runs_elsewhere() -> None:
    """Not while the new one is on its way, and not while only the old one runs; the others are not looked at."""
    tasks = [
        task(1, "n0", "shutdown", "shutdown"),
        task(1, "n1", "running"),
        task(2, "n0", "running", err="waits: web may miss at most 1 task"),
        task(2, "", "pending", err="no suitable node"),
        task(3, "n0", "running", "shutdown"),
        task(3, "n1", "starting"),
        task(4, "n2", "failed", err="boom"),
    ]
    moved = observe_service(service(Replicas=4), tasks, {1, 2, 3}, "n0")
    assert moved.line() == "web  1/3 moved  (pending 1, running 1, starting 1)"
    assert (moved.is_there, moved.reasons) == (False, ("pending: no suitable node",))
    tasks += [task(2, "n1", "running"), task(3, "n1", "running")]
    assert observe_service(service(Replicas=4), tasks, {1, 2, 3}, "n0").is_there


def test_a_slot_that_is_wanted_no_more_is_not_waited_for() -> None:
    """As the service was scaled down; one that is only about to be filled is waited for."""
    tasks = [task(1, "n1", "running"), task(2, "n0", "shutdown", "shutdown")]
    assert observe_service(service(Replicas=1), tasks, {1, 2}, "n0").is_there
    assert not observe_service(service(Replicas=2), tasks, {1, 2}, "n0").is_there


@pytest.mark.parametrize(
    ("tasks", "has_moved"),
    [
        ([task(0, "n0", "complete", "complete", JobIteration={"Index": 1})], True),
        ([task(0, "n1", "running", "complete", JobIteration={"Index": 1})], True),
        ([task(0, "n0", "running", "complete", JobIteration={"Index": 1})], False),
        ([task(0, "n1", "pending", "complete", JobIteration={"Index": 1})], False),
        ([task(0, "n1", "failed", "complete", JobIteration={"Index": 1})], True),
        ([task(0, "n0", "shutdown", "remove", JobIteration={"Index": 0})], True),
    ],
)
def test_the_task_of_a_job_may_have_completed(tasks: list[dict[str, Any]], *, has_moved: bool) -> None:
    """Or been given up; one that is under way has to run elsewhere."""
    job = service("job", "ReplicatedJob", MaxConcurrent=1, TotalCompletions=1)
    assert observe_service(job, tasks, {0}, "n0").is_there is has_moved


# -- the command ------------------------------------------------------------------------------------------------------

DRAIN = ("node", "update", "--availability", "drain", "--wait")


def test_draining_is_waited_for(swarmpy: Any, daemon: Any) -> None:
    """Until the tasks run elsewhere: here they move when the drain is first looked at."""
    daemon.services["id0"] = {"ID": "id0", "Version": {"Index": 1}, "Spec": service(Replicas=1)["Spec"]}
    moves = {1: [task(1, "n0", "running", of="id0")], 4: [task(1, "n1", "running", of="id0")]}
    asked = 0

    def tasks(filters: dict[str, Any]) -> list[dict[str, Any]]:
        nonlocal asked
        asked += 1
        found = moves[max(first for first in moves if first <= asked)]
        return [item for item in found if item["NodeID"] in filters.get("node", [item["NodeID"]])]

    daemon._tasks = tasks
    done = swarmpy(*DRAIN, "host")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "host",
        "host  1 task left  (running 1)",
        "web  0/1 moved  (running 1)",
        "host  no tasks left",
        "web  1/1 moved",
    ]
    assert daemon.nodes["n0"]["Spec"]["Availability"] == "drain"


def test_a_drain_that_takes_too_long_says_what_is_left(swarmpy: Any, daemon: Any) -> None:
    """With exit code 1, and that it goes on."""
    daemon.services["id0"] = {"ID": "id0", "Version": {"Index": 1}, "Spec": service(Replicas=1)["Spec"]}
    daemon.task_error = "waits: web may miss at most 1 task"
    done = swarmpy(*DRAIN, "--timeout", "0", "host")
    assert done.code == 1
    hint, error = done.err.splitlines()
    assert hint == 'The drain goes on without you; "swarmpy node update host --availability active" takes it back.'
    node = "host 1 task left (running 1): waits: web may miss at most 1 task"
    assert error == f"swarmpy: node host is not drained after 0 s: {node} | web 0/1 moved (running 1)"


def test_a_drain_that_is_taken_back_ends_the_waiting(swarmpy: Any, daemon: Any) -> None:
    """Somebody made the node active again."""
    daemon.services["id0"] = {"ID": "id0", "Version": {"Index": 1}, "Spec": service(Replicas=1)["Spec"]}

    def take_back() -> None:
        daemon.nodes["n0"]["Spec"] = {**daemon.nodes["n0"]["Spec"], "Availability": "active"}

    timer = threading.Timer(0.6, take_back)
    timer.start()
    done = swarmpy(*DRAIN, "host")
    timer.join()
    assert (done.code, done.err) == (1, "swarmpy: node host is active again: it is not drained\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--availability", "pause", "--wait", "host"), "--wait waits for a drain"),
        (("--label-add", "a=b", "--wait", "host"), "--wait waits for a drain"),
        (("--availability", "drain", "--timeout", "3", "host"), "--timeout is of no use without --wait"),
        (("--availability", "drain", "--wait", "--timeout", "-1", "host"), "not a number of seconds"),
    ],
)
def test_wrong_options_are_refused(swarmpy: Any, daemon: Any, arguments: tuple[str, ...], words: str) -> None:
    """Before anything is changed."""
    done = swarmpy("node", "update", *arguments)
    assert done.code == 2
    assert words in done.err
    assert daemon.nodes["n0"]["Spec"]["Availability"] == "active"

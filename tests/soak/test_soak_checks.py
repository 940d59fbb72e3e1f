"""What a soak must notice: a planted violation of each promise is reported, and what is as it should be is not."""

from __future__ import annotations

from typing import Any

import pytest
from checks import (
    Creation,
    RunningTask,
    TaskProcess,
    has_majority,
    misplaced,
    worst_gap,
    wrong_creations,
    wrong_history,
    wrong_log_lines,
)
from ledgers import differences
from linearizability import ANY, Kind, Operation, Outcome


def operation(
    begin: float, end: float, kind: Kind, argument: Any = None, result: Any = ANY, outcome: Outcome = Outcome.DONE
) -> Operation:
    return Operation(
        client="c", key="k", kind=kind, argument=argument, invoked=begin, returned=end, outcome=outcome, result=result
    )


def cas(begin: float, end: float, old: str, new: str, outcome: Outcome = Outcome.DONE) -> Operation:
    return operation(begin, end, Kind.CAS, (old, new), True if outcome is Outcome.DONE else ANY, outcome)


CREATED = operation(0, 1, Kind.WRITE, "new")
CHANGED = cas(2, 3, "new", "v1")


def read(begin: float, value: str | None) -> Operation:
    return operation(begin, begin + 1, Kind.READ, result=value)


# -- histories --------------------------------------------------------------------------------------------------------


def test_a_history_that_is_right() -> None:
    """Reads see what was written; a write of unknown outcome may be seen, or not."""
    unknown = cas(4, 5, "v1", "v2", Outcome.UNKNOWN)
    assert wrong_history([CREATED, read(1.5, "new"), CHANGED, unknown, read(6, "v2")]) == ""
    assert wrong_history([CREATED, read(1.5, "new"), CHANGED, unknown, read(6, "v1")]) == ""


@pytest.mark.parametrize(
    ("last", "what"),
    [
        (read(6, "new"), "a stale read, or an acknowledged write that is lost"),
        (read(6, None), "a register that is gone"),
        (cas(6, 7, "new", "v9"), "a change that was made twice from one version"),
    ],
)
def test_a_history_that_is_not_linearizable(last: Operation, what: str) -> None:
    """It is told with the operation that nothing explains."""
    explanation = wrong_history([CREATED, CHANGED, last])
    assert "no order" in explanation, what
    assert str(last) in explanation


def test_a_write_that_was_refused_and_is_seen() -> None:
    """A refusal is a promise that nothing was done."""
    refused = cas(4, 5, "v1", "v2", Outcome.REFUSED)
    assert wrong_history([CREATED, CHANGED, refused, read(6, "v2")])


# -- creations --------------------------------------------------------------------------------------------------------


def test_creations_that_were_done_once() -> None:
    """Answered and there; removed and gone; never answered and either."""
    made = [
        Creation(name="a", answers=frozenset({"1"})),
        Creation(name="b", answers=frozenset({"2"}), deletion="done"),
        Creation(name="c", answers=frozenset()),
        Creation(name="d", answers=frozenset()),
        Creation(name="e", answers=frozenset({"5"}), deletion="unknown"),
    ]
    assert wrong_creations(made, [("a", "1"), ("c", "3")]) == []


@pytest.mark.parametrize(
    ("made", "there", "words"),
    [
        (Creation(name="a", answers=frozenset({"1"})), [], "lost"),
        (Creation(name="a", answers=frozenset({"1", "2"})), [("a", "1")], "different ids"),
        (Creation(name="a", answers=frozenset({"1"})), [("a", "1"), ("a", "2")], "exists 2 times"),
        (Creation(name="a", answers=frozenset({"1"})), [("a", "2")], "was answered as"),
        (Creation(name="a", answers=frozenset({"1"}), deletion="done"), [("a", "2")], "is there again"),
    ],
)
def test_creations_that_were_not(made: Creation, there: list[tuple[str, str]], words: str) -> None:
    """Each way to lose one, or to do it twice."""
    assert any(words in wrong for wrong in wrong_creations([made], there))


# -- tasks and processes ----------------------------------------------------------------------------------------------

TASK = RunningTask(id="t1", service="web", place="1", node="n1")
OTHER = RunningTask(id="t2", service="web", place="2", node="n2")
PROCESS = TaskProcess(pid=10, task="t1", node="n1")
SECOND = TaskProcess(pid=11, task="t2", node="n2")
ORPHAN = TaskProcess(pid=12, task="t0", node="n1")
TWIN = TaskProcess(pid=12, task="t1", node="n1")
RIVAL = RunningTask(id="t2", service="web", place="1", node="n2")


def test_every_task_where_it_belongs() -> None:
    """One running task and one process for each replica."""
    assert misplaced({"web": 2}, [TASK, OTHER], [PROCESS, SECOND]) == []


@pytest.mark.parametrize(
    ("tasks", "processes", "words"),
    [
        ([TASK], [PROCESS], "1 of 2 tasks run"),
        ([TASK, OTHER], [PROCESS], "t2 of web on n2 has 0 processes"),
        ([TASK, OTHER], [PROCESS, SECOND, ORPHAN], "orphan: process 12"),
        ([TASK, OTHER], [PROCESS, SECOND, TWIN], "t1 of web on n1 has 2 processes"),
        ([TASK, OTHER], [PROCESS, TaskProcess(pid=11, task="t2", node="n3")], "is on n3, the task on n2"),
        ([TASK, RIVAL], [PROCESS, SECOND], "2 tasks run in place 1"),
        ([TASK, OTHER, RunningTask(id="t3", service="gone", place="1", node="n1")], [], "unknown service gone"),
    ],
)
def test_tasks_and_processes_that_are_wrong(tasks: list[RunningTask], processes: list[TaskProcess], words: str) -> None:
    """Missing, doubled, misplaced and orphaned ones."""
    assert any(words in wrong for wrong in misplaced({"web": 2}, tasks, processes))


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "timestamp=2026-01-01T00:00:00Z level=error event=handler_failed method=x",
        "Traceback (most recent call last):",
        "ERROR asyncio: Task exception was never retrieved",
        "base_events.py:1907: RuntimeWarning: coroutine 'x' was never awaited",
        "swarmpy: this is a defect in swarmpy",
    ],
)
def test_lines_of_a_log_that_should_not_be_there(line: str) -> None:
    """Errors, tracebacks, and what the interpreter complains of."""
    assert wrong_log_lines(["level=info event=session_opened", line]) == [line]


def test_lines_of_a_log_that_may_be_there() -> None:
    """Warnings of the daemon, its own last line, and words that only look like trouble."""
    assert not wrong_log_lines(
        [
            'timestamp=2026-01-01T00:00:00Z level=warning event=session_lost reason="connection error"',
            "swarmpy: raft.db: no space left on device: make room, then start the daemon again",
        ]
    )


def test_a_full_disk_may_be_told_where_there_was_one() -> None:
    """And nowhere else; nor does it excuse anything else."""
    full = 'level=error event=local_state_not_saved reason="state.db cannot be written: database or disk is full"'
    other = 'level=error event=local_state_not_saved reason="state.db cannot be written: disk I/O error"'
    assert wrong_log_lines([full, other]) == [full, other]
    assert wrong_log_lines([full, other], disk_was_full=True) == [other]


def test_raft_logs_that_differ() -> None:
    """An entry that is committed on two managers is the same, wherever their logs begin."""
    log = {index: (1, 0, f"digest-{index}") for index in range(1, 6)}
    shorter = {index: entry for index, entry in log.items() if index > 3}
    assert differences({"n1": log, "n2": shorter}) == []
    (wrong,) = differences({"n1": log, "n2": {**shorter, 5: (2, 0, "other")}})
    assert wrong.startswith("entry 5 is ")


# -- unavailability ---------------------------------------------------------------------------------------------------


def test_the_worst_gap_counts_within_intervals_only() -> None:
    """From the beginning of one, between two moments, and to its end; a gap across two intervals is none."""
    assert worst_gap([1, 2, 6, 7], [(0, 10)]) == (2, 6)
    assert worst_gap([5], [(0, 6)]) == (0, 5)
    assert worst_gap([1], [(0, 6)]) == (1, 6)
    assert worst_gap([1, 9], [(0, 2), (8, 10)]) == (0, 1)
    assert worst_gap([], []) == (0, 0)


def test_who_is_a_majority() -> None:
    """More than half, all of whom reach each other in both directions."""
    names = ["a", "b", "c", "d", "e"]
    assert has_majority(names, names, [])
    assert has_majority(names, "abc", [("d", "a"), ("a", "d")])
    assert not has_majority(names, "ab", [])
    assert not has_majority(names, "abc", [("a", "b")])
    assert has_majority(names, "abcd", [("a", "b")])
    assert not has_majority(names, "abcd", [("a", "b"), ("c", "d")])

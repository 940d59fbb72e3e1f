"""The in-memory log against a model: a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raft_cluster import entries_of

from swarmpy.errors import InvariantViolation
from swarmpy.raft.log import RaftLog

TERMS = st.lists(st.integers(1, 4), max_size=12).map(sorted)


def log_of(terms: list[int], committed: int = 0) -> RaftLog:
    log = RaftLog(entries=entries_of(*terms, first=1))
    log.commit_to(committed)
    return log


def model_of(log: RaftLog) -> list[int]:
    return [log.term_at(i) for i in range(log.first_index, log.last_index + 1)]


@given(own=TERMS, other=TERMS, data=st.data())
def test_append_is_the_paper_s(own, other, data) -> None:
    """Taking over any part of another log gives what the five steps of AppendEntries give on a plain list."""
    start = data.draw(st.integers(0, len(other)))
    end = data.draw(st.integers(start, len(other)))
    prev_term = other[start - 1] if start else 0
    log = log_of(own)
    result = log.maybe_append(start, prev_term, entries_of(*other[start:end], first=start + 1))

    model = list(own)
    if start > len(model) or (start and model[start - 1] != prev_term):
        assert result is None
    else:
        assert result == end
        for place in range(start, end):
            if place >= len(model):
                model.append(other[place])
            elif model[place] != other[place]:
                del model[place:]
                model.append(other[place])
    assert model_of(log) == model
    assert log.stable <= log.last_index


@given(own=TERMS, other=TERMS)
def test_hint_never_skips_agreement(own, other) -> None:
    """Following the hints of both sides never goes below the last place at which the logs really agree."""
    agree = 0
    while agree < min(len(own), len(other)) and own[agree] == other[agree]:
        agree += 1
    leader, follower = log_of(other), log_of(own)
    probe = leader.last_index
    for _ in range(len(own) + len(other) + 2):
        if follower.matches(probe, leader.term_at(probe) or 0):
            break
        hint, hint_term = follower.agree_hint(probe, leader.term_at(probe) or 0)
        if hint_term:
            hint = leader.agree_hint(hint, hint_term)[0]
        probe = max(min(probe - 1, hint), 0)
        assert probe >= agree
    assert follower.matches(probe, leader.term_at(probe) or 0)


@given(terms=TERMS, data=st.data())
def test_compaction_changes_nothing_that_is_left(terms, data) -> None:
    """After a compaction all later entries, and the term of the last compacted one, are what they were."""
    log = log_of(terms, committed=len(terms))
    log.applied_to(len(terms))
    index = data.draw(st.integers(0, len(terms)))
    log.compact_to(index)
    assert model_of(log) == terms[index:]
    assert (log.offset, log.last_index) == (index, len(terms))
    assert log.term_at(index) == (terms[index - 1] if index else 0)
    if index:
        assert log.term_at(index - 1) is None


@given(terms=st.lists(st.just(1), min_size=1, max_size=20), data=st.data())
def test_slices_are_bounded_and_gapless(terms, data) -> None:
    """A slice starts where it was asked to, has at least one entry and no more bytes or entries than allowed."""
    log = log_of(terms)
    low = data.draw(st.integers(1, len(terms)))
    max_bytes = data.draw(st.integers(0, 60))
    max_count = data.draw(st.integers(1, 10))
    got = log.slice(low, log.last_index, max_bytes, max_count)
    assert [e.index for e in got] == list(range(low, low + len(got)))
    assert 1 <= len(got) <= max_count
    assert len(got) == 1 or sum(len(e.data) for e in got) <= max_bytes


def test_hostile_moves_are_defects() -> None:
    """What would lose or invent committed entries raises instead."""
    log = log_of([1, 1, 2], committed=2)
    with pytest.raises(InvariantViolation):
        log.commit_to(4)
    with pytest.raises(InvariantViolation):
        log.applied_to(3)
    with pytest.raises(InvariantViolation):
        log.maybe_append(1, 1, entries_of(3, first=2))
    with pytest.raises(InvariantViolation):
        log.compact_to(2)
    with pytest.raises(InvariantViolation):
        log.restore(1, 1)
    with pytest.raises(InvariantViolation):
        log.append(entries_of(2, first=9)[0])
    log.applied_to(2)
    log.compact_to(2)
    with pytest.raises(InvariantViolation):
        log.slice(1, 3, 100)


def test_stable_follows_what_was_really_written() -> None:
    """Only the entry that was written makes the log durable up to it, not another one at its place."""
    log = RaftLog()
    for entry in entries_of(1, 1, first=1):
        log.append(entry)
    assert [e.index for e in log.unstable()] == [1, 2]
    log.stable_to(2, 9)
    assert log.stable == 0
    log.stable_to(1, 1)
    assert [e.index for e in log.unstable()] == [2]

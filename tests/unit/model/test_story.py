"""The story of a task in few bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model import story
from swarmpy.model.states import Cause, TaskState
from swarmpy.model.story import Moment

START_NS = 1_790_000_000_000_000_000
AGES_MS = st.integers(-(10**11), 10**13)
MOMENTS = st.lists(
    st.tuples(AGES_MS, st.sampled_from(TaskState), st.none() | st.sampled_from(Cause)), max_size=len(TaskState)
)


def told(moments: list[tuple[int, TaskState, Cause | None]]) -> bytes:
    """The story of these."""
    out = b""
    for age_ms, state, cause in moments:
        age_ns = age_ms * story.NS_PER_MS
        out = story.observed(out, state, age_ns) if cause is None else story.desired(out, state, cause, age_ns)
    return out


@given(MOMENTS)
def test_what_was_written_is_read(moments: list[tuple[int, TaskState, Cause | None]]) -> None:
    """Every state and cause at every time, also before the task was made: clocks are set back."""
    expected = tuple(
        Moment(START_NS + age_ms * story.NS_PER_MS, state, cause is not None, cause or Cause.NONE)
        for age_ms, state, cause in moments
    )
    assert story.read(told(moments), START_NS) == expected


@given(st.binary(max_size=40))
def test_any_bytes_are_read(data: bytes) -> None:
    """What makes no sense ends the story."""
    assert len(story.read(data, START_NS)) <= len(data)


def test_the_story_of_a_task_that_runs_is_short() -> None:
    """A hundred thousand tasks have one each."""
    states = [s for s in TaskState if TaskState.PENDING <= s <= TaskState.RUNNING]
    moments = [(1000 * number, state, None) for number, state in enumerate(states)]
    assert len(told(moments)) <= 3 * len(states)


def test_a_story_has_an_end() -> None:
    """Whatever is written: what does not fit is left out."""
    out = b""
    for _ in range(1000):
        out = story.observed(out, TaskState.RUNNING, 2**62)
    assert len(out) <= story.MAX_BYTES
    assert {moment.state for moment in story.read(out, 0)} == {TaskState.RUNNING}


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_words(cause: Cause) -> None:
    """They are shown, and fit into a byte."""
    assert bool(cause.words) == (cause is not Cause.NONE)
    assert 0 <= cause < 256

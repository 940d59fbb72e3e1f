"""When connections of a node that is about to stop are let go of."""

from __future__ import annotations

import itertools
from typing import Any, cast

import attrs

from swarmpy.network.draining import DRAIN_S, SILENCES, Drain


@attrs.define(eq=False)
class Client:
    """What is looked at of a side."""

    said: int = 1
    awaits_answer: bool = False
    unsent_bytes: int = 0
    is_tied: bool = True


def idle(drain: Drain, client: Client, now: float) -> bool:
    """Whether it may be closed."""
    return drain.idle([cast("Any", client)], now) == [client]


def test_silence_after_an_answer_is_idle() -> None:
    """Not at once, and not where something was said meanwhile."""
    drain, client = Drain(10.0), Client()
    assert not idle(drain, client, 10.0)
    assert not idle(drain, client, 10.3)
    client.said += 2
    assert not idle(drain, client, 10.4)
    assert not idle(drain, client, 10.5)
    assert idle(drain, client, 10.4 + SILENCES[0][1])


def test_who_waits_is_not_idle() -> None:
    """For an answer, for bytes that are on their way to it, or for a task to be connected with."""
    for client in (Client(awaits_answer=True), Client(unsent_bytes=1), Client(is_tied=False)):
        drain = Drain(10.0)
        assert not idle(drain, client, 10.0)
        assert not idle(drain, client, 10.0 + DRAIN_S - 0.1)


def test_shorter_pauses_are_enough_later() -> None:
    """Who never pauses for long is let go of in the end."""
    for (_, silence), (later, shorter) in itertools.pairwise(SILENCES):
        drain, client, pause = Drain(0.0), Client(), silence * 0.9
        assert not idle(drain, client, later - 0.001 - pause)
        assert not idle(drain, client, later - 0.001)
        client.said += 2
        assert not idle(drain, client, later)
        assert idle(drain, client, later + shorter * 1.01)


def test_it_is_over_in_time() -> None:
    """Whatever is still open then."""
    drain = Drain(10.0)
    assert not drain.over(10.0 + DRAIN_S - 0.1)
    assert drain.over(10.0 + DRAIN_S)
    client, waiting = Client(), Client(awaits_answer=True)
    for now in (10.0 + DRAIN_S - 0.001, 10.0 + DRAIN_S):
        client.said += 1
        assert not idle(drain, client, now)
        assert idle(drain, client, now) == drain.over(now)
        assert not idle(drain, waiting, now)

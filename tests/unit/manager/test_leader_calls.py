"""Calling a leader that the caller has to find first."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest

from swarmpy.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    NotLeader,
    OutcomeUnknown,
    PermissionDenied,
    SwarmpyError,
)
from swarmpy.manager.leader_calls import LeaderCalls
from swarmpy.model.ids import NodeId
from swarmpy.ports import Peer


@attrs.define
class Managers:
    """What answers at each address: a value, or an error; nothing at all is no connection."""

    answers: dict[str, list[Any]]
    asked: list[str] = attrs.Factory(list)

    async def dial(self, address: str, *, timeout: float, expect: NodeId | None = None) -> Line:
        self.asked.append(address)
        if address not in self.answers:
            raise ConnectionFailed(f"cannot connect to {address}")
        return Line(self.answers[address])


@attrs.define
class Line:
    """A connection to one of them."""

    answers: list[Any]

    @property
    def peer(self) -> Peer:
        return Peer()

    async def call(self, method: str, payload: Any, *, timeout: float) -> Any:
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, SwarmpyError):
            raise answer
        return answer

    def notify(self, method: str, payload: Any) -> bool:
        return False

    def stream(self, method: str, payload: Any) -> AsyncIterator[Any]:
        raise AssertionError("not called")

    async def wait_closed(self) -> None:
        return

    async def close(self) -> None:
        return


def calls(managers: Managers, *addresses: str) -> LeaderCalls:
    return LeaderCalls(managers, random.Random(1), lambda: addresses)


async def test_a_follower_points_at_the_leader() -> None:
    """The answer comes from the leader that a follower named."""
    managers = Managers({"f:1": [NotLeader(leader="l:1")], "l:1": ["done"]})
    assert await calls(managers, "f:1").call("m", None, timeout=5) == "done"
    assert managers.asked == ["f:1", "l:1"]


async def test_the_next_manager_is_asked_when_one_is_gone() -> None:
    """A manager that does not answer is passed over."""
    managers = Managers({"b:1": ["done"]})
    assert await calls(managers, "a:1", "b:1").call("m", None, timeout=5) == "done"


async def test_an_election_is_waited_out() -> None:
    """While nobody leads the managers are asked again."""
    managers = Managers({"a:1": [NotLeader(), NotLeader(), "done"]})
    assert await calls(managers, "a:1").call("m", None, timeout=5) == "done"


async def test_what_the_leader_refuses_is_final() -> None:
    """An error of the leader itself is not asked for twice."""
    managers = Managers({"a:1": [PermissionDenied("invalid join token")], "b:1": ["done"]})
    with pytest.raises(PermissionDenied, match="invalid join token"):
        await calls(managers, "a:1", "b:1").call("m", None, timeout=5)
    assert managers.asked == ["a:1"]


async def test_a_lost_answer_is_not_repeated() -> None:
    """A call that may have been carried out is never made again."""
    managers = Managers({"a:1": [OutcomeUnknown("lost")], "b:1": ["done"]})
    with pytest.raises(OutcomeUnknown):
        await calls(managers, "a:1", "b:1").call("m", None, timeout=5)


async def test_the_wait_is_bounded_and_says_why() -> None:
    """Without any manager the caller gets the last reason when the time is over."""
    with pytest.raises(DeadlineExceeded, match="cannot connect to a:1"):
        await calls(Managers({}), "a:1").call("m", None, timeout=0.2)

"""The simulator's clients: what they are told is recorded, what is lost asked again, and what is wrong noticed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from clients import Client, Clients, value_of
from film import Film
from linearizability import Kind, Operation, Outcome
from loop import SimLoop, run
from managers import Managers
from net import SimNetwork


def played(body: Callable[[Managers, Clients], Coroutine[Any, Any, None]], seed: int = 0) -> None:
    """Play ``body`` with three managers that have a leader."""

    async def main(loop: SimLoop) -> None:
        managers = Managers(SimNetwork(loop))
        await managers.start()
        await managers.wait_leader()
        await body(managers, Clients(managers, loop, Film()))

    run(seed, main)


async def recorded_read(clients: Clients, key: str, value: Any) -> None:
    """A client is told ``value``, whoever made it up."""
    with clients.recorded(Operation(client="liar", key=key, kind=Kind.READ, invoked=0)) as operation:
        operation.outcome, operation.result = Outcome.DONE, value


def test_what_clients_see_of_a_healthy_group() -> None:
    """Every operation gets its answer, on whichever manager, and the history is linearizable."""

    async def body(managers: Managers, clients: Clients) -> None:
        client = Client(clients, "c")
        assert (await client.write(Kind.WRITE, "r1", "a")).outcome is Outcome.DONE
        assert (await client.write(Kind.CAS, "r1", ("a", "b"))).result is True
        assert (await client.write(Kind.CAS, "r1", ("a", "c"))).outcome is Outcome.REFUSED
        assert [(await client.write(Kind.INCREMENT, "n1", 1)).result for _ in range(3)] == [1, 2, 3]
        for manager in managers.up():
            assert (await clients.read("c", "r1", manager)).result == "b"
            assert (await clients.read("c", "n1", manager)).result == 3
        clients.check()
        clients.check_marks((await managers.wait_leader()).store.view())

    played(body)


@pytest.mark.parametrize("seed", range(5))
def test_a_write_whose_answer_is_lost_is_done_once(seed: int) -> None:
    """A client that asks again, at any manager, gets the answer of the first time."""

    async def body(managers: Managers, clients: Clients) -> None:
        managers.net.options.answer_loss = 0.6
        client = Client(clients, "c")
        for total in range(1, 11):
            operation = await client.write(Kind.INCREMENT, "n1", 1, attempts=100)
            assert (operation.outcome, operation.result) == (Outcome.DONE, total)
        view = (await managers.wait_leader()).store.view()
        assert value_of(view, "n1") == "10"
        clients.check()
        clients.check_marks(view)
        assert clients._film.operations["answer lost"]

    played(body, seed)


def test_a_client_without_an_answer_knows_nothing() -> None:
    """An operation that was never answered is of unknown outcome, and both ways of seeing it are right."""

    async def body(managers: Managers, clients: Clients) -> None:
        managers.net.options.answer_loss = 1.0
        leader = await managers.wait_leader()
        follower = next(manager for manager in managers.up() if manager is not leader)
        clients.any_manager = lambda: follower  # type: ignore[method-assign]
        operation = await Client(clients, "c").write(Kind.WRITE, "r1", "a", attempts=2)
        assert operation.outcome is Outcome.UNKNOWN
        assert (await clients.read("c", "r1", leader)).result == "a"
        clients.check()

    played(body)


def test_a_stale_answer_is_noticed() -> None:
    """A read that shows what a finished write has replaced breaks the check."""

    async def body(managers: Managers, clients: Clients) -> None:
        client = Client(clients, "c")
        await client.write(Kind.WRITE, "r1", "a")
        await client.write(Kind.WRITE, "r1", "b")
        await recorded_read(clients, "r1", "a")
        with pytest.raises(AssertionError, match="liar: read r1 -> 'a'"):
            clients.check()

    played(body)


@pytest.mark.parametrize(
    ("outcome", "there", "complaint"),
    [(Outcome.DONE, False, "lost"), (Outcome.REFUSED, True, "done though refused")],
)
def test_a_lie_about_a_write_is_noticed(outcome: Outcome, there: bool, complaint: str) -> None:
    """What was acknowledged and is not there, or refused and is, breaks the check at the end."""

    async def body(managers: Managers, clients: Clients) -> None:
        client = Client(clients, "c")
        operation = await client.write(Kind.CAS, "r1", (None if there else "nothing like it", "a"))
        operation.outcome = outcome
        with pytest.raises(AssertionError, match=complaint):
            clients.check_marks((await managers.wait_leader()).store.view())

    played(body)

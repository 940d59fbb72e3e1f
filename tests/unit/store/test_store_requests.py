"""Requests that are repeated: done once, answered the same, on whichever manager leads by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from store_world import FixedClock, InstantProposer, LateProposer, content, node

from swarmpy.errors import AlreadyExists, DataDirMismatch, FailedPrecondition, InvalidArgument, OutcomeUnknown
from swarmpy.model import codec
from swarmpy.model.changes import ChangeList
from swarmpy.model.requests import RequestId
from swarmpy.store import sessions
from swarmpy.store.memory import MAX_ANSWER_BYTES, Store
from swarmpy.store.sessions import SESSION_EXPIRY_NS
from swarmpy.store.transaction import Tx


def request(sequence: int = 1, session: str = "client", **more: Any) -> RequestId:
    """A request of a client."""
    return RequestId(session=session, sequence=sequence, **more)


def making(name: str, answer: object = None) -> Callable[[Tx], Any]:
    """Creates a node and says ``answer``, or the node's name."""

    def fn(tx: Tx) -> object:
        tx.create(node(name))
        return name if answer is None else answer

    return fn


def never(_tx: Tx) -> Any:
    """What must not be run."""
    pytest.fail("ran")


async def start(store: Store, fn: Callable[[Tx], Any], asked: RequestId, timeout: float = 10.0) -> asyncio.Task[Any]:
    """Begin an update and let it propose."""
    running = asyncio.create_task(store.update(fn, timeout, asked))
    await asyncio.sleep(0)
    return running


@pytest.fixture
def store() -> Store:
    """A store whose proposals commit at once."""
    store = Store(FixedClock())
    store.set_proposer(InstantProposer(store))
    return store


@pytest.fixture
def late(store: Store) -> LateProposer:
    """The store's proposals wait for a word of the test."""
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    return proposer


async def test_a_repeated_request_gets_the_first_answer(store: Store) -> None:
    """Its function does not run and nothing is written; another sequence or session is another request."""
    answer = {"id": "a", "list": [1, None, b"raw"]}
    assert await store.update(making("a", answer), request=request()) == answer
    for _ in range(2):
        assert await store.update(never, request=request()) == answer
    assert store.version == 1
    with pytest.raises(AlreadyExists):
        await store.update(making("a"), request=request(2))
    assert await store.update(making("b"), request=request(session="another")) == "b"


async def test_a_request_in_flight_is_waited_for(store: Store, late: LateProposer) -> None:
    """Asked again before it is committed, there is one entry and both get its answer."""
    first = await start(store, making("a"), request(), timeout=0.001)
    with pytest.raises(OutcomeUnknown):
        await first
    second, third = await start(store, never, request()), await start(store, never, request())
    assert len(late.pending) == 1
    late.commit()
    assert await asyncio.gather(second, third) == ["a", "a"]
    assert await store.update(never, request=request()) == "a"


async def test_a_request_in_flight_outlives_a_term_of_office(store: Store, late: LateProposer) -> None:
    """A leader that stops its work and begins again in the same term of Raft does not propose it twice."""
    first = await start(store, making("a"), request())
    store.set_proposer(None)
    store.set_proposer(late)
    second = await start(store, never, request())
    late.commit()
    assert await asyncio.gather(first, second) == ["a", "a"]
    assert len(late.log) == 1


async def test_the_next_leader_knows_the_answer() -> None:
    """The answer was lost with the leader; the manager that leads then gives it, from its own state."""
    leader, follower = Store(FixedClock()), Store(FixedClock())
    proposer = LateProposer(leader, follower)
    leader.set_proposer(proposer)
    running = await start(leader, making("a"), request())
    proposer.lose(kept=1)
    with pytest.raises(OutcomeUnknown):
        await running
    for store in (follower, leader):
        store.set_proposer(LateProposer(store))
        assert await store.update(never, request=request()) == "a"
        store.set_proposer(None)


async def test_a_lost_request_is_done_by_the_repetition() -> None:
    """What no majority had is done when it is asked for again, and only then remembered."""
    store = Store(FixedClock())
    proposer = LateProposer(store)
    store.set_proposer(proposer)
    running = await start(store, making("a"), request())
    proposer.lose()
    with pytest.raises(OutcomeUnknown):
        await running
    store.set_proposer(InstantProposer(store))
    assert await store.update(making("a", "second"), request=request()) == "second"
    assert await store.update(never, request=request()) == "second"


async def test_refusals_and_what_changes_nothing_are_not_remembered(store: Store) -> None:
    """Asked again they are run again, and count then."""
    assert await store.update(lambda tx: len(tx.nodes()), request=request()) == 0
    await store.update(making("a"))
    assert await store.update(lambda tx: len(tx.nodes()), request=request()) == 1
    with pytest.raises(AlreadyExists):
        await store.update(making("a"), request=request())
    assert await store.update(making("b"), request=request()) == "b"
    assert store.version == 2


@pytest.mark.parametrize("commit_first", [False, True])
async def test_another_request_under_the_same_id_is_refused(
    store: Store, late: LateProposer, commit_first: bool
) -> None:
    """It would get a stranger's answer: committed or in flight, nothing is done."""
    running = await start(store, making("a"), request(digest=b"one"))
    if commit_first:
        late.commit()
    with pytest.raises(FailedPrecondition, match="use a new key for a new request"):
        await store.update(never, request=request(digest=b"two"))
    late.commit()
    assert await running == "a"


@pytest.mark.parametrize("commit_first", [False, True])
async def test_answers_that_the_client_has_are_forgotten(store: Store, late: LateProposer, commit_first: bool) -> None:
    """A late copy of such a request is refused, by what is committed and by what is in flight."""
    first = await start(store, making("a"), request(1))
    late.commit()
    assert await store.update(never, request=request(1)) == "a"
    second = await start(store, making("c"), request(3, answered_below=3))
    if commit_first:
        late.commit()
        with pytest.raises(FailedPrecondition, match="forgotten"):
            await store.update(never, request=request(1))
    with pytest.raises(FailedPrecondition, match="forgotten"):
        await store.update(never, request=request(2))
    late.commit()
    assert await asyncio.gather(first, second) == ["a", "c"]


async def test_answers_are_plain_and_small(store: Store) -> None:
    """A result that cannot be remembered is refused before anything is done."""
    with pytest.raises(InvalidArgument, match="too large to be remembered"):
        await store.update(making("a", "x" * MAX_ANSWER_BYTES), request=request())
    with pytest.raises(TypeError):
        await store.update(making("a", node("a")), request=request())
    assert store.version == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": ""},
        {"session": "x" * 256},
        {"sequence": 0},
        {"answered_below": 2},
        {"answered_below": 0},
        {"digest": b"x" * 33},
    ],
)
def test_ids_out_of_range(wrong: dict[str, Any]) -> None:
    """A session has 1 to 255 characters, and no request is answered before it is sent."""
    with pytest.raises(InvalidArgument):
        RequestId(**{"session": "s", "sequence": 1, **wrong})


async def test_the_table_is_restored_with_the_state(store: Store) -> None:
    """A snapshot carries the answers in their order; one without answers is as it was before there were any."""
    plain = Store(FixedClock())
    plain.set_proposer(InstantProposer(plain))
    await plain.update(making("a"))
    assert (await plain.snapshot())[0] == codec.FIRST_VERSION
    for i in range(450):
        await store.update(making(f"n{i}"), request=request(i + 1, answered_below=i // 2 + 1))
        await store.update(making(f"m{i}"), request=request(session=f"s{i}", digest=b"d"))
    data = await store.snapshot()
    assert data[0] == codec.REQUESTS_VERSION
    copy = Store(FixedClock())
    await copy.restore(data)
    assert await copy.snapshot() == data
    copy.set_proposer(InstantProposer(copy))
    assert await copy.update(never, request=request(450)) == "n449"
    assert await copy.update(never, request=request(session="s0", digest=b"d")) == "m0"
    with pytest.raises(FailedPrecondition):
        await copy.update(never, request=request(5))
    with pytest.raises(DataDirMismatch):
        await Store(FixedClock()).restore(bytes([codec.SCHEMA_VERSION + 1]) + data[1:])


async def test_a_session_expires_by_the_time_in_the_log() -> None:
    """Ten minutes after its last request it is forgotten, when another request is applied and nowhere by a clock."""
    clock = FixedClock()
    store, follower = Store(clock), Store(FixedClock())
    proposer = LateProposer(store, follower)
    store.set_proposer(proposer)

    async def write(name: str, asked: RequestId) -> None:
        running = await start(store, making(name), asked)
        proposer.commit()
        await running

    await write("a", request(1, session="idle"))
    await write("b", request(1, session="busy"))
    clock.now_ns += SESSION_EXPIRY_NS - 1
    await write("c", request(2, session="busy"))
    assert await store.update(never, request=request(1, session="idle")) == "a"
    clock.now_ns += 1
    assert await store.update(never, request=request(1, session="idle")) == "a"
    await write("d", request(1, session="third"))
    assert await store.update(never, request=request(1, session="busy")) == "b"
    with pytest.raises(AlreadyExists):
        await store.update(making("a"), request=request(1, session="idle"))
    clock.now_ns = 5  # a leader whose clock is behind brings nothing back and ends nothing early
    await write("e", request(1, session="fourth"))
    assert await store.update(never, request=request(1, session="busy")) == "b"
    assert await store.snapshot() == await follower.snapshot()


async def test_a_leader_whose_clock_is_ahead_forgets_nothing() -> None:
    """A write whose answer was lost with the leader before is done once, though the next one is an hour ahead."""
    ahead = FixedClock()
    ahead.now_ns += 3600 * 10**9
    first, second = Store(FixedClock()), Store(ahead)
    for store, other, name in ((first, second, "a"), (second, first, "b")):
        proposer = LateProposer(store, other)
        store.set_proposer(proposer)
        running = await start(store, making(name), request(1, session=name))
        proposer.commit()
        await running
        store.set_proposer(None)
    proposer = LateProposer(second, first)
    second.set_proposer(proposer)
    assert await second.update(never, request=request(1, session="a")) == "a"
    ahead.now_ns += SESSION_EXPIRY_NS
    running = await start(second, making("c"), request(1, session="c"))
    proposer.commit()
    await running
    with pytest.raises(AlreadyExists):
        await second.update(making("a"), request=request(1, session="a"))


async def test_the_oldest_answers_go_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are never more than the limit, whatever sessions they are of."""
    monkeypatch.setattr(sessions, "MAX_ANSWERS", 3)
    for i, session in enumerate(["a", "b", "a", "c", "a"]):
        await store.update(making(f"n{i}"), request=request(i + 1, session=session))
    for i, session in ((2, "a"), (3, "c"), (4, "a")):
        assert await store.update(never, request=request(i + 1, session=session)) == f"n{i}"
    for i, session in ((0, "a"), (1, "b")):
        with pytest.raises(AlreadyExists):
            await store.update(making(f"n{i}"), request=request(i + 1, session=session))


async def test_an_entry_that_comes_twice_is_applied_once() -> None:
    """The second changes nothing but the version, and its answer is not taken over."""
    leader, follower = Store(FixedClock()), Store(FixedClock())
    proposer = LateProposer(leader)
    leader.set_proposer(proposer)
    running = await start(leader, making("a"), request())
    data = proposer.pending[0][1]
    proposer.commit()
    assert await running == "a"
    follower.apply(1, data)
    before = content(follower)
    twin = Store(FixedClock())
    twin_proposer = LateProposer(twin)
    twin.set_proposer(twin_proposer)
    other = await start(twin, making("b"), request())
    for index, entry in ((2, data), (3, twin_proposer.pending[0][1])):
        follower.apply(index, entry)
        assert (content(follower), follower.version) == (before, index)
    follower.set_proposer(InstantProposer(follower))
    assert await follower.update(never, request=request()) == "a"
    other.cancel()


async def test_an_entry_of_our_own_that_comes_second_takes_its_followers_out_of_the_overlay() -> None:
    """What was proposed on top of it is not shown any more, and its waiter gets the answer of the first."""
    leader, twin = Store(FixedClock()), Store(FixedClock())
    proposer, twin_proposer = LateProposer(leader), LateProposer(twin)
    leader.set_proposer(proposer)
    twin.set_proposer(twin_proposer)
    other = await start(twin, making("a", "first"), request())
    first = codec.decode(ChangeList, twin_proposer.pending[0][1]).answered
    assert first is not None
    second, third = await start(leader, making("a", "second"), request()), await start(leader, making("b"), request(2))
    leader._sessions.record(first)  # no order of entries brings a correct leader here
    proposer.commit()
    assert await second == "first"
    assert await leader.update(lambda tx: tx.nodes()) == ()
    proposer.commit()
    assert await third == "b"
    assert list(content(leader)) == ["b"]
    other.cancel()


async def test_another_leaders_entry_in_the_place_of_ours() -> None:
    """It is not taken for our request: the repetition is done anew, on top of what came instead."""
    ours, theirs = Store(FixedClock()), LateProposer(Store(FixedClock()))
    proposer = LateProposer(ours)
    ours.set_proposer(proposer)
    running = await start(ours, making("mine"), request())
    theirs.stores[0].set_proposer(theirs)
    other = await start(theirs.stores[0], making("theirs"), request(session="other"))
    ours.apply(1, theirs.pending[0][1])
    proposer.lose()
    with pytest.raises(OutcomeUnknown):
        await running
    ours.set_proposer(InstantProposer(ours))
    assert await ours.update(making("mine", "again"), request=request()) == "again"
    assert await ours.update(never, request=request(session="other")) == "theirs"
    other.cancel()


async def test_entries_without_a_request_are_as_before(store: Store, late: LateProposer) -> None:
    """They carry nothing new: not one byte, nor a newer schema."""
    running = asyncio.create_task(store.update(making("a")))
    await asyncio.sleep(0)
    data = late.pending[0][1]
    assert data[0] == codec.FIRST_VERSION
    assert sorted(codec.unpack(data[1:])) == ["changes"]
    late.commit()
    await running

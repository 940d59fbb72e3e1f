"""The checker of client histories: what a sequential object answered is accepted, what it could not is explained."""

from __future__ import annotations

import itertools
import math
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from linearizability import ANY, HistoryChecker, Kind, Operation, Outcome, Unexplored, after, check

ANY_RANDOM = st.randoms(use_true_random=False)


def operation(moments: tuple[float, float], kind: Kind, argument: Any = None, result: Any = ANY) -> Operation:
    """One of unknown outcome when it never returns."""
    outcome = Outcome.UNKNOWN if moments[1] == math.inf else Outcome.DONE
    return Operation(
        client="c",
        key="k",
        kind=kind,
        argument=argument,
        invoked=moments[0],
        returned=moments[1],
        outcome=outcome,
        result=result,
    )


def write(begin: float, end: float, value: Any) -> Operation:
    return operation((begin, end), Kind.WRITE, value)


def read(begin: float, end: float, value: Any) -> Operation:
    return operation((begin, end), Kind.READ, None, value)


def increment(begin: float, end: float, total: Any = ANY) -> Operation:
    return operation((begin, end), Kind.INCREMENT, 1, total)


def draw(random: Random, number: int, *, counter: bool) -> tuple[Kind, Any]:
    """An operation on a counter, or on a register to which each value is written once."""
    if counter:
        return random.choice(((Kind.READ, None), (Kind.INCREMENT, 1)))
    kind = random.choice((Kind.READ, Kind.WRITE, Kind.CAS))
    if kind is Kind.CAS:
        return kind, (random.choice((None, f"v{random.randrange(number + 1)}")), f"v{number}")
    return kind, f"v{number}" if kind is Kind.WRITE else None


def played(random: Random, count: int, clients: int, *, counter: bool = False) -> list[Operation]:
    """What ``clients`` see of an object that takes each operation at one moment between call and answer."""
    value: Any = None
    clock = itertools.count(1)
    history: list[Operation] = []
    under_way: list[tuple[Operation, Any]] = []
    while len(history) < count or under_way:
        if len(history) < count and (not under_way or (len(under_way) < clients and random.random() < 0.5)):
            kind, argument = draw(random, len(history), counter=counter)
            begun = Operation(client="c", key="k", kind=kind, argument=argument, invoked=next(clock))
            history.append(begun)
            under_way.append((begun, ANY))
            continue
        place = random.randrange(len(under_way))
        one, answer = under_way[place]
        if answer is not ANY:
            del under_way[place]
            one.returned, one.outcome, one.result = next(clock), Outcome.DONE, answer[0]
            continue
        fate = random.random()
        if fate < 0.05:
            del under_way[place]
            one.outcome = Outcome.REFUSED
            continue
        if one.kind is Kind.READ:
            answer = (value,)
        elif one.kind is Kind.CAS:
            answer = (value == one.argument[0],)
        elif one.kind is Kind.INCREMENT:
            answer = ((value or 0) + one.argument,)
        else:
            answer = (ANY,)
        value = value if fate > 0.95 else after(value, one)
        if fate < 0.15 or fate > 0.95:
            del under_way[place]  # of unknown outcome, done or not
        else:
            under_way[place] = (one, answer)
    return history


def explained(history: list[Operation]) -> bool:
    """The definition itself: some order of all that was done, and of some of the rest, gives every answer."""
    done = [one for one in history if one.outcome is Outcome.DONE]
    unknown = [one for one in history if one.outcome is Outcome.UNKNOWN]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(_fits(order) for order in itertools.permutations((*done, *chosen))):
                return True
    return False


def _fits(order: tuple[Operation, ...]) -> bool:
    latest, value = 0.0, None
    for one in order:
        if one.returned < latest:
            return False
        latest = max(latest, one.invoked)
        if one.result is not ANY and _answer(value, one) != one.result:
            return False
        value = after(value, attrs.evolve(one, result=ANY))
    return True


def _answer(value: Any, one: Operation) -> Any:
    match one.kind:
        case Kind.READ:
            return value
        case Kind.CAS:
            return value == one.argument[0]
        case Kind.INCREMENT:
            return (value or 0) + one.argument
        case _:
            return one.result


@given(random=ANY_RANDOM, clients=st.integers(1, 6), counter=st.booleans())
def test_what_one_object_answers_is_accepted(random: Random, clients: int, counter: bool) -> None:
    """A history of an object that really does one thing at a time is linearizable, with lost and refused calls too."""
    assert check(played(random, 60, clients, counter=counter)) is None


@given(random=ANY_RANDOM, counter=st.booleans())
def test_the_verdict_is_that_of_trying_all_orders(random: Random, counter: bool) -> None:
    """For small histories with arbitrary answers the search agrees with the definition."""
    history = played(random, 5, 3, counter=counter)
    answers = [one.result for one in history if one.kind is Kind.READ and one.result is not ANY]
    answers += [1, 2, 3] if counter else [None, "v0", "v1"]
    for one in history:
        if one.kind in (Kind.READ, Kind.INCREMENT) and one.outcome is Outcome.DONE and random.random() < 0.4:
            one.result = random.choice([value for value in answers if one.kind is Kind.READ or value is not None])
    assert (check(history) is None) == explained(history)


@given(random=ANY_RANDOM)
def test_a_stale_read_is_found(random: Random) -> None:
    """A read of what a later, finished write has replaced is wrong, whatever else goes on."""
    history = played(random, 40, 4)
    added = [write(1001, 1002, "old"), write(1003, 1004, "new"), read(1005, 1006, "old")]
    assert check([*history, *added[:2]]) is None
    assert "-> 'old'" in str(check([*history, *added]))


@given(random=ANY_RANDOM)
def test_a_lost_update_is_found(random: Random) -> None:
    """Two increments that answer the same sum cannot both have been done."""
    history = played(random, 40, 4, counter=True)
    done = [one for one in history if one.outcome is Outcome.DONE and one.kind is Kind.INCREMENT]
    assume(len(done) > 1)
    done[-1].result = done[0].result
    assert check(history) is not None


@given(random=ANY_RANDOM)
def test_a_write_that_was_done_twice_is_found(random: Random) -> None:
    """A sum that is larger than all increments that were ever asked for is wrong."""
    history = played(random, 40, 4, counter=True)
    asked = sum(one.kind is Kind.INCREMENT for one in history)
    assert check([*history, read(1000, 1001, asked + 1)]) is not None


def test_a_write_of_unknown_outcome_may_show_late_but_stays() -> None:
    """It may take effect long after; once it was seen, what it replaced is gone."""
    late = [write(0, 1, "a"), write(2, math.inf, "b"), read(3, 4, "a"), read(5, 6, "b")]
    assert check(late) is None
    assert check([*late, read(7, 8, "a")]) is not None


def test_what_was_refused_must_not_show() -> None:
    """A refused write is never read."""
    refused = attrs.evolve(write(2, 3, "b"), outcome=Outcome.REFUSED)
    assert check([write(0, 1, "a"), refused, read(4, 5, "a")]) is None
    assert check([write(0, 1, "a"), refused, read(4, 5, "b")]) is not None


def test_keys_do_not_touch_each_other() -> None:
    """An answer is wrong or right by the operations on its own key."""
    elsewhere = attrs.evolve(write(2, 3, "b"), key="other")
    assert check([write(0, 1, "a"), elsewhere, read(4, 5, "a")]) is None


def test_an_explanation_names_what_surrounds_the_wrong_answer() -> None:
    """It shows the first wrong answer, the values that were possible, what was under way and what had finished."""
    history = [write(0, 1, "a"), write(2, 3, "b"), write(4, 9, "c"), read(5, 6, "a"), read(7, 8, "a")]
    assert check(history) == (
        "no order of the operations on k explains this answer:\n"
        "  5.0000..6.0000  c: read k -> 'a'\n"
        "the value could be 'b'; under way:\n"
        "  4.0000..9.0000  c: write k 'c' -> ?\n"
        "finished before:\n"
        "  0.0000..1.0000  c: write k 'a' -> ?\n"
        "  2.0000..3.0000  c: write k 'b' -> ?"
    )


def test_a_history_may_be_checked_while_it_grows() -> None:
    """What is wrong is found as soon as the moment is passed, and not before."""
    checker = HistoryChecker()
    for one in (write(0, 1, "a"), read(2, 3, "a"), read(4, 5, "b")):
        checker.add(one)
    assert checker.advance(until=4.5) is None
    assert checker.advance() is not None


def test_a_hopeless_search_is_given_up() -> None:
    """With too much under way at once the checker says so instead of going on for hours."""
    together = [write(n, 1000 + n, f"v{n}") for n in range(24)]
    with pytest.raises(Unexplored, match=r"given up after \d+ steps, with 25 operations under way"):
        check([*together, read(500, 501, "never")])


def test_many_lost_answers_do_not_slow_it_down() -> None:
    """Hundreds of operations of unknown outcome cost little, for most of them explain nothing."""
    lost = [write(n, math.inf, f"lost{n}") for n in range(200)]
    known = [one for n in range(200, 400, 4) for one in (write(n, n + 1, f"v{n}"), read(n + 2, n + 3, f"v{n}"))]
    assert check([*lost, *known]) is None
    counts = [increment(n, math.inf) for n in range(100)] + [read(100 + n, 100.5 + n, n + 1) for n in range(100)]
    assert check(counts) is None

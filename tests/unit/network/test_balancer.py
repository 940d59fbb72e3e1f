"""Choosing endpoints."""

from __future__ import annotations

import random
from collections import Counter

import attrs
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model.assignments import Endpoint
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.network.balancer import AVOID_S, Balancer

E = [Endpoint(task_id=TaskId(f"t{n}"), node_id=NodeId("n"), address="127.0.0.1", port=n) for n in range(5)]


def test_short_connections_take_turns() -> None:
    """Connections that end before the next begins are spread to the connection."""
    balancer = Balancer(random.Random(1), E)
    counts: Counter[Endpoint] = Counter()
    for _ in range(100):
        chosen = balancer.choose(0.0)
        assert chosen is not None
        counts[chosen] += 1
        balancer.release(chosen)
    assert set(counts.values()) == {20}


def test_fewest_open_connections_win() -> None:
    """An endpoint that is busy gets no connection while another is idle."""
    balancer = Balancer(random.Random(1), E[:2])
    first = balancer.choose(0.0)
    second = balancer.choose(0.0)
    assert first is not None
    assert second is not None
    assert {first, second} == set(E[:2])
    balancer.release(second)
    assert [balancer.choose(0.0), balancer.choose(0.0) in E] == [second, True]


def test_a_refusing_endpoint_is_avoided_for_a_moment() -> None:
    """After a refusal the others are chosen, until the moment is over or all refuse."""
    balancer = Balancer(random.Random(1), E[:2])
    balancer.avoid(E[0], 10.0)
    assert [balancer.choose(10.0) for _ in range(3)] == [E[1]] * 3
    assert balancer.choose(10.0 + AVOID_S) == E[0]
    balancer.avoid(E[0], 20.0)
    balancer.avoid(E[1], 20.0)
    assert balancer.choose(20.0) is not None


def test_all_of_a_silent_node_are_avoided() -> None:
    """One that refuses says nothing of the others on its node; one that is silent does."""
    first, second, other = E[0], E[1], attrs.evolve(E[2], node_id=NodeId("other"))
    balancer = Balancer(random.Random(1), (first, second, other))
    balancer.avoid(first, 10.0)
    assert {balancer.choose(10.0) for _ in range(4)} == {second, other}
    balancer.avoid(first, 10.0, is_silent=True)
    assert {balancer.choose(10.0) for _ in range(4)} == {other}


def test_tried_endpoints_are_not_chosen_again() -> None:
    """None is left when all were tried."""
    balancer = Balancer(random.Random(1), E[:2])
    assert balancer.choose(0.0, {E[0]}) == E[1]
    assert balancer.choose(0.0, set(E[:2])) is None
    assert Balancer(random.Random(1)).choose(0.0) is None


@given(st.lists(st.one_of(st.just("choose"), st.just("release"), st.sets(st.sampled_from(E))), max_size=60))
def test_counts_survive_replacements(steps: list[str | set[Endpoint]]) -> None:
    """Whatever the table does, an endpoint's count is the number of its open connections, and the least loaded wins."""
    balancer = Balancer(random.Random(1), E)
    present = set(E)
    opened: list[Endpoint] = []
    for step in steps:
        if isinstance(step, set):
            present = step
            balancer.replace(sorted(step))
        elif step == "release" and opened:
            balancer.release(opened.pop(0))
        elif step == "choose":
            loads = {endpoint: opened.count(endpoint) for endpoint in present}
            chosen = balancer.choose(0.0)
            if not present:
                assert chosen is None
                continue
            assert chosen is not None
            assert loads[chosen] == min(loads.values())
            opened.append(chosen)

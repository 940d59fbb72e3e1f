"""Who is dealt with when strangers come: in turns of origin, within bounds, and no place is held for ever."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmpy.model.rates import Rate
from swarmpy.wire.entrance import Entrance, EntranceLimits, Room
from swarmpy.wire.origins import origin_of

FREELY = Rate(burst=1e9, per_s=1e9)
LIMITS = EntranceLimits(waiting=8, handshakes=4, handshakes_of_origin=2, strangers=FREELY)


@attrs.define(eq=False)
class Guest:
    """Somebody from somewhere."""

    origin: str


def begin_all(entrance: Entrance[Guest]) -> tuple[list[Guest], list[Guest]]:
    """Those whose handshake begins, until nobody's can, and those that are broken off for it."""
    begun, broken = [], []
    while True:
        guest, out = entrance.next(0.0)
        broken += [out] if out is not None else []
        if guest is None:
            return begun, broken
        begun.append(guest)


def test_a_flood_from_one_origin_delays_nobody_else() -> None:
    """With a full waiting room of one origin, one from elsewhere gets in, and its handshake begins next."""
    entrance: Entrance[Guest] = Entrance(LIMITS)
    flood = [Guest("bad") for _ in range(50)]
    refused = [entrance.arrive(guest, 0.0) for guest in flood]
    assert refused[:8] == [None] * 8
    assert refused[8:] == flood[8:]
    assert begin_all(entrance) == (flood[:2], [])
    for _ in range(2):
        assert entrance.arrive(Guest("bad"), 0.0) is None
    good = Guest("good")
    assert entrance.arrive(good, 0.0) is flood[2]
    assert entrance.next(0.0) == (good, None)


def test_handshakes_that_get_nowhere_give_way() -> None:
    """Two origins that hold all handshakes lose one each time somebody from elsewhere comes, down to an equal share."""
    entrance: Entrance[Guest] = Entrance(LIMITS)
    stalled = [Guest("bad"), Guest("bad"), Guest("worse"), Guest("worse")]
    for guest in stalled:
        assert entrance.arrive(guest, 0.0) is None
    begin_all(entrance)
    assert entrance.busy == 4
    good, better, late = Guest("good"), Guest("better"), Guest("late")
    for guest in (good, better, late):
        assert entrance.arrive(guest, 0.0) is None
    begun, broken = begin_all(entrance)
    assert begun == [good, better]
    assert len(broken) == 2
    assert {guest.origin for guest in broken} == {"bad", "worse"}
    assert entrance.waiting == 1
    entrance.passed(good, None, 0.0)
    assert begin_all(entrance) == ([late], [])


def test_those_who_wait_are_turned_away_when_others_have_used_up_what_there_was() -> None:
    """However many of an origin are let in to wait: no more handshakes begin than it may have."""
    limits = attrs.evolve(LIMITS, strangers=Rate(burst=3, per_s=1), handshakes=100, handshakes_of_origin=100)
    entrance: Entrance[Guest] = Entrance(limits)
    guests = [Guest("o") for _ in range(8)]
    assert [entrance.arrive(guest, 0.0) for guest in guests] == [None] * 8
    assert [entrance.next(0.0) for _ in guests] == [(g, None) for g in guests[:3]] + [(None, g) for g in guests[3:]]
    assert entrance.next(0.0) == (None, None)
    late = Guest("o")
    assert entrance.arrive(late, 0.5) is late


def test_turns_go_round() -> None:
    """Origins that wait are let in one after the other, whoever has the most that wait."""
    entrance: Entrance[Guest] = Entrance(attrs.evolve(LIMITS, handshakes=100, handshakes_of_origin=100))
    for origin in "aaaabbc":
        entrance.arrive(Guest(origin), 0.0)
    begun, _ = begin_all(entrance)
    assert "".join(guest.origin for guest in begun) == "abcabaa"


def test_who_comes_too_often_without_a_certificate_is_turned_away() -> None:
    """Members pay nothing for coming, as long as they come seldom; many strangers behind one address get in."""
    limits = EntranceLimits(strangers=Rate(burst=4, per_s=1), member=Rate(burst=2, per_s=0.1))
    entrance: Entrance[Guest] = Entrance(limits)

    def comes(now: float, node_id: str | None) -> bool:
        guest = Guest("o")
        if entrance.arrive(guest, now) is guest:
            return False
        assert entrance.next(now) == (guest, None)
        entrance.passed(guest, node_id, now)
        return True

    assert [comes(0.0, None) for _ in range(6)] == [True] * 4 + [False] * 2
    # Its own two, and one more, which costs all that its origin has.
    assert [comes(10.0, "n1") for _ in range(8)] == [True] * 3 + [False] * 5
    assert [comes(20.0, f"n{i}") for i in range(2, 100)] == [True] * 98


def test_those_who_join_are_not_counted() -> None:
    """A machine that joins comes twice without a certificate, and hundreds behind one address may."""
    entrance: Entrance[Guest] = Entrance(EntranceLimits(strangers=Rate(burst=2, per_s=0.001)))
    for _ in range(100):
        for guest in (Guest("o"), Guest("o")):
            assert entrance.arrive(guest, 0.0) is None
            assert entrance.next(0.0) == (guest, None)
            entrance.passed(guest, None, 0.0)
        late = Guest("o")
        assert entrance.arrive(late, 0.0) is late
        entrance.vouched("o", 0.0)


@given(coming=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_the_bounds_hold_and_nobody_is_lost(coming: list[tuple[int, bool]]) -> None:
    """Whoever comes and goes: the rooms are bounded, and everybody is refused, broken off, waiting, busy or through."""
    entrance: Entrance[Guest] = Entrance(LIMITS)
    fate: Counter[str] = Counter()
    busy: list[Guest] = []
    for number, ends in coming:
        fate["came"] += 1
        fate["out"] += entrance.arrive(Guest(str(number)), 0.0) is not None
        begun, broken = begin_all(entrance)
        busy = [guest for guest in (*busy, *begun) if guest not in broken]
        fate["out"] += len(broken)
        if ends and busy:
            entrance.passed(busy.pop(0), None, 0.0)
            fate["through"] += 1
        assert entrance.waiting <= LIMITS.waiting
        assert entrance.busy <= LIMITS.handshakes
        assert entrance.busy == len(busy)
        assert max(Counter(guest.origin for guest in busy).values(), default=0) <= LIMITS.handshakes_of_origin
        assert fate["came"] == fate["out"] + fate["through"] + entrance.waiting + entrance.busy
    # Nobody waits while there is a place for them.
    for guest in busy:
        entrance.passed(guest, None, 0.0)
    begun, _ = begin_all(entrance)
    assert begun or not entrance.waiting


def test_a_room_is_shared_by_origins() -> None:
    """One that has less than others gets in for one of theirs; of those with most the first one goes."""
    room: Room[Guest] = Room(4)
    a, b = [Guest("a") for _ in range(4)], [Guest("b") for _ in range(3)]
    assert [room.enter(guest) for guest in a] == [None] * 4
    assert [room.enter(guest) for guest in b] == [a[0], a[1], b[2]]
    assert (room.of("a"), room.of("b"), len(room)) == (2, 2, 4)
    assert room.leave(b[0])
    assert not room.leave(b[0])


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("10.0.0.7:2377", "10.0.0.7"),
        ("[::ffff:10.0.0.7]:2377", "10.0.0.7"),
        ("[2001:db8:1:2:3:4:5:6]:99", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::]:99", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:99", "fe80::/64"),
        ("10.0.0.7", "10.0.0.7"),
        ("worker-3:1", "worker-3"),
        ("", ""),
    ],
)
def test_origins(address: str, origin: str) -> None:
    """An IPv4 address is one however it is written, and so is a /64 of IPv6."""
    assert origin_of(address) == origin

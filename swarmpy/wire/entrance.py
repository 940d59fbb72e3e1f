"""Who of those who connect is dealt with, and when. Decides only; the listener does it.

A handshake costs the processor a millisecond and whoever connects causes one. So strangers wait in a bounded room, are
let in in turns of origin and a few at a time, and an origin that comes too often without a certificate is turned away
before anything is done for it. Nobody who comes from elsewhere waits longer for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import attrs

from swarmpy.model.rates import Buckets, Rate

STRANGERS = Rate(burst=256, per_s=100)
MEMBER = Rate(burst=64, per_s=4)
PENALTY = 16
"""What a connection of a member that has had its own costs its origin: it knows better than a stranger does, and to
check its certificate costs more."""
JOIN_CONNECTIONS = 2
"""Of a machine that joins: one to learn the root CA, one to ask for its certificate."""
MAX_ORIGINS = 4096
"""Origins and nodes whose rate is remembered."""


class Guest(Protocol):
    """Somebody who connects."""

    @property
    def origin(self) -> str:
        """Where from."""


G = TypeVar("G", bound=Guest)


@attrs.frozen(kw_only=True)
class EntranceLimits:
    """How many may be on their way in."""

    waiting: int = 512
    """Connections that wait for their handshake to begin."""
    handshakes: int = 192
    """Handshakes under way. They cost nothing while they wait for the peer, be it far away or mean."""
    handshakes_of_origin: int = 96
    """Some hundred nodes behind one address, far away, must all come back before they are missed."""
    strangers: Rate = STRANGERS
    """Connections of one origin that turn out to be of no member. Some hundred machines behind one address can join."""
    member: Rate = MEMBER
    """Connections of one member; more than that count as a stranger's."""


class Room(Generic[G]):
    """So many guests by origin, the first who came first. When it is full, whoever has most of it gives way."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._guests: OrderedDict[str, OrderedDict[G, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, origin: str) -> int:
        """How many of that origin are in it."""
        return len(self._guests.get(origin, ()))

    def enter(self, guest: G) -> G | None:
        """Take ``guest`` in. Returns who has to leave for it, ``guest`` itself perhaps; None: nobody."""
        out: G | None = None
        if self._count >= self._size:
            if not self.has_place_for(guest.origin):
                return guest
            # Not the last place of somebody else: they would chase each other out for ever.
            most = max(self._guests.values(), key=len)
            out = next(iter(most))
            self.leave(out)
        self._guests.setdefault(guest.origin, OrderedDict())[guest] = None
        self._count += 1
        return out

    def leave(self, guest: G) -> bool:
        """``guest`` goes. False when it was not there."""
        own = self._guests.get(guest.origin)
        if own is None or guest not in own:
            return False
        del own[guest]
        self._count -= 1
        if not own:
            del self._guests[guest.origin]
        return True

    def has_place_for(self, origin: str) -> bool:
        """True when :meth:`enter` would take in somebody from there."""
        return self._count < self._size or self._largest >= self.of(origin) + 2

    @property
    def _largest(self) -> int:
        return max(map(len, self._guests.values()), default=0)

    def next(self, may: Callable[[str], bool]) -> G | None:
        """The one whose turn it is, out of the room, from an origin that ``may``."""
        for origin, own in self._guests.items():
            if may(origin):
                guest = next(iter(own))
                self._guests.move_to_end(origin)
                self.leave(guest)
                return guest
        return None


class Entrance(Generic[G]):
    """Guests come (:meth:`arrive`), are let in (:meth:`next`) and are through, or gone (:meth:`passed`)."""

    def __init__(self, limits: EntranceLimits) -> None:
        self._limits = limits
        self._waiting: Room[G] = Room(limits.waiting)
        self._busy: Room[G] = Room(limits.handshakes)
        self._strangers: Buckets[str] = Buckets(limits.strangers, most=MAX_ORIGINS)
        self._members: Buckets[str] = Buckets(limits.member, most=MAX_ORIGINS)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """How many handshakes are under way."""
        return len(self._busy)

    def arrive(self, guest: G, now: float) -> G | None:
        """``guest`` has connected. Returns who is to be turned away, ``guest`` itself perhaps."""
        if self._strangers.of(guest.origin, now).wait_s(now) > 0:
            return guest
        return self._waiting.enter(guest)

    def next(self, now: float) -> tuple[G | None, G | None]:
        """Whose handshake begins now, and who is to be turned away; None: nobody.

        A handshake that gets nowhere is broken off only for an origin that has far fewer of them under way.
        """
        guest = self._waiting.next(self._may_begin)
        if guest is None:
            return None, None
        if not self._strangers.of(guest.origin, now).take(now):
            # Those from there that came before it have used up what there was.
            return None, guest
        return guest, self._busy.enter(guest)

    def _may_begin(self, origin: str) -> bool:
        return self._busy.of(origin) < self._limits.handshakes_of_origin and self._busy.has_place_for(origin)

    def passed(self, guest: G, node_id: str | None, now: float) -> None:
        """The handshake of ``guest`` is over: it is the member ``node_id``, or nobody."""
        self._busy.leave(guest)
        if node_id is None:
            return
        strangers = self._strangers.of(guest.origin, now)
        if self._members.of(node_id, now).take(now):
            strangers.give_back()
        else:
            strangers.drain(now, PENALTY - 1)

    def vouched(self, origin: str, now: float) -> None:
        """Somebody from there who came without a certificate is one that the cluster expects."""
        self._strangers.of(origin, now).give_back(JOIN_CONNECTIONS)

    def clear(self) -> list[G]:
        """Nobody is let in any more. Returns who waited."""
        left: list[G] = []
        while (guest := self._waiting.next(lambda _: True)) is not None:
            left.append(guest)
        return left

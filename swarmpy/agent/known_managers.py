"""Which manager to try next. Pure but for the randomness and the clock it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from swarmpy.ports import Clock, Random

MAX_REDIRECTS = 3
"""Redirects followed in a row: managers that send an agent in circles are electing, and need a moment."""

DISBELIEF_S = 1.0
"""How long a redirect to a manager that did not answer is ignored: others go on naming a leader that is lost until
they have elected another, which takes about as long. After that they surely speak of one who is back."""


class KnownManagers:
    """The managers an agent has heard of, in random rounds, each once a round."""

    def __init__(self, seeds: Callable[[], Iterable[str]], random: Random, clock: Clock) -> None:
        self._seeds = seeds
        self._random = random
        self._clock = clock
        self._learned: tuple[str, ...] = ()
        self._round: list[str] = []
        self._leader = ""
        self._unreachable = ""
        self._disbelieved_until = 0.0
        self._redirects = 0

    @property
    def learned(self) -> tuple[str, ...]:
        """What :meth:`learn` was told last."""
        return self._learned

    @property
    def round_is_over(self) -> bool:
        """True when every known manager has been tried."""
        return not self._round

    def learn(self, addresses: Iterable[str]) -> None:
        """These are the managers now."""
        self._learned = tuple(addresses)

    def next(self) -> str | None:
        """The address to try now; None when no manager is known."""
        if self._leader:
            address, self._leader = self._leader, ""
            return address
        if not self._round:
            self._round = self._shuffled()
        if not self._round:
            return None
        address = self._round.pop()
        if address == self._unreachable:
            self._unreachable = ""
        return address

    def unreachable(self, address: str) -> None:
        """Nobody answers at ``address``: redirects to it are out of date for a while, or until its turn in a round."""
        self._unreachable = address
        self._disbelieved_until = self._clock.monotonic() + DISBELIEF_S

    def redirect(self, leader: str) -> bool:
        """A manager named the leader. True when that one is to be tried at once."""
        if not leader or self._is_disbelieved(leader) or self._redirects >= MAX_REDIRECTS:
            self._redirects = 0
            return False
        self._redirects += 1
        self._leader = leader
        return True

    def other_than(self, address: str) -> str | None:
        """A manager that was told of, but not this one; None where there is no other."""
        others = [other for other in self._learned if other != address]
        return others[self._random.randrange(len(others))] if others else None

    def lost(self, address: str, *, reachable: bool, first: str = "") -> None:
        """A session with ``address`` is over. It comes first in the new round if it still answers, last if not.

        ``first``: that manager comes before all.
        """
        self._redirects = 0
        self._unreachable = ""
        if not reachable:
            self.unreachable(address)
        others = [other for other in self._shuffled() if other != address]
        order = [*others, address] if reachable else [address, *others]
        self._round = [*(other for other in order if other != first), first] if first in order else order

    def _is_disbelieved(self, address: str) -> bool:
        return address == self._unreachable and self._clock.monotonic() < self._disbelieved_until

    def _shuffled(self) -> list[str]:
        # Seeds stay candidates: the learned list may be older than the address the operator gave.
        addresses = list(dict.fromkeys((*self._learned, *self._seeds())))
        for i in range(len(addresses) - 1, 0, -1):
            j = self._random.randrange(i + 1)
            addresses[i], addresses[j] = addresses[j], addresses[i]
        return addresses

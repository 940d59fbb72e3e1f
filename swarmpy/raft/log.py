"""The replicated log in memory: a compacted past, known only by its last index and term, and the entries after it.

``stable`` (on this disk) and ``committed`` (on a majority's) move independently of each other: a leader's entry may be
committed by its followers before its own disk has it. ``applied`` never passes ``committed``, ``committed`` never goes
back, and nothing committed is ever cut; a breach of these raises InvariantViolation.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarmpy.errors import InvariantViolation
from swarmpy.raft.messages import Entry


class RaftLog:
    """Entries ``first_index .. last_index``; ``offset`` is the last compacted one, whose term is still known."""

    __slots__ = ("_entries", "_offset_term", "applied", "committed", "offset", "stable")

    def __init__(self, *, offset: int = 0, offset_term: int = 0, entries: Sequence[Entry] = ()) -> None:
        self.offset = offset
        self._offset_term = offset_term
        self._entries = list(entries)
        self.committed = offset
        self.applied = offset
        self.stable = offset + len(self._entries)

    @property
    def first_index(self) -> int:
        """The first entry still here (``last_index + 1`` when none is)."""
        return self.offset + 1

    @property
    def last_index(self) -> int:
        """The last entry, or the compacted one."""
        return self.offset + len(self._entries)

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._entries[-1].term if self._entries else self._offset_term

    def term_at(self, index: int) -> int | None:
        """The term of the entry ``index``; None when it is compacted or not there yet."""
        place = index - self.offset - 1
        if 0 <= place < len(self._entries):
            return self._entries[place].term
        return self._offset_term if place == -1 else None

    def matches(self, index: int, term: int) -> bool:
        """True when the entry ``index`` is here with ``term``."""
        return self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """True when a log ending so is at least as complete as this one (section 5.4.1 of the Raft paper)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def entry(self, index: int) -> Entry:
        """The entry ``index``, which must be here."""
        return self._entries[index - self.offset - 1]

    def slice(self, low: int, high: int, max_bytes: int, max_count: int = 1 << 30) -> tuple[Entry, ...]:
        """Entries ``low .. high`` (inclusive), as many as fit both bounds, but at least one if there is any."""
        if low <= self.offset:
            raise InvariantViolation(f"entry {low} is asked for, but the log begins at {self.first_index}")
        start = low - self.offset - 1
        found = self._entries[start : min(high - self.offset, start + max_count)]
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.data)
            if size > max_bytes and count:
                return tuple(found[:count])
        return tuple(found)

    def tail_from(self, index: int, max_count: int, max_bytes: int) -> int:
        """The first of the last entries up to ``index`` that both bounds allow to keep; ``index + 1`` for none."""
        low = max(self.offset, index - max_count) + 1
        place = index + 1
        while place > low:
            max_bytes -= len(self.entry(place - 1).data)
            if max_bytes < 0:
                break
            place -= 1
        return place

    def unstable(self) -> tuple[Entry, ...]:
        """Entries that are not on this disk yet."""
        return tuple(self._entries[self.stable - self.offset :])

    def append(self, entry: Entry) -> None:
        """Add one at the end (a leader's)."""
        if entry.index != self.last_index + 1:
            raise InvariantViolation(f"entry {entry.index} appended after {self.last_index}")
        self._entries.append(entry)

    def maybe_append(self, prev_index: int, prev_term: int, entries: Sequence[Entry]) -> int | None:
        """Follow a leader's log after its entry ``prev_index``.

        Cuts only where the terms really conflict, so a late or repeated message takes nothing back. Returns the last
        index now known to match; None, and nothing changed, when the entry before does not match.
        """
        if not self.matches(prev_index, prev_term):
            return None
        for place, entry in enumerate(entries):
            if self.term_at(entry.index) != entry.term:
                self._cut(entry.index)
                self._entries.extend(entries[place:])
                break
        return prev_index + len(entries)

    def _cut(self, index: int) -> None:
        if index > self.last_index:
            return
        if index <= self.committed:
            raise InvariantViolation(f"entry {index} conflicts with a committed one (commit {self.committed})")
        del self._entries[index - self.offset - 1 :]
        self.stable = min(self.stable, index - 1)

    def agree_hint(self, index: int, term: int) -> tuple[int, int]:
        """The largest index up to ``index`` whose term is not above ``term``, and its term (0: not known here).

        One answer skips a whole run of conflicting terms, instead of one entry for each round trip.
        """
        index = min(index, self.last_index)
        while index > self.offset:
            found = self.entry(index).term
            if found <= term:
                return index, found
            index -= 1
        return index, (self.term_at(index) or 0)

    def commit_to(self, index: int) -> None:
        """Everything up to ``index`` is committed."""
        if index > self.last_index:
            raise InvariantViolation(f"commit {index} is beyond the last entry {self.last_index}: was the log lost?")
        self.committed = max(self.committed, index)

    def applied_to(self, index: int) -> None:
        """Everything up to ``index`` is applied."""
        if index > self.committed:
            raise InvariantViolation(f"applied {index} is beyond the commit {self.committed}")
        self.applied = max(self.applied, index)

    def stable_to(self, index: int, term: int) -> None:
        """Entries up to ``index`` are on disk, if it still is the entry of ``term`` that was written."""
        if index > self.stable and self.matches(index, term):
            self.stable = index

    def compact_to(self, index: int) -> None:
        """Forget entries up to ``index``, which must be applied and stable."""
        if index <= self.offset:
            return
        if index > min(self.applied, self.stable):
            raise InvariantViolation(f"compaction to {index} beyond applied {self.applied}, stable {self.stable}")
        self._offset_term = self.entry(index).term
        del self._entries[: index - self.offset]
        self.offset = index

    def restore(self, index: int, term: int) -> None:
        """Replace everything by a snapshot."""
        if index < self.committed:
            raise InvariantViolation(f"snapshot {index} is behind the commit {self.committed}")
        self._entries.clear()
        self.offset, self._offset_term = index, term
        self.committed = self.applied = self.stable = index

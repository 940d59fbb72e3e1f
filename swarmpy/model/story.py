"""What became of a task, and when: the states that it passed, and why it was told to stop. Pure.

A task keeps its story as a few bytes, since there may be a hundred thousand: an entry has a byte for what happened, one
more for the cause where the desired state changed, and the milliseconds since the task was made as a varint. It has an
end by itself, as states only rise.
"""

from __future__ import annotations

import attrs

from swarmpy.model.states import Cause, TaskState

NS_PER_MS = 1_000_000
MAX_BYTES = 192
"""Far more than all states that there are take, even if a hundred years lie between them."""

_STATES = tuple(TaskState)
_NUMBER = {state: number for number, state in enumerate(_STATES)}
_DESIRED = 0x40
"""Of an entry's first byte: the desired state became this."""
_MAX_VARINT = 10


@attrs.frozen
class Moment:
    """One entry: from then on the task was in ``state``, or was to be (``is_desired``) because of ``cause``."""

    at_ns: int
    """By the clock of the manager that wrote it down."""
    state: TaskState
    is_desired: bool = False
    cause: Cause = Cause.NONE


def observed(story: bytes, state: TaskState, age_ns: int) -> bytes:
    """``story`` with the state that the task came to when it was ``age_ns`` old (less than 0: by an earlier clock)."""
    return _with(story, bytes((_NUMBER[state],)), age_ns)


def desired(story: bytes, state: TaskState, cause: Cause, age_ns: int) -> bytes:
    """``story`` with the state that the task was to be in from then on."""
    return _with(story, bytes((_DESIRED | _NUMBER[state], cause)), age_ns)


def _with(story: bytes, what: bytes, age_ns: int) -> bytes:
    age_ms = age_ns // NS_PER_MS
    # As protocol buffers have it: small whatever the sign, and seven bits a byte.
    rest = (age_ms << 1) ^ (age_ms >> 63)
    digits = bytearray()
    while rest > 0x7F and len(digits) < _MAX_VARINT:
        digits.append(rest & 0x7F | 0x80)
        rest >>= 7
    digits.append(rest & 0x7F)
    longer = story + what + digits
    return longer if len(longer) <= MAX_BYTES else story


def read(story: bytes, created_at_ns: int) -> tuple[Moment, ...]:
    """The entries in their order. What makes no sense ends them."""
    moments = []
    rest = iter(story)
    try:
        for what in rest:
            cause = Cause(next(rest)) if what & _DESIRED else Cause.NONE
            state = _STATES[what & ~_DESIRED]
            number = shift = 0
            for digit in rest:
                number |= (digit & 0x7F) << shift
                shift += 7
                if not digit & 0x80:
                    break
            age_ms = (number >> 1) ^ -(number & 1)
            moments.append(Moment(created_at_ns + age_ms * NS_PER_MS, state, bool(what & _DESIRED), cause))
    except (IndexError, ValueError, StopIteration):
        pass
    return tuple(moments)

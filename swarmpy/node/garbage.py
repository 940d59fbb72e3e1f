"""Python's garbage collector, kept short on a manager with a large state.

A full collection looks at every container that lives: 0.6 s with 100,000 tasks in the store, longer than an election
timeout, and on the event loop's thread. It finds nothing there: what is in the store is immutable, has no cycles, and
is freed by its reference count. So it is frozen: taken out of what the collector looks at.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

LOOK_S = 0.5
SETTLE_S = 5.0
"""A manager's half that was stopped is gone by then."""
ENOUGH_CHANGES = 5_000
"""Objects that were written since the last time: a full collection over them takes some ten milliseconds."""


def freeze() -> None:
    """Collect what can be, and take the rest out of later collections."""
    gc.collect()
    gc.freeze()


async def keep_collections_short(written: Callable[[], int]) -> None:
    """Freeze, until cancelled, whenever enough has been written; ``written`` tells how many objects ever were.

    What is part of a garbage cycle at such a moment is not freed: there is little, and it is not often. But a manager's
    half is one large cycle with a store in it. So when one was stopped, all that is frozen is looked at again.
    """
    frozen = last = 0
    while True:
        await asyncio.sleep(LOOK_S)
        now = written()
        if now < last:
            gc.unfreeze()
            await asyncio.sleep(SETTLE_S)
            freeze()
            frozen = now = written()
        if now - frozen >= ENOUGH_CHANGES:
            freeze()
            frozen = now
        last = now

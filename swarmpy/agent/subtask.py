"""Waiting for a task of one's own."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def ended(task: asyncio.Task[T]) -> asyncio.Task[T]:
    """Return ``task`` once it has ended, however it did. When the caller is cancelled, ``task`` is, and is awaited.

    What the task raises is left in it. This also keeps apart who was cancelled: before Python 3.13 a TaskGroup whose
    task fails swallows a cancellation from outside that comes at the same moment. In a task of its own it may.
    """
    try:
        await asyncio.wait((task,))
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
        if not task.cancelled():
            # Seen: a caller that is cancelled, now or before it gets to look at it, will not.
            task.exception()
    return task

"""Connections that are kept: one channel for each address, opened when it is needed.

Written against ``ports.Dialer``, so that the simulator runs the same code. Never retries a request: a request that may
have been carried out is the caller's to judge.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import structlog

from swarmpy.errors import ConnectionFailed, SwarmpyError
from swarmpy.model.ids import NodeId
from swarmpy.ports import Channel, Dialer, Random

log = structlog.get_logger(__name__)

BACKOFF_FIRST_S = 0.05
BACKOFF_MOST_S = 1.0
DIAL_TIMEOUT_S = 2.0
MAX_QUEUED = 256
"""Messages that wait for a connection to one peer."""
MAX_QUEUED_BYTES = 16 * 1024 * 1024
"""What they may weigh together."""
MAX_ADDRESSES = 256
"""Peers that are kept connected at a time: many more than a cluster should have managers."""
IDLE_S = 60.0
"""A peer that nothing was sent to for this long is let go."""


class Backoff:
    """Pauses: 50 ms doubling to 1 s, each shortened at random by up to a half: peers must not march in step."""

    def __init__(self, random: Random | None) -> None:
        self._random = random
        self._next_s = BACKOFF_FIRST_S

    def next(self) -> float:
        """Seconds to wait now."""
        pause = self._next_s
        self._next_s = min(self._next_s * 2, BACKOFF_MOST_S)
        return pause if self._random is None else self._random.uniform(pause / 2, pause)

    def reset(self) -> None:
        """It worked."""
        self._next_s = BACKOFF_FIRST_S


@attrs.define
class _Slot:
    """What the pool has of one address."""

    backoff: Backoff
    lock: asyncio.Lock = attrs.Factory(asyncio.Lock)
    channel: Channel | None = None
    watcher: asyncio.Task[None] | None = None
    closed_until: float = 0.0
    reason: str = ""


class ChannelPool:
    """One channel for each address, shared by everybody who asks. Without ``random`` the back-off has no jitter."""

    def __init__(self, dialer: Dialer, random: Random | None = None) -> None:
        self._dialer = dialer
        self._random = random
        self._slots: dict[str, _Slot] = {}
        self._is_closed = False

    async def get(self, address: str, *, timeout: float = DIAL_TIMEOUT_S) -> Channel:
        """The channel to ``address``, dialled if there is none.

        Raises as ``ports.Dialer.dial``, and ConnectionFailed at once for a short while after a failed attempt, or
        when there are connections to too many others.
        """
        if self._is_closed:
            raise ConnectionFailed(f"{address}: this node is stopping")
        slot = self._slots.get(address)
        if slot is None:
            self._forget_one()
            slot = self._slots[address] = _Slot(Backoff(self._random))
        try:
            async with asyncio.timeout(timeout):
                await slot.lock.acquire()
        except TimeoutError:
            raise ConnectionFailed(f"{address} does not answer within {timeout:g} s") from None
        try:
            return slot.channel or await self._dial(slot, address, timeout)
        finally:
            slot.lock.release()

    async def drop(self, address: str) -> None:
        """Close the channel to ``address``, if there is one."""
        slot = self._slots.pop(address, None)
        if slot is None:
            return
        channel, slot.channel = slot.channel, None
        if slot.watcher is not None:
            slot.watcher.cancel()
            await asyncio.wait([slot.watcher])
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Close every channel; none is opened after this."""
        self._is_closed = True
        for address in list(self._slots):
            await self.drop(address)

    def _forget_one(self) -> None:
        """Make room: what is remembered of an address without a connection is only a short while of back-off."""
        if len(self._slots) < MAX_ADDRESSES:
            return
        idle = [address for address, slot in self._slots.items() if slot.channel is None and not slot.lock.locked()]
        if not idle:
            raise ConnectionFailed(f"this node has connections to {len(self._slots)} addresses already")
        del self._slots[idle[0]]

    async def _dial(self, slot: _Slot, address: str, timeout: float) -> Channel:
        if asyncio.get_running_loop().time() < slot.closed_until:
            raise ConnectionFailed(f"{address}: {slot.reason}; tried a moment ago")
        try:
            channel = await self._dialer.dial(address, timeout=timeout)
        except SwarmpyError as error:
            slot.reason = error.message
            slot.closed_until = asyncio.get_running_loop().time() + slot.backoff.next()
            raise
        if self._slots.get(address) is not slot:
            await channel.close()
            raise ConnectionFailed(f"{address}: the connection was dropped while it was made")
        slot.backoff.reset()
        slot.channel = channel
        slot.watcher = asyncio.create_task(_forget_when_closed(slot, channel), name=f"watch {address}")
        return channel


async def _forget_when_closed(slot: _Slot, channel: Channel) -> None:
    await channel.wait_closed()
    if slot.channel is channel:
        slot.channel = None


@attrs.define
class _Receiver:
    """What the sender has of one address."""

    address: str
    expect: NodeId | None
    queue: deque[tuple[str, Any]] = attrs.Factory(deque)
    queued_bytes: int = 0
    channel: Channel | None = None
    wanted: asyncio.Event = attrs.Factory(asyncio.Event)
    used_at: float = 0.0

    def forget_queue(self) -> None:
        """Nothing waits any more."""
        self.queue.clear()
        self.queued_bytes = 0


class PeerSender:
    """Notifications to many peers, best effort and in order, for Raft. ``send`` works while :meth:`run` runs."""

    def __init__(
        self,
        dialer: Dialer,
        random: Random,
        *,
        on_unreachable: Callable[[str], None],
        dial_timeout_s: float = DIAL_TIMEOUT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._dialer = dialer
        self._random = random
        self._on_unreachable = on_unreachable
        self._dial_timeout_s = dial_timeout_s
        self._idle_s = idle_s
        self._group: asyncio.TaskGroup | None = None
        self._receivers: dict[str, _Receiver] = {}

    async def run(self) -> None:
        """Keep connections to the peers that are sent to, until cancelled. Closes them then."""
        assert self._group is None, "already running"
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                await asyncio.get_running_loop().create_future()
        finally:
            self._group = None
            self._receivers.clear()

    def send(self, address: str, method: str, payload: Any, *, expect: NodeId | None = None, size: int = 0) -> bool:
        """Send if possible, or queue until the peer is connected. False when the message was dropped.

        ``size`` is about what the payload weighs, in bytes, and counts while it waits.
        """
        if self._group is None:
            return False
        receiver = self._receivers.get(address)
        if receiver is None:
            if len(self._receivers) >= MAX_ADDRESSES:
                return False
            receiver = self._receivers[address] = _Receiver(address, expect)
            self._group.create_task(self._keep(receiver), name=f"send to {address}")
        receiver.used_at = asyncio.get_running_loop().time()
        if receiver.channel is not None:
            return receiver.channel.notify(method, payload)
        if len(receiver.queue) >= MAX_QUEUED or receiver.queued_bytes + size > MAX_QUEUED_BYTES:
            return False
        receiver.queue.append((method, payload))
        receiver.queued_bytes += size
        receiver.wanted.set()
        return True

    async def _keep(self, receiver: _Receiver) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._random)
        try:
            while await self._is_wanted(receiver):
                try:
                    channel = await self._dialer.dial(
                        receiver.address, timeout=self._dial_timeout_s, expect=receiver.expect
                    )
                except SwarmpyError as error:
                    log.debug("peer_unreachable", address=receiver.address, reason=error.message)
                    # What waited is out of date by the time the peer is back; Raft sends anew.
                    receiver.forget_queue()
                    receiver.wanted.clear()
                    self._on_unreachable(receiver.address)
                    await asyncio.sleep(backoff.next())
                    continue
                connected_at = loop.time()
                is_lost = await self._use(receiver, channel)
                if loop.time() - connected_at > BACKOFF_MOST_S:
                    # Only now: a peer that hangs up on us at once is not to be dialled without a pause.
                    backoff.reset()
                if is_lost:
                    self._on_unreachable(receiver.address)
                    await asyncio.sleep(backoff.next())
        finally:
            if self._receivers.get(receiver.address) is receiver:
                del self._receivers[receiver.address]

    async def _is_wanted(self, receiver: _Receiver) -> bool:
        try:
            async with asyncio.timeout(self._idle_s):
                await receiver.wanted.wait()
        except TimeoutError:
            return bool(receiver.queue)
        return True

    async def _use(self, receiver: _Receiver, channel: Channel) -> bool:
        """Send over ``channel`` until it is lost (True) or nothing was sent for long (False)."""
        loop = asyncio.get_running_loop()
        receiver.wanted.clear()
        receiver.channel = channel
        try:
            for method, payload in receiver.queue:
                channel.notify(method, payload)
            receiver.forget_queue()
            while (rest := receiver.used_at + self._idle_s - loop.time()) > 0:
                try:
                    async with asyncio.timeout(rest):
                        await channel.wait_closed()
                    return True
                except TimeoutError:
                    continue
            return False
        finally:
            receiver.channel = None
            await channel.close()

"""The host of a :class:`RaftCore` in asyncio: feeds it, and does what it asks in the order it asks for.

Two tasks. One steps messages into the core as they come, has it ticked (:mod:`swarmpy.raft.ticker`) and sends what need
not wait; so heartbeats and answers go out while the disk works or entries are applied. The other does the duties of
each Ready (:mod:`swarmpy.raft.duties`).

It never decides anything about consensus, and never goes on after a storage error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from swarmpy.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    StorageError,
    Unavailable,
)
from swarmpy.model.cluster_spec import RaftConfig
from swarmpy.model.rates import Bucket, Rate
from swarmpy.ports import Random
from swarmpy.raft.core import RaftCore
from swarmpy.raft.duties import Duties
from swarmpy.raft.frames import frames
from swarmpy.raft.inbox import Inbox
from swarmpy.raft.messages import NO_ONE, ConfChange, ConfState, Member, Message, MessageType
from swarmpy.raft.open_reads import Reads
from swarmpy.raft.ports import RaftTransport, StateMachine
from swarmpy.raft.proposals import Proposal, Proposals
from swarmpy.raft.snapshots import Snapshots
from swarmpy.raft.status import CUT_OFF, RaftStatus, status_of
from swarmpy.raft.storage import LogStorage
from swarmpy.raft.ticker import Ticker, timing_of

log = structlog.get_logger(__name__)

MAX_PROPOSAL_BYTES = 1536 * 1024
ABSURDITIES = Rate(burst=10, per_s=0.1)
"""Messages that are dropped as absurd and told of."""
DISK_PATIENCE = 10
"""A leader hands over when one write takes so many election timeouts: followers commit without its disk, but nobody
hears of it, for it applies nothing."""


class RaftDriver:
    """One member. Construct it, :meth:`run` it as a task, and cancel that to stop. The storage stays the caller's."""

    def __init__(
        self,
        *,
        raft_id: int,
        storage: LogStorage,
        transport: RaftTransport,
        state_machine: StateMachine,
        random: Random,
        config: RaftConfig,
        address: str = "",
    ) -> None:
        """``address``: where this member listens now, should the others believe it to be elsewhere."""
        self._raft_id = raft_id
        self._address = address
        self._storage = storage
        self._transport = transport
        self._state_machine = state_machine
        self._random = random
        self._config = config
        self._core: RaftCore | None = None
        self._snapshots: Snapshots | None = None
        self._inbox = Inbox()
        self._ticker = Ticker(config, wake=self._stir, minded=self._minded)
        self._stirred = asyncio.Event()
        self._proposals = Proposals()
        # A random start: an answer to a read of this member's last life must not fit one of this life.
        self._reads = Reads(random.randrange(1 << 48))
        self._duties = Duties(
            storage=storage,
            state_machine=state_machine,
            proposals=self._proposals,
            reads=self._reads,
            send=self._send,
            changed=self._changed,
        )
        self._conf_lock = asyncio.Lock()
        self._subscribers: list[Callable[[RaftStatus], None]] = []
        self._seen: tuple[object, ...] = ()
        self._seen_term_led = 0
        self._change = asyncio.Event()
        self._absurdities: Bucket | None = None

    # ---- life

    async def run(self) -> None:
        """Take part until cancelled. Raises StorageError (the node must stop), InvariantViolation."""
        stored = await self._storage.load()
        core = RaftCore(
            self._raft_id,
            random=self._random,
            timing=timing_of(self._config),
            address=self._address,
            hard_state=stored.hard_state,
            snapshot=stored.snapshot,
            entries=stored.entries,
        )
        await self._duties.begin(stored)
        if core.voters == (core.raft_id,) and core.may_campaign:
            core.campaign()  # nobody else could lead
        try:
            async with asyncio.TaskGroup() as group:
                self._snapshots = Snapshots(
                    core,
                    storage=self._storage,
                    state_machine=self._state_machine,
                    config=self._config,
                    group=group,
                    send=lambda message: self._send(core, (message,)),
                    stir=self._stir,
                    last_index=self._duties.applied,
                )
                self._core = core
                self._ticker.start()
                self._stir()
                group.create_task(self._step_loop(core, self._snapshots), name="raft-step")
                group.create_task(self._duties.run(core, self._snapshots), name="raft-work")
        except BaseExceptionGroup as failed:
            raise _cause(failed) from failed
        finally:
            self._ticker.stop()
            self._core = None
            self._change.set()
            self._notify()
            self._proposals.fail_unless(lambda _: False)
            self._reads.close(Unavailable("this manager stops: ask another one"))

    def _stir(self) -> None:
        self._stirred.set()

    def _changed(self, core: RaftCore) -> None:
        self._look(core)
        self._stirred.set()

    async def _step_loop(self, core: RaftCore, snapshots: Snapshots) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            if self._inbox:
                self._ticker.let_pass(core)
            while self._inbox:
                self._step(core, snapshots, self._inbox.take())
            self._ticker.catch_up(core)
            self._look(core)
            self._reads.ask_new(core)
            self._send(core, core.take_messages())
            if core.has_duties:
                self._duties.wanted.set()

    def _step(self, core: RaftCore, snapshots: Snapshots, message: Message) -> None:
        if message.type is MessageType.SNAPSHOT:
            snapshots.receive(message)
        elif message.type is MessageType.SNAPSHOT_ACK:
            snapshots.acked(message)
        else:
            core.step(message)
        if core.absurdity:
            self._tell_absurdity(core, message)
        self._look(core)

    def _tell_absurdity(self, core: RaftCore, message: Message) -> None:
        now, reason, core.absurdity = asyncio.get_running_loop().time(), core.absurdity, ""
        if self._absurdities is None:
            self._absurdities = Bucket(ABSURDITIES, now)
        if self._absurdities.take(now):
            log.error("raft_message_dropped", source=message.source, kind=message.type.name, reason=reason)

    def _minded(self, now: float) -> None:
        """Twice in an election timeout: what need not be looked at more often."""
        if self._core is None or self._snapshots is None:
            return
        self._reads.ask_again(self._core)
        self._mind_the_disk(self._core, now)
        self._snapshots.drop_stale()

    def _mind_the_disk(self, core: RaftCore, now: float) -> None:
        since = self._duties.writing_since
        patience = DISK_PATIENCE * self._config.election_ns / 1e9
        if since is None or now - since < patience or not core.is_leader or core.transferee != NO_ONE:
            return
        log.warning("raft_disk_hangs", seconds=round(now - since, 3), consequence="handing the leadership over")
        try:
            core.transfer_leadership(NO_ONE)
        except Unavailable as error:
            log.debug("raft_not_handed_over", reason=str(error))

    # ---- messages

    def receive(self, message: Message) -> None:
        """A message of another member has come. Dropped when this member is not running or drowns in them."""
        if self._core is not None and self._inbox.put(message):
            self._stirred.set()

    def report_unreachable(self, raft_id: int) -> None:
        """The connection to a member broke, or could not be made."""
        if self._core is not None:
            self._core.report_unreachable(raft_id)
            self._stir()

    def meet(self, member: Member) -> None:
        """A member has told where it is, by another way than a message."""
        if self._core is not None:
            self._core.meet(member)

    def whereabouts(self) -> tuple[Member, ...]:
        """See :meth:`RaftCore.whereabouts`."""
        return () if self._core is None else self._core.whereabouts()

    def _send(self, core: RaftCore, messages: Sequence[Message]) -> None:
        ready: list[Message] = []
        for message in messages:
            if message.type is MessageType.SNAPSHOT and message.snapshot is None:
                assert self._snapshots is not None
                self._snapshots.send_to(message)
            else:
                ready.append(message)
        for raft_id, frame in frames(ready):
            for member in core.reachable_at(raft_id):
                self._transport.send(member, frame)

    # ---- writes

    def propose(self, data: bytes) -> Proposal:
        """Append ``data`` to the leader's log, at once; wait for ``done`` of the result.

        Raises NotLeader; Unavailable (too much in flight, or the leadership is being handed over: nothing was done);
        InvalidArgument (empty, or more than 1.5 MiB).
        """
        if not data or len(data) > MAX_PROPOSAL_BYTES:
            raise InvalidArgument(f"a change of {len(data)} bytes: it must have 1 to {MAX_PROPOSAL_BYTES}")
        core = self._leading()
        proposal = self._proposals.add(core.propose(data), core.term)
        self._stir()
        return proposal

    async def propose_conf_change(self, change: ConfChange, timeout: float) -> None:
        """Change the membership; returns when the change is applied here.

        A second change waits for the first. Raises NotLeader; FailedPrecondition (it makes no sense, or would leave no
        reachable quorum); Unavailable; DeadlineExceeded (not begun); OutcomeUnknown (begun, not confirmed in time).
        """
        proposal: Proposal | None = None
        try:
            async with asyncio.timeout(timeout), self._conf_lock:
                core = self._leading()
                proposal = self._proposals.add(core.propose_conf_change(change), core.term)
                self._stir()
                await proposal.done
        except TimeoutError:
            if proposal is None:
                raise DeadlineExceeded("another change of the managers took too long: ask again later") from None
            raise OutcomeUnknown(
                f"no quorum confirmed the change of raft member {change.member.raft_id} within {timeout:g} s: "
                "it may still happen"
            ) from None

    def check_removals(self, raft_ids: Collection[int]) -> None:
        """Leader: would a quorum be left, and answer, without ``raft_ids``? Raises FailedPrecondition, NotLeader."""
        self._leading().check_removals(raft_ids)

    async def transfer_leadership(self, to: int | None, timeout: float) -> None:
        """Hand the leadership to the voter ``to`` (None: to the best one); returns when another member leads.

        Raises NotLeader, FailedPrecondition, Unavailable (the other did not take over), DeadlineExceeded.
        """
        core = self._leading()
        target = core.transfer_leadership(to or NO_ONE)
        if target == core.raft_id:
            return
        self._look(core)
        self._stir()
        try:
            async with asyncio.timeout(timeout):
                while core.is_leader or core.leader == NO_ONE:
                    if self._core is not core:
                        raise Unavailable("this manager stops: whether another one leads is not known")
                    if core.is_leader and core.transferee != target:
                        raise Unavailable(f"raft member {target} did not take the leadership over: it stays here")
                    self._change.clear()
                    await self._change.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"nobody took the leadership over within {timeout:g} s") from None

    def _leading(self) -> RaftCore:
        core = self._core
        if core is None or not core.is_leader:
            raise self._not_leader()
        return core

    def _not_leader(self) -> NotLeader:
        if self._core is not None and self._core.is_cut_off:
            return NotLeader(CUT_OFF)
        leader = self.status().leader
        if leader is None:
            return NotLeader("no manager leads at the moment: ask again later")
        return NotLeader(f"this manager is not the leader, {leader.address} is", leader=leader.address)

    # ---- reads

    async def read_index(self, timeout: float) -> int:
        """Wait until this member has applied every write finished before the call; returns the index it has then.

        Over an election it waits for the next leader. Raises NoQuorum at once when this member is cut off, or as soon
        as it is; DeadlineExceeded when no leader could confirm in time; Unavailable when this stops or too many wait.
        """
        if self._core is None:
            raise Unavailable("this manager is not running yet: ask again later")
        if self._core.is_cut_off:
            raise NoQuorum(CUT_OFF)
        self._stir()
        return await self._reads.wait(timeout)

    # ---- settings

    def set_timing(self, config: RaftConfig) -> None:
        """Live by ``config`` from now on: the timeouts, and when snapshots are due."""
        self._config = config
        self._ticker.set_interval(config)
        if self._core is not None and self._snapshots is not None:
            self._snapshots.config = config
            self._core.set_timing(timing_of(config))
            self._changed(self._core)

    # ---- status

    @property
    def is_leader_ready(self) -> bool:
        """True when this member leads and has applied all that was committed before its term."""
        core = self._core
        return core is not None and core.is_leader and self._duties.applied >= core.term_start

    @property
    def term(self) -> int:
        """The term this member is in; 0 while it does not run."""
        return 0 if self._core is None else self._core.term

    @property
    def conf(self) -> ConfState:
        """The membership as this member has applied it."""
        return ConfState() if self._core is None else self._core.conf

    def node_of(self, raft_id: int) -> str | None:
        """The node that the member ``raft_id`` runs on; None when this member knows no such member."""
        member = None if self._core is None else self._core.members.get(raft_id)
        return None if member is None else member.node_id

    @property
    def is_loaded(self) -> bool:
        """True while it takes part: what it had stored is known."""
        return self._core is not None

    def status(self) -> RaftStatus:
        """How things are now."""
        if self._core is None:
            return RaftStatus(raft_id=self._raft_id, applied=self._duties.applied)
        since = None if self._snapshots is None else self._snapshots.since
        return status_of(self._core, applied=self._duties.applied, since_snapshot=since)

    def subscribe(self, callback: Callable[[RaftStatus], None]) -> Callable[[], None]:
        """Call ``callback`` when role, term, leader, readiness or members change. Returns how to unsubscribe."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def _look(self, core: RaftCore) -> None:
        """Notice changes, and tell those who wait for them."""
        ready = core.is_leader and self._duties.applied >= core.term_start
        cut_off = core.is_cut_off
        seen = (core.role, core.term, core.leader, ready, core.conf, core.is_removed, cut_off, core.transferee)
        if seen == self._seen:
            return
        public_change = seen[:-1] != self._seen[:-1]
        self._seen = seen
        self._change.set()
        if public_change:
            self._notify()
        term_led = core.term if core.is_leader else 0
        if term_led != self._seen_term_led:
            self._seen_term_led = term_led
            self._lead_changed(core, term_led)
        if cut_off:
            self._reads.close(NoQuorum(CUT_OFF))
        if core.leader != NO_ONE:
            self._reads.ask_again(core)

    def _lead_changed(self, core: RaftCore, term_led: int) -> None:
        # What is committed with its term will be applied here; of the rest nothing can be said.
        self._proposals.fail_unless(
            lambda p: p.term == term_led or (p.index <= core.log.committed and core.log.matches(p.index, p.term))
        )
        if self._snapshots is not None:
            self._snapshots.stop_sending()

    def _notify(self) -> None:
        status = self.status()
        log.debug("raft_status", role=status.role.value, term=status.term, leader=status.leader_id)
        for callback in tuple(self._subscribers):
            callback(status)


def _cause(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group that says why the member stopped: the disk's before any other."""
    leaves: list[BaseException] = []
    rest: list[BaseException] = [failed]
    while rest:
        error = rest.pop(0)
        if isinstance(error, BaseExceptionGroup):
            rest.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((error for error in leaves if isinstance(error, StorageError)), leaves[0])


__all__ = ["Member", "Proposal", "RaftDriver", "RaftStatus", "RaftTransport", "StateMachine"]

"""A cluster that is led by hand, one command at a time, and tells what happens: the world of the transcripts.

Nothing goes on by itself. A member works only in ``ready``, ``stabilize`` and ``run``; a message arrives only in those
and ``deliver``; time passes only in ``tick`` and ``run``. Election timeouts are not random: member n waits 9 + n ticks,
unless ``timeout`` says otherwise; a heartbeat is due every tick.
"""

from __future__ import annotations

import attrs
from datadriven import Command, TranscriptError
from raft_cluster import TIMING, Node, conf_of, entries_of, member
from raft_lines import (
    entry_line,
    hard_state_line,
    members_line,
    message_line,
    role_line,
    snapshot_line,
    status_lines,
)

from swarmpy.errors import SwarmpyError
from swarmpy.raft.core import RaftCore
from swarmpy.raft.messages import (
    ConfChange,
    ConfChangeKind,
    HardState,
    Message,
    MessageType,
    ReadState,
    Ready,
    Snapshot,
)

STEPS = ("send", "persist", "promise", "apply")
"""The duties of one Ready, in their order; ``ready N stop=STEP`` ends after one of them, and goes on from there."""
MAX_ROUNDS = 200


class FixedDraws:
    """A source of "random" numbers that always gives the same: timeouts so far beyond the shortest, or little more."""

    def __init__(self, value: int) -> None:
        self.value = value

    def randrange(self, stop: int) -> int:
        if stop == TIMING.election:  # of which RaftState.reset_election_timeout makes a timeout
            return next(drawn for drawn in range(stop) if drawn * drawn // stop >= self.value)
        return min(self.value, stop - 1)


class Scenario:
    """Members, the messages between them, and the lines of the command that runs."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.draws: dict[int, FixedDraws] = {}
        self.wire: list[Message] = []
        self.down: set[int] = set()
        self.cut: set[tuple[int, int]] = set()
        self.working: dict[int, tuple[Ready, int]] = {}
        """A Ready that is worked on, and how many of its duties are done."""
        self.reads: dict[int, list[ReadState]] = {}
        """Of each member, those whose index is known and not applied yet."""
        self.lines: list[str] = []
        self.is_quiet = False
        self.hidden: tuple[str, ...] = ()
        self._seen: dict[int, dict[str, str]] = {}

    def run(self, command: Command) -> str:
        """Do ``command``; what it prints.

        ``quietly COMMAND`` leaves out messages and duties, ``hide=(writes, applies)`` those with these verbs.
        """
        self.lines = []
        self.hidden = command.options.get("hide", ())
        self.is_quiet = command.name == "quietly"
        if self.is_quiet:
            command = attrs.evolve(command, name=command.args[0], args=command.args[1:])
        do = getattr(self, f"do_{command.name.replace('-', '_')}", None)
        if do is None:
            raise TranscriptError(f"no command {command.name!r}")
        try:
            do(command)
        except SwarmpyError as error:
            self.lines.append(f"{type(error).__name__}: {error}")
        self._look()
        return "\n".join(self.lines) or "ok"

    # ---- the world

    def do_cluster(self, command: Command) -> None:
        """``cluster 3 [joiners=(4)]``: voters 1 to 3, and members that know nothing yet."""
        self.__init__()  # type: ignore[misc]  # a second cluster in a file is another world
        ids = range(1, int(command.args[0]) + 1)
        joiners = tuple(int(i) for i in command.options.get("joiners", ()))
        for raft_id in (*ids, *joiners):
            node = self.nodes[raft_id] = Node(raft_id)
            self.draws[raft_id] = FixedDraws(raft_id - 1)
            if raft_id in ids:
                node.snapshot = Snapshot(index=1, term=1, conf=conf_of(*ids))
                node.hard_state = HardState(term=1, commit=1)
            self._start(raft_id)
        self._look(silent=True)

    def do_disk(self, command: Command) -> None:
        """``disk 2 log=(1, 1, 2) [term=3] [vote=1]``: give a member a log with these terms, and start it anew."""
        node = self.nodes[int(command.args[0])]
        terms = tuple(int(term) for term in command.options["log"])
        term = int(command.options.get("term", (str(max((1, *terms))),))[0])
        node.entries = list(entries_of(*terms))
        node.hard_state = HardState(term=term, vote=int(command.options.get("vote", ("0",))[0]), commit=1)
        self._start(node.raft_id)
        self._look(silent=True)
        log = node.core.log
        self._tell(f"{node.raft_id} has {hard_state_line(node.hard_state)}, last {log.last_term}/{log.last_index}")

    def do_lose_disk(self, command: Command) -> None:
        """``lose-disk 2``: start a member with an empty disk under its old name."""
        raft_id = int(command.args[0])
        self.nodes[raft_id] = Node(raft_id)
        self._start(raft_id)

    def do_timeout(self, command: Command) -> None:
        """``timeout 2 15``: the election timeout of a member from now on."""
        raft_id, ticks = map(int, command.args)
        self.draws[raft_id].value = ticks - TIMING.election
        self.nodes[raft_id].core.reset_election_timeout()

    def do_crash(self, command: Command) -> None:
        """``crash 2``: what is not on its disk is gone; what it sent is on its way."""
        raft_id = int(command.args[0])
        self.down.add(raft_id)
        self.working.pop(raft_id, None)

    def do_restart(self, command: Command) -> None:
        """``restart 2``: go on from the disk."""
        self._start(int(command.args[0]))

    def _start(self, raft_id: int) -> None:
        node = self.nodes[raft_id]
        self.working.pop(raft_id, None)
        self.reads.pop(raft_id, None)
        node.restart()
        node.core.random = self.draws[raft_id]
        node.core.reset_election_timeout()
        self.down.discard(raft_id)

    def do_isolate(self, command: Command) -> None:
        """``isolate 3``: what it sends and what is sent to it gets lost, also what is on its way."""
        for raft_id in map(int, command.args):
            self.cut |= {(raft_id, other) for other in self.nodes} | {(other, raft_id) for other in self.nodes}

    def do_cut(self, command: Command) -> None:
        """``cut 1->2 2->1``: messages from the one to the other get lost."""
        self.cut |= {_link(text) for text in command.args}

    def do_lose(self, command: Command) -> None:
        """``lose``: all that is on its way."""
        self.wire.clear()

    def do_heal(self, command: Command) -> None:
        """``heal``: nothing gets lost any more."""
        self.cut.clear()

    # ---- asking a member

    def do_campaign(self, command: Command) -> None:
        """``campaign 1``."""
        self._core(command).campaign()

    def do_tick(self, command: Command) -> None:
        """``tick 1 10``: only time passes, for one member."""
        for _ in range(int(command.args[1])):
            self._core(command).tick()
            self._look()

    def do_wake(self, command: Command) -> None:
        """``wake 1``: its process stood still for long."""
        self._core(command).wake()

    def do_unreachable(self, command: Command) -> None:
        """``unreachable 2 1``: at member 2 the connection to 1 breaks."""
        self._core(command).report_unreachable(int(command.args[1]))

    def do_propose(self, command: Command) -> None:
        """``propose 1 a b``."""
        for data in command.args[1:]:
            index = self._core(command).propose(data.encode())
            self._tell(f'{command.args[0]} appends {self._core(command).log.term_at(index)}/{index} "{data}"')

    def do_read(self, command: Command) -> None:
        """``read 3 7``: the read number 7 at member 3."""
        self._core(command).read_index(int(command.args[1]))

    def do_transfer(self, command: Command) -> None:
        """``transfer 1 2``: the leader 1 hands over to 2 (0: to the best)."""
        self._tell(f"{command.args[0]} offers it to {self._core(command).transfer_leadership(int(command.args[1]))}")

    def do_add_learner(self, command: Command) -> None:
        """``add-learner 1 4``: the leader 1 proposes it."""
        self._change(command, ConfChangeKind.ADD_LEARNER)

    def do_promote(self, command: Command) -> None:
        """``promote 1 4``."""
        self._change(command, ConfChangeKind.PROMOTE)

    def do_remove(self, command: Command) -> None:
        """``remove 1 3``."""
        self._change(command, ConfChangeKind.REMOVE)

    def _change(self, command: Command, kind: ConfChangeKind) -> None:
        core = self._core(command)
        index = core.propose_conf_change(ConfChange(kind=kind, member=member(int(command.args[1]))))
        self._tell(f"{core.raft_id} appends {entry_line(core.log.entry(index))}")

    def do_compact(self, command: Command) -> None:
        """``compact 1 [keep=2]``: snapshot what is applied and forget the log but for a tail."""
        node = self.nodes[int(command.args[0])]
        node.take_snapshot(keep=int(command.options.get("keep", ("0",))[0]))
        assert node.snapshot is not None
        self._tell(f"{node.raft_id} keeps {snapshot_line(node.snapshot)}, log from {node.core.log.first_index}")

    # ---- duties and messages

    def do_ready(self, command: Command) -> None:
        """``ready 1 [stop=send|persist|promise]``: the duties of one Ready, or those up to one of them."""
        stop = command.options.get("stop", STEPS[-1:])[0]
        if not self._work(int(command.args[0]), STEPS.index(stop) + 1):
            self._tell("nothing to do")

    def do_deliver(self, command: Command) -> None:
        """``deliver [2 3] [from=1] [drop=(1->3, VOTE)] [first=1]``: what is on its way, or some of it.

        ``drop`` loses it on these links or of these types; ``first`` leaves so many entries in an append, as if the
        leader sent smaller ones.
        """
        to = {int(i) for i in command.args} or set(self.nodes)
        sources = {int(i) for i in command.options.get("from", ())} or set(self.nodes)
        drop = command.options.get("drop", ())
        wire, self.wire = self.wire, []
        for message in wire:
            if message.to not in to or message.source not in sources:
                self.wire.append(message)
                continue
            if "first" in command.options:
                message = attrs.evolve(message, entries=message.entries[: int(command.options["first"][0])])  # noqa: PLW2901
            dropped = bool({f"{message.source}->{message.to}", message.type.name} & set(drop))
            if not dropped and not self._is_lost(message):
                self._detail(f"{message.to} gets {message_line(message)}")
            self._deliver(message, dropped=dropped)

    def do_stabilize(self, command: Command) -> None:
        """``stabilize [1 2]``: work and deliver until all (or these) have nothing to do; time stands still."""
        ids = sorted(int(i) for i in command.args) or sorted(self.nodes)
        for _ in range(MAX_ROUNDS):
            worked = [i for i in ids if i not in self.down and self._work(i, len(STEPS))]
            wire = [m for m in self.wire if m.to in ids]
            self.wire = [m for m in self.wire if m.to not in ids]
            for message in wire:
                self._deliver(message)
            if not worked and not wire:
                return
        raise TranscriptError("the cluster does not come to rest")

    def do_run(self, command: Command) -> None:
        """``run 20 [1 2]``: so many ticks of all (or some) members, and all that comes of each."""
        ids = [int(i) for i in command.args[1:]] or sorted(self.nodes)
        for _ in range(int(command.args[0])):
            for raft_id in ids:
                if raft_id not in self.down:
                    self.nodes[raft_id].core.tick()
                    self._look()
            self.do_stabilize(Command(name="stabilize"))

    def _work(self, raft_id: int, until: int) -> bool:
        node = self.nodes[raft_id]
        ready, done = self.working.pop(raft_id, (None, 0))
        ready = ready or node.core.ready()
        if ready is None:
            return False
        for step in range(done, until):
            (self._send, self._persist, self._promise, self._apply)[step](node, ready)
        if until < len(STEPS):
            self.working[raft_id] = (ready, until)
        return True

    def _send(self, node: Node, ready: Ready) -> None:
        self._post(node, ready.messages, "sends")

    def _persist(self, node: Node, ready: Ready) -> None:
        if ready.snapshot is not None:
            self._detail(f"{node.raft_id} writes {snapshot_line(ready.snapshot)}")
        if ready.hard_state is not None:
            self._detail(f"{node.raft_id} writes {hard_state_line(ready.hard_state)}")
        for entry in ready.entries:
            self._detail(f"{node.raft_id} writes {entry_line(entry)}")
        node.persist(ready)
        node.core.persisted(ready)
        self._look()

    def _promise(self, node: Node, ready: Ready) -> None:
        self._post(node, ready.messages_after_persist, "promises")

    def _apply(self, node: Node, ready: Ready) -> None:
        for entry in ready.committed:
            self._detail(f"{node.raft_id} applies {entry_line(entry)}")
        node.apply(ready)
        node.core.advance(ready)
        reads = self.reads.setdefault(node.raft_id, [])
        for read in ready.reads:
            self._tell(f"{node.raft_id} waits with read {read.request} until it has applied {read.index}")
            reads.append(read)
        for read in [r for r in reads if r.index <= node.applied_index]:
            self._tell(f"{node.raft_id} answers read {read.request}")
            reads.remove(read)
        self._look()

    def _post(self, node: Node, messages: tuple[Message, ...], verb: str) -> None:
        for message in messages:
            if message.type is MessageType.SNAPSHOT:
                message = attrs.evolve(message, snapshot=node.snapshot)  # noqa: PLW2901
            if node.core.member(message.to) is not None:
                self._detail(f"{node.raft_id} {verb} {message_line(message)}")
                self.wire.append(message)

    def _is_lost(self, message: Message) -> bool:
        return (message.source, message.to) in self.cut or message.to in self.down or message.to not in self.nodes

    def _deliver(self, message: Message, *, dropped: bool = False) -> None:
        lost = dropped or self._is_lost(message)
        if lost:
            self._detail(f"{message.source} loses {message_line(message)}")
        else:
            self.nodes[message.to].core.step(message)
        if message.type is MessageType.SNAPSHOT:
            sender = self.nodes[message.source].core
            if sender.is_leader and sender.term == message.term:
                sender.report_snapshot(message.to, delivered=not lost)
        self._look()

    # ---- telling

    def do_log(self, command: Command) -> None:
        """``log 1``: the entries it has in memory."""
        log = self._core(command).log
        for index in range(log.first_index, log.last_index + 1):
            self._tell(entry_line(log.entry(index)) + (", committed" if index <= log.committed else ""))

    def do_status(self, command: Command) -> None:
        """``status [1 2]``."""
        for raft_id in [int(i) for i in command.args] or sorted(self.nodes):
            for line in [f"{raft_id} is down"] if raft_id in self.down else status_lines(self.nodes[raft_id].core):
                self._tell(line)

    def _core(self, command: Command) -> RaftCore:
        return self.nodes[int(command.args[0])].core

    def _tell(self, line: str) -> None:
        self.lines.append(line)

    def _detail(self, line: str) -> None:
        if not self.is_quiet and line.split()[1] not in self.hidden:
            self.lines.append(line)

    def _look(self, *, silent: bool = False) -> None:
        """Tell what has changed since the last look."""
        for raft_id, node in sorted(self.nodes.items()):
            if raft_id in self.down:
                continue
            core = node.core
            now = {"role": role_line(core), "members": members_line(core)}
            now["commit"] = f"{raft_id} commits {core.log.committed}"
            now["removed"] = f"{raft_id} knows that it is removed" if core.is_removed else ""
            for other, progress in sorted(core.progress.items()):
                now[f"feeds {other}"] = f"{raft_id} feeds {other} by {progress.state.value}"
            before = self._seen.get(raft_id, {})
            self._seen[raft_id] = now
            for key, line in now.items():
                news = line != before.get(key, "") and not (key.startswith("feeds") and key not in before)
                if line and news and not silent:
                    self._tell(line)


def _link(text: str) -> tuple[int, int]:
    source, _, to = text.partition("->")
    return int(source), int(to)

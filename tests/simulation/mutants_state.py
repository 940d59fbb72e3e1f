"""Deliberate bugs of the store, and of the parts that decide and write: found by the laws of a whole cluster."""

from __future__ import annotations

from functools import partial

from mutation import Edit, Mutant

_store = partial(Mutant, world="managers")
_cluster = partial(Mutant, world="cluster")

STORE = (
    _store(
        name="overlay-survives",
        bug="What was in flight is shown to transactions for ever, though the leadership was lost and it never comes.",
        killer=8,
        module="swarmpy.store.overlay",
        edits=(
            Edit(
                "        self.layer = Layer(is_upper=True)\n"
                "        self._pending.clear()\n"
                "        self._writer = {kind: {} for kind in Kind}\n",
                "        return\n",
            ),
        ),
    ),
    _store(
        name="half-applied",
        bug="Of a transaction that another manager proposed only the first change is applied.",
        module="swarmpy.store.memory",
        edits=(Edit("for change in entry.changes:", "for change in entry.changes[:1]:"),),
    ),
    _cluster(
        name="short-updates-missed",
        bug="What another manager told in short of tasks is not applied.",
        killer=5,
        module="swarmpy.store.memory",
        edits=(Edit("for patch in entry.patches:", "for patch in entry.patches[:0]:"),),
    ),
    _store(
        name="repetition-is-done-again",
        bug="A request that was applied before is carried out again.",
        module="swarmpy.store.sessions",
        edits=(
            Edit("        if known is None:\n            use = ", "        if known or not known:\n            use = "),
            Edit(
                "        if request.key in self._answers or request.sequence < below:\n            return False\n",
                "",
            ),
        ),
    ),
    _store(
        name="own-writes-unseen",
        bug="A transaction does not see the changes in flight.",
        module="swarmpy.store.memory",
        edits=(Edit("return Tx((self._overlay.layer, self._committed),", "return Tx((Layer(), self._committed),"),),
    ),
    _cluster(
        name="snapshot-without-tasks",
        bug="A snapshot holds no tasks.",
        killer=13,
        module="swarmpy.store.snapshot",
        edits=(
            Edit(
                "_ORDER = (Kind.CLUSTER, Kind.NODE, Kind.SERVICE, Kind.TASK)",
                "_ORDER = (Kind.CLUSTER, Kind.NODE, Kind.SERVICE)",
            ),
        ),
    ),
    _cluster(
        name="no-version-check",
        bug="A decision on an object that has changed since is written all the same.",
        killer=9,
        module="swarmpy.store.transaction",
        edits=(
            Edit(
                "if expected_version is not None and current.meta.version != expected_version:",
                "if expected_version == -1:",
            ),
            Edit(
                "return change.object is None or change.object.meta.version == current.meta.version",
                "return change.object is None or change.object.meta.version >= 0",
            ),
        ),
    ),
)

CLUSTER = (
    _cluster(
        name="a-part-is-the-whole-set",
        bug="An agent takes the first part of its assignments for all of them.",
        killer=9,
        module="swarmpy.agent.worker",
        edits=(Edit("            if not update.more:\n", "            if update.sequence:\n"),),
    ),
    _cluster(
        name="secrets-outlive-their-task",
        bug="An agent keeps the secrets of tasks that are over.",
        killer=0,
        module="swarmpy.agent.worker",
        edits=(
            Edit(
                "            self._dependencies.release(task.id)\n        elif",
                "            pass\n        elif",
            ),
        ),
    ),
    _cluster(
        name="secrets-of-the-first-session",
        bug="An agent goes on asking for secrets over the connection of its first session.",
        killer=0,
        module="swarmpy.agent.dependencies",
        edits=(
            Edit("        self._ask = ask\n", "        self._ask = self._ask or ask\n"),
            Edit("        self._ask = None\n        self._can_ask.clear()\n", "        self._can_ask.clear()\n"),
        ),
    ),
    _cluster(
        name="state-goes-back",
        bug="The allocator takes a task that has its node already back to where it waits for one.",
        killer=1,
        module="swarmpy.control.allocator",
        edits=(
            Edit(
                "in view().tasks_waiting() if task.status.state is TaskState.NEW",
                "in view().tasks() if task.status.state <= TaskState.ASSIGNED",
            ),
        ),
    ),
    _cluster(
        name="assign-to-drained",
        bug="A drained node is given tasks.",
        killer=0,
        module="swarmpy.control.loads",
        edits=(
            Edit(
                "and node.availability is Availability.ACTIVE",
                "and node.availability is not Availability.PAUSE",
            ),
        ),
    ),
    _cluster(
        name="slot-twice",
        bug="A slot that is held is given again.",
        killer=8,
        module="swarmpy.control.replicated",
        edits=(Edit("if number not in held)", "if number not in list(held)[1:])"),),
    ),
    _cluster(
        name="port-twice",
        bug="A published port that another service holds is given again.",
        killer=7,
        module="swarmpy.control.ports",
        edits=(
            Edit(
                "            if owner is not None and owner.id != service.id:\n",
                "            if owner is not None and owner.id != service.id and owner.pending_delete:\n",
            ),
        ),
    ),
    _cluster(
        name="dynamic-port-twice",
        bug="A port that the cluster chooses may be another service's.",
        killer=49,
        module="swarmpy.control.ports",
        edits=(Edit("if key not in taken and self._is_free(service, key):", "if key not in taken:"),),
    ),
    _cluster(
        name="stop-before-all-have-found-the-leader",
        bug="A task is told to stop while a node that looks for its new leader routes to it.",
        killer=14,
        module="swarmpy.manager.dispatcher",
        edits=(Edit("if not self._silence.expected <= self._sessions.keys():", "if not self._sessions:"),),
    ),
)

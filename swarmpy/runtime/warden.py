"""The warden: a small process that holds the tasks of one node's process runtime, so that none outlives its node.

It is started as a plain script and therefore imports nothing but the standard library. It talks to the agent over a
stream socket (file descriptor given as its only argument), one JSON object a line:

    agent -> warden   {"op": "spawn", "unit", "argv", "env", "cwd", "log", "log_limit"}
                      {"op": "signal", "unit", "signal"}     to every process of the unit
                      {"op": "kill", "unit"}                 SIGKILL to every process of the unit, until none is left
    warden -> agent   {"event": "ready"}
                      {"event": "spawned", "unit", "pid"}
                      {"event": "refused", "unit", "errno", "error"}    it could not be executed
                      {"event": "exited", "unit", "code"}    the first process ended, and none of the others is left

A *unit* is one command with all processes it leaves behind: those of its session, those that carry its mark in the
environment, and the descendants of both. As a child subreaper the warden inherits whatever daemonises itself, so
nothing escapes its view. When the socket ends - the agent has died, however - it kills every descendant and goes. Its
own children die with it (parent death signal), should somebody kill the warden.

It must never block on the agent for long, and never trust a process id that is not one of its descendants.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import selectors
import signal
import socket
import sys
import time

UNIT_MARK = "SWARMPY_UNIT"
"""Environment variable that marks the processes of a unit."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TICK_SECONDS = 0.02
_LOG_CHECK_SECONDS = 2.0
_LAST_SWEEP_SECONDS = 10.0
_GIVE_UP_SECONDS = 10.0
_PROC = "/proc"


# -- looking at /proc -------------------------------------------------------------------------------------------------


class ProcessInfo:
    """One line of the process table."""

    __slots__ = ("parent", "pid", "session", "state")

    def __init__(self, pid: int, state: str, parent: int, session: int) -> None:
        self.pid = pid
        self.state = state
        self.parent = parent
        self.session = session


def process_table() -> dict[int, ProcessInfo]:
    """All processes that can be seen, by id."""
    table = {}
    for name in os.listdir(_PROC):  # noqa: PTH208 - the warden starts faster without pathlib
        if not name.isdecimal():
            continue
        try:
            with open(f"{_PROC}/{name}/stat", "rb") as file:  # noqa: PTH123
                text = file.read()
        except OSError:
            continue  # ended meanwhile
        # The command, in parentheses, may hold anything; the fields after the last one are safe to split.
        fields = text[text.rindex(b")") + 2 :].split()
        pid = int(name)
        table[pid] = ProcessInfo(pid, fields[0].decode(), int(fields[1]), int(fields[3]))
    return table


def descendants(table: dict[int, ProcessInfo], roots: set[int]) -> set[int]:
    """All processes below ``roots``, without these."""
    children: dict[int, list[int]] = {}
    for info in table.values():
        children.setdefault(info.parent, []).append(info.pid)
    found: set[int] = set()
    todo = sorted(roots)
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def environment_has(pid: int, entry: str) -> bool:
    """True when the process was started with exactly the variable ``NAME=value``."""
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:  # noqa: PTH123
            content = file.read()
    except OSError:
        return False
    return os.fsencode(entry) in content.split(b"\0")


def kill_pid(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        sys.stderr.write(f"warden: not allowed to signal process {pid}\n")


# -- one unit ---------------------------------------------------------------------------------------------------------


class Unit:
    """A command and whatever it left behind."""

    def __init__(self, name: str, pid: int, log: str, log_limit: int) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        self.log_limit = log_limit
        self.code: int | None = None
        self.ended_at = 0.0
        self.must_die = False

    def members(self, table: dict[int, ProcessInfo], warden: int) -> set[int]:
        """Its processes that are alive, taken only from among the warden's descendants."""
        ours = descendants(table, {warden})
        mark = f"{UNIT_MARK}={self.name}"
        found = {pid for pid in ours if table[pid].session == self.pid or environment_has(pid, mark)}
        if self.code is None and self.pid in ours:
            found.add(self.pid)
        found |= descendants(table, found)
        return {pid for pid in found if table[pid].state not in "ZX"}


def _execute(request: dict[str, object], mark: str, prctl: object, warden: int, report: int) -> None:
    """In the forked child: become the command. Never returns; what went wrong is written to ``report``."""
    try:
        os.setsid()
        assert callable(prctl)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != warden:
            os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        argv, env = request["argv"], request["env"]
        assert isinstance(argv, list)
        assert isinstance(env, dict)
        os.chdir(str(request["cwd"]))
        null = os.open("/dev/null", os.O_RDONLY)
        out = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execve(argv[0], argv, {**env, UNIT_MARK: mark})  # noqa: S606 - no shell is what we want  # nosec B606
    except OSError as error:
        os.write(report, json.dumps([error.errno or errno.EIO, error.strerror or repr(error)]).encode())
    except BaseException as error:  # noqa: BLE001 - a forked child must never run on into the warden's code
        os.write(report, json.dumps([errno.EINVAL, repr(error)]).encode())
    finally:
        os._exit(127)


# -- the warden -------------------------------------------------------------------------------------------------------


class Warden:
    """Spawns units, watches over them and reports."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._pid = os.getpid()
        self._units: dict[str, Unit] = {}
        self._in = b""
        self._out = b""
        self._connected = True
        self._next_log_check = 0.0
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        if self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")

    def run(self) -> None:
        """Serve until the agent goes, then leave nothing behind."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)  # the agent decides; its end is the only order to go
        self._link.setblocking(False)
        selector = selectors.DefaultSelector()
        selector.register(wake_read, selectors.EVENT_READ)
        selector.register(self._link, selectors.EVENT_READ)
        self._send({"event": "ready"})
        while self._connected:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
            selector.modify(self._link, events)
            for key, mask in selector.select(self._patience()):
                if key.fileobj == wake_read:
                    os.read(wake_read, 4096)
                    continue
                if mask & selectors.EVENT_WRITE:
                    self._flush()
                if mask & selectors.EVENT_READ:
                    self._receive()
            self._reap()
            self._finish_ended()
            self._bound_logs()
        self._kill_all()

    def _patience(self) -> float | None:
        if any(unit.must_die or unit.code is not None for unit in self._units.values()):
            return _TICK_SECONDS
        return _LOG_CHECK_SECONDS if self._units else None

    # -- talking --

    def _send(self, message: dict[str, object]) -> None:
        self._out += json.dumps(message).encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                self._out = self._out[self._link.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self._connected = False

    def _receive(self) -> None:
        try:
            data = self._link.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._connected = False
            return
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, request: dict[str, object]) -> None:
        name = str(request["unit"])
        unit = self._units.get(name)
        if request["op"] == "spawn" and unit is not None:
            self._refuse(name, errno.EEXIST, "its predecessor of the same name has not ended")
        elif request["op"] == "spawn":
            self._spawn(name, request)
        elif unit is None:
            return  # it has ended; the agent hears of it, or already has
        elif request["op"] == "signal":
            number = int(str(request["signal"]))
            for pid in sorted(unit.members(process_table(), self._pid)):
                kill_pid(pid, number)
        elif request["op"] == "kill":
            unit.must_die = True

    def _refuse(self, name: str, number: int, text: str) -> None:
        self._send({"event": "refused", "unit": name, "errno": number, "error": text})

    # -- units --

    def _spawn(self, name: str, request: dict[str, object]) -> None:
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _execute(request, name, self._prctl, self._pid, write_end)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as report:
            failure = report.read()  # ends at once: exec closes the pipe, or the child says why not and exits
        if failure:
            number, text = json.loads(failure)
            os.waitpid(pid, 0)
            self._refuse(name, number, text)
            return
        self._units[name] = Unit(name, pid, str(request["log"]), int(str(request["log_limit"])))
        self._send({"event": "spawned", "unit": name, "pid": pid})

    def _reap(self) -> None:
        """Collect every child that ended, ours or inherited."""
        by_pid = {unit.pid: unit for unit in self._units.values() if unit.code is None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            unit = by_pid.get(pid)
            if unit is not None:
                # As shells and Docker report it: 128 and the signal's number.
                unit.code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                unit.ended_at = time.monotonic()

    def _finish_ended(self) -> None:
        """Kill what belongs to units that have ended or must end; report those of which nothing is left."""
        ending = [unit for unit in self._units.values() if unit.must_die or unit.code is not None]
        if not ending:
            return
        table = process_table()
        for unit in ending:
            members = unit.members(table, self._pid)
            for pid in sorted(members):
                kill_pid(pid)
            # A process that not even SIGKILL ends hangs in the kernel; do not keep the agent waiting for it for ever.
            stuck = unit.code is not None and time.monotonic() - unit.ended_at > _GIVE_UP_SECONDS
            if unit.code is not None and (not members or stuck):
                del self._units[unit.name]
                self._send({"event": "exited", "unit": unit.name, "code": unit.code})

    def _bound_logs(self) -> None:
        """Start a log file anew when it has grown over its limit, keeping the previous part beside it."""
        now = time.monotonic()
        if now < self._next_log_check:
            return
        self._next_log_check = now + _LOG_CHECK_SECONDS
        for unit in self._units.values():
            try:
                size = os.stat(unit.log).st_size  # noqa: PTH116
                if unit.log_limit and size > unit.log_limit:
                    _rotate(unit.log, size, unit.log_limit)
            except OSError as error:
                sys.stderr.write(f"warden: log {unit.log}: {error}\n")

    def _kill_all(self) -> None:
        """Kill every descendant, again and again: one that forks meanwhile is found the next time."""
        deadline = time.monotonic() + _LAST_SWEEP_SECONDS
        while time.monotonic() < deadline:
            self._reap()
            table = process_table()
            alive = {pid for pid in descendants(table, {self._pid}) if table[pid].state not in "ZX"}
            if not alive:
                return
            for pid in sorted(alive):
                kill_pid(pid)
            time.sleep(_TICK_SECONDS / 4)


def _rotate(path: str, size: int, keep: int) -> None:
    """Copy the last ``keep`` bytes to ``path.1`` and truncate; the writer appends, so it goes on at the start."""
    kept = os.open(path + ".1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(path, "rb") as source, os.fdopen(kept, "wb") as target:  # noqa: PTH123
        source.seek(max(0, size - keep))
        target.write(source.read(keep))
    os.truncate(path, 0)


def main() -> None:
    """Run on the socket whose file descriptor is the only argument."""
    link = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(link.fileno(), False)
    Warden(link).run()


if __name__ == "__main__":
    main()

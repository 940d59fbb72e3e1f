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
nothing escapes its view. What it writes comes through two pipes into its log, a record a line, with the time and the
stream (:class:`Log`). When the socket ends - the agent has died, however - it kills every descendant and goes. Its
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
_IDLE_SECONDS = 2.0
_LAST_SWEEP_SECONDS = 10.0
_GIVE_UP_SECONDS = 10.0
_PROC = "/proc"
_READ_BYTES = 1 << 16
_PIPE_READS = 64
"""More than a pipe holds: what is stuck in the kernel may still write."""
PART_BYTES = 16 * 1024
"""A longer line is kept in parts of so many bytes, as Docker's drivers do."""


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


# -- what a unit writes -----------------------------------------------------------------------------------------------


class Log:
    """The output of one unit, in the format of the Kubernetes CRI (kubelet's container log format), a record a line:

        2026-11-29T10:33:41.123456789Z stdout F what was written

    with ``P`` for a part of a line that goes on in the next record of its stream. No two records of a file have the
    same time. A file that has grown over the limit is renamed to ``.1``, in place of the one before.
    """

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._rest = {"stdout": b"", "stderr": b""}
        self._last_ns = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def take(self, stream: str, data: bytes) -> None:
        """Write the lines that are whole; the rest waits for its end, or until it is too long."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        records = []
        for line in lines:
            records += self._records(stream, line)
        while len(rest) >= PART_BYTES:
            records.append(self._head(stream, b"P") + rest[:PART_BYTES])
            rest = rest[PART_BYTES:]
        self._rest[stream] = rest
        self._write(records)

    def end(self) -> None:
        """Write what has no end, and close."""
        for stream, rest in self._rest.items():
            if rest:
                self._write(self._records(stream, rest))
        os.close(self._file)

    def _records(self, stream: str, line: bytes) -> list[bytes]:
        out = []
        while len(line) > PART_BYTES:
            out.append(self._head(stream, b"P") + line[:PART_BYTES])
            line = line[PART_BYTES:]
        out.append(self._head(stream, b"F") + line)
        return out

    def _head(self, stream: str, flag: bytes) -> bytes:
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        seconds, nanoseconds = divmod(self._last_ns, 1_000_000_000)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        return b"%s.%09dZ %s %s " % (at.encode(), nanoseconds, stream.encode(), flag)

    def _write(self, records: list[bytes]) -> None:
        batch: list[bytes] = []
        room = self._limit - self._size
        for record in records:
            room -= len(record) + 1
            if self._limit and room < 0:
                self._append(batch)
                self._rotate()
                batch, room = [], self._limit - len(record) - 1
            batch.append(record)
        self._append(batch)

    def _rotate(self) -> None:
        if self._size:
            os.close(self._file)
            os.replace(self._path, self._path + ".1")  # noqa: PTH105
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = 0

    def _append(self, records: list[bytes]) -> None:
        view = memoryview(b"".join(record + b"\n" for record in records))
        self._size += len(view)
        while view:
            view = view[os.write(self._file, view) :]


class Output:
    """One end of a pipe that a unit writes to."""

    def __init__(self, log: Log, stream: str, pipe: int) -> None:
        self.log = log
        self.stream = stream
        self.pipe = pipe
        os.set_blocking(pipe, False)

    def read(self) -> bool:
        """Take what is there, but not for ever. False when nothing is, or ever will be."""
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            return False
        try:
            self.log.take(self.stream, data)
        except OSError as error:
            # A full disk must not stop the task: it loses this part of its log.
            sys.stderr.write(f"warden: a log cannot be written: {error}\n")
        return True


# -- one unit ---------------------------------------------------------------------------------------------------------


class Unit:
    """A command and whatever it left behind."""

    def __init__(self, name: str, pid: int, log: Log, outputs: tuple[Output, Output]) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        self.outputs = outputs
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


def _execute(
    request: dict[str, object], mark: str, prctl: object, warden: int, report: int, pipes: tuple[int, int]
) -> None:
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
        os.dup2(null, 0)
        os.dup2(pipes[0], 1)
        os.dup2(pipes[1], 2)
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
        self._selector = selectors.DefaultSelector()
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
        selector = self._selector
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
                if isinstance(key.data, Output):
                    if not key.data.read():
                        self._unwatch(key.data)
                    continue
                if mask & selectors.EVENT_WRITE:
                    self._flush()
                if mask & selectors.EVENT_READ:
                    self._receive()
            self._reap()
            self._finish_ended()
        self._kill_all()

    def _patience(self) -> float | None:
        if any(unit.must_die or unit.code is not None for unit in self._units.values()):
            return _TICK_SECONDS
        return _IDLE_SECONDS if self._units else None

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
        try:
            log = Log(str(request["log"]), int(str(request["log_limit"])))
        except OSError as error:
            self._refuse(name, error.errno or errno.EIO, error.strerror or repr(error))
            return
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _execute(request, name, self._prctl, self._pid, write_end, (out_end, err_end))
        for end in (write_end, out_end, err_end):
            os.close(end)
        with os.fdopen(read_end, "rb") as report:
            failure = report.read()  # ends at once: exec closes the pipe, or the child says why not and exits
        if failure:
            number, text = json.loads(failure)
            os.waitpid(pid, 0)
            os.close(out)
            os.close(err)
            log.end()
            self._refuse(name, number, text)
            return
        outputs = (Output(log, "stdout", out), Output(log, "stderr", err))
        self._units[name] = Unit(name, pid, log, outputs)
        for output in outputs:
            self._selector.register(output.pipe, selectors.EVENT_READ, output)
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
                self._end_output(unit)
                self._send({"event": "exited", "unit": unit.name, "code": unit.code})

    def _unwatch(self, output: Output) -> None:
        if output.pipe in self._selector.get_map():
            self._selector.unregister(output.pipe)

    def _end_output(self, unit: Unit) -> None:
        """Take in what is left in the pipes, at most what they hold."""
        for output in unit.outputs:
            self._unwatch(output)
            for _ in range(_PIPE_READS):
                if not output.read():
                    break
            os.close(output.pipe)
        try:
            unit.log.end()
        except OSError as error:
            sys.stderr.write(f"warden: a log cannot be written: {error}\n")

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


def main() -> None:
    """Run on the socket whose file descriptor is the only argument."""
    link = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(link.fileno(), False)
    Warden(link).run()


if __name__ == "__main__":
    main()

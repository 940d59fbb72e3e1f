"""The files of a node's tasks that must never be on a disk: a directory for each task, in memory of the machine.

The directory is ``BASE/NODE/TASK``, 0700 from BASE down. As root BASE/NODE is a file system of its own, with a bound;
otherwise, or where that cannot be mounted, a directory of one that is in memory already. It outlives the daemon, as
containers do, and ends with the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs
import structlog

from swarmpy.errors import TaskRejected
from swarmpy.model.grammar import is_id
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.runtime import tmpfs
from swarmpy.runtime.task_files import TaskFile

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOUNT_SIZE = "25%"
"""Of the machine's memory, as a bound: a task with a hundred secrets of the largest size has fifty megabytes."""
ROOT_BASE = Path("/run/swarmpy-secrets")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # nosec B108  # a directory of our own in it, whose owner and mode are looked at
_PRIVATE = 0o077


@attrs.frozen(kw_only=True)
class Base:
    """Somewhere to try."""

    path: Path
    may_mount: bool = False


def usual_bases(uid: int, environment: Mapping[str, str]) -> tuple[Base, ...]:
    """Where the user ``uid`` may have files in memory, the best first."""
    shared = Base(path=SHARED_MEMORY / f"swarmpy-secrets-{uid}")
    if uid == 0:
        return Base(path=ROOT_BASE, may_mount=True), shared
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    own = (Base(path=Path(runtime) / "swarmpy-secrets"),) if runtime.startswith("/") else ()
    return *own, shared


class MemoryFiles:
    """Those of one node. Calls are done one after the other, each to its end, also when its caller is cancelled."""

    def __init__(self, node_id: NodeId, bases: Sequence[Base] | None = None) -> None:
        self._node_id = node_id
        self._bases = tuple(usual_bases(os.geteuid(), os.environ) if bases is None else bases)
        self._lock = asyncio.Lock()

    async def write(self, task_id: TaskId, files: Iterable[TaskFile]) -> Path:
        """Make the task's directory with these files, whole or not at all, in the place of one that is there.

        Returns it. Raises TaskRejected where this machine has no memory for files: they are never put on a disk.
        """
        return await self._alone(lambda: self._write(task_id, tuple(files)))

    async def find(self, task_id: TaskId) -> Path | None:
        """The task's directory, if it is there."""
        return await self._alone(lambda: self._find(task_id))

    async def remove(self, task_id: TaskId) -> None:
        """The task's directory is gone; one that is not there is fine. With the last one goes the file system."""
        await self._alone(lambda: self._remove(lambda name: name == task_id))

    async def sweep(self, keep: Collection[TaskId]) -> None:
        """Remove what is of no task of ``keep``: earlier lives of this node may have left it."""
        await self._alone(lambda: self._remove(lambda name: name not in keep))

    async def _alone(self, work: Callable[[], T]) -> T:
        async with self._lock:
            running = asyncio.ensure_future(asyncio.to_thread(work))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # Whoever is next may be about to remove what is being written.
                await asyncio.wait((running,))
                if not running.cancelled():
                    running.exception()
                raise

    # -- in a thread ------------------------------------------------------------------------------------------------

    def _root(self) -> Path:
        reasons = []
        for base in self._bases:
            try:
                return self._taken(base)
            except OSError as error:
                reasons.append(f"{base.path}: {error.strerror or error}")
        raise TaskRejected(
            "secrets and configs are kept in memory only, and this node has no file system in memory for them: "
            f"{'; '.join(reasons) or 'nowhere to try'}"
        )

    def _taken(self, base: Base) -> Path:
        if not is_id(self._node_id):
            raise OSError(errno.EINVAL, f"{self._node_id!r} is not the id of a node")
        directory = base.path / self._node_id
        for path in (base.path, directory):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            _check_private(path)
        if directory.is_mount():
            return directory
        # Not over what an earlier life put there, when it could not mount.
        if base.may_mount and not any(directory.iterdir()) and tmpfs.mounts_are_seen_by_others():
            with contextlib.suppress(OSError):
                tmpfs.mount(directory, size=MOUNT_SIZE)
                return directory
        if not tmpfs.is_in_memory(directory):
            directory.rmdir()
            raise OSError(errno.EOPNOTSUPP, "it is on a disk, and a tmpfs cannot be mounted there")
        return directory

    def _write(self, task_id: TaskId, files: Sequence[TaskFile]) -> Path:
        if not is_id(task_id):
            raise TaskRejected(f"{task_id!r} is not the id of a task")
        if self._find(task_id) is not None:
            self._remove(lambda name: name == task_id)
        root = self._root()
        # Not an id, so that a sweep takes it away, whatever it keeps.
        unfinished = root / f".{task_id}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir(mode=0o700)
            for file in files:
                _write_file(unfinished, file)
            return unfinished.rename(root / task_id)
        except OSError as error:
            full = f": there is no room left in {root}" if error.errno == errno.ENOSPC else ""
            reason = error.strerror or str(error)
            raise TaskRejected(f"its secrets and configs cannot be written to memory: {reason}{full}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _find(self, task_id: TaskId) -> Path | None:
        if not is_id(task_id):
            return None
        return next((found for root in self._existing() if (found := root / task_id).is_dir()), None)

    def _existing(self) -> list[Path]:
        """Where tasks' directories may be: an earlier life may have found another base."""
        roots = [base.path / self._node_id for base in self._bases] if is_id(self._node_id) else []
        return [root for root in roots if _is_private(root)]

    def _remove(self, is_unwanted: Callable[[TaskId], bool]) -> None:
        for root in self._existing():
            for entry in tuple(root.iterdir()):
                if is_unwanted(TaskId(entry.name)):
                    shutil.rmtree(entry, ignore_errors=True)
                    if entry.exists():
                        log.error("task_files_not_removed", path=str(entry))
            if not any(root.iterdir()):
                _give_back(root)


def _give_back(root: Path) -> None:
    # Another node of this machine may have its own beside it.
    with contextlib.suppress(OSError):
        if root.is_mount():
            tmpfs.unmount(root)
        root.rmdir()
        root.parent.rmdir()


def _write_file(directory: Path, file: TaskFile) -> None:
    place = file.place
    path = directory / place.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(file.data)
        out.flush()
        _give(descriptor, file)
        # After the owner, as a change of that takes special bits away; and whatever the umask.
        os.fchmod(descriptor, place.mode)


def _give(descriptor: int, file: TaskFile) -> None:
    place = file.place
    if os.geteuid() != 0 and (place.uid, place.gid) == (0, 0):
        # Who asks for nobody gets what this daemon can give: its own user's.
        return
    try:
        os.fchown(descriptor, place.uid, place.gid)
    except PermissionError:
        raise TaskRejected(
            f"{place.what}: this node's daemon is not root, and cannot give a file to {place.uid}:{place.gid}"
        ) from None


def _check_private(path: Path) -> None:
    if not _is_private(path):
        raise OSError(errno.EPERM, "it is not a directory of this daemon's user alone")


def _is_private(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & _PRIVATE

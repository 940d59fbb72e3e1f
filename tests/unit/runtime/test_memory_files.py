"""Files in memory: whose they are, that they never come onto a disk, and that they go."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from secret_tasks import PLANTED, config, content, needs, secret, task_with

from swarmpy.errors import TaskRejected
from swarmpy.model.ids import NodeId, TaskId
from swarmpy.model.template import NodeFacts
from swarmpy.runtime import memory_files, tmpfs
from swarmpy.runtime.memory_files import SHARED_MEMORY, Base, MemoryFiles, usual_bases
from swarmpy.runtime.task_files import TaskFile, container_places, task_files

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts, and gives files to others")
NODE = NodeId("node1")
A, B = TaskId("a"), TaskId("b")


def files_of(*references: object, data: bytes = PLANTED.encode()) -> tuple[TaskFile, ...]:
    """Files of a task, all with the same data."""
    task = task_with(*references)  # type: ignore[arg-type]
    spec = task.spec.container
    given = needs(
        {r.secret_name: content(data) for r in spec.secrets}, {r.config_name: content(data) for r in spec.configs}
    )
    return task_files(container_places(spec), given, task=task, container=spec, node=NodeFacts(id=NODE))


@pytest.fixture
def shared() -> Iterator[Base]:
    """A place that is in memory anyway."""
    path = SHARED_MEMORY / f"swarmpy-test-{uuid.uuid4().hex}"
    yield Base(path=path)
    subprocess.run(["rm", "-rf", "--", path], check=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Base]:
    """A place on a disk, over which something is mounted."""
    yield Base(path=tmp_path / "base", may_mount=True)
    directory = tmp_path / "base" / NODE
    while directory.is_mount():
        tmpfs.unmount(directory)


def files_in(directory: Path) -> list[Path]:
    """All files below it."""
    return [path for path in directory.rglob("*") if path.is_file()]


def mount_options(path: Path) -> set[str]:
    """What /proc says of the file system there."""
    [line] = [line for line in tmpfs.MOUNTS.read_text().splitlines() if line.split(" ")[4] == str(path)]
    fields = line.split(" ")
    return {*fields[5].split(","), *fields[-1].split(",")}


async def test_a_task_has_a_directory_of_its_own(shared: Base) -> None:
    """Nobody else can come near it, whatever the modes of the files are."""
    files = MemoryFiles(NODE, [shared])
    before = os.umask(0o077)
    try:
        directory = await files.write(A, files_of(secret("s", mode=0o444), config("c", "/etc/c", mode=0o777)))
    finally:
        os.umask(before)
    assert directory == shared.path / NODE / "a"
    found = {path.relative_to(directory).as_posix() for path in files_in(directory)}
    assert found == {"secrets/0", "configs/1"}
    assert (directory / "secrets/0").read_bytes() == PLANTED.encode()
    assert stat.S_IMODE((directory / "secrets/0").stat().st_mode) == 0o444
    assert stat.S_IMODE((directory / "configs/1").stat().st_mode) == 0o777
    for path in (shared.path, shared.path / NODE, directory, directory / "secrets"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert tmpfs.is_in_memory(directory / "secrets/0")


@ROOT
async def test_a_file_has_its_owner(shared: Base) -> None:
    """Also with special bits, which a change of the owner would take away."""
    directory = await MemoryFiles(NODE, [shared]).write(A, files_of(secret("s", uid="1234", gid="99", mode=0o4400)))
    found = (directory / "secrets/0").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 99, 0o4400)


@ROOT
async def test_as_root_it_is_a_file_system_of_its_own(mounted: Base) -> None:
    """With a bound, nothing in it to run or to rise by, and gone when it is not needed."""
    files = MemoryFiles(NODE, [mounted])
    assert not (mounted.path / NODE).exists()
    directory = await files.write(A, files_of(secret("s")))
    root = directory.parent
    assert root.is_mount()
    assert {"nosuid", "nodev", "noexec", "mode=700"} <= mount_options(root)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = os.statvfs(root)
    assert 0 < found.f_blocks * found.f_frsize <= memory // 4 + 4096
    assert await files.find(A) == directory  # a task still needs it
    await files.remove(A)
    assert not mounted.path.exists()


@ROOT
async def test_its_pages_are_not_swapped_out_where_that_can_be_had(mounted: Base) -> None:
    """Linux 6.4 and later."""
    root = (await MemoryFiles(NODE, [mounted]).write(A, files_of(secret("s")))).parent
    major, minor = (int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
    assert ("noswap" in mount_options(root)) == ((major, minor) >= (6, 4))


@ROOT
async def test_a_full_file_system_is_a_reason(mounted: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task that does not fit is told so, and leaves nothing; the others stay."""
    monkeypatch.setattr(memory_files, "MOUNT_SIZE", "64k")
    files = MemoryFiles(NODE, [mounted])
    root = (await files.write(A, files_of(secret("s")))).parent
    with pytest.raises(TaskRejected, match="cannot be written to memory: No space left on device: there is no room"):
        await files.write(B, files_of(secret("s"), secret("t"), data=b"x" * 40_000))
    assert [path.name for path in root.iterdir()] == ["a"]
    await files.remove(A)
    await files.write(B, files_of(secret("s"), data=b"x" * 40_000))


async def test_it_is_never_on_a_disk(tmp_path: Path) -> None:
    """Where there is no memory for files the task is refused, and nothing is written."""
    if tmpfs.is_in_memory(tmp_path):
        pytest.skip("the temporary directory is in memory here")
    files = MemoryFiles(NODE, [Base(path=tmp_path / "a"), Base(path=tmp_path / "none" / "b")])
    with pytest.raises(TaskRejected, match=r"kept in memory only, .*/a: it is on a disk.*/b: No such file"):
        await files.write(A, files_of(secret("s")))
    assert not files_in(tmp_path)
    await files.sweep(())


async def test_a_directory_that_others_could_have_made_is_not_used(shared: Base, tmp_path: Path) -> None:
    """In a place where everybody may make directories, one has to look whose it is."""
    for number, mode in enumerate((0o777, 0o750, 0o701)):
        squatted = Base(path=shared.path.with_name(f"{shared.path.name}-{number}"))
        squatted.path.mkdir()
        squatted.path.chmod(mode)
        try:
            with pytest.raises(TaskRejected, match="not a directory of this daemon's user alone"):
                await MemoryFiles(NODE, [squatted]).write(A, files_of(secret("s")))
        finally:
            squatted.path.rmdir()
    shared.path.symlink_to(tmp_path)
    with pytest.raises(TaskRejected, match="not a directory of this daemon's user alone"):
        await MemoryFiles(NODE, [shared]).write(A, files_of(secret("s")))
    assert not files_in(tmp_path)


@pytest.mark.parametrize("node", ["", "..", "a/b"])
async def test_a_node_without_a_proper_id_has_none(shared: Base, node: str) -> None:
    """An id becomes a path."""
    files = MemoryFiles(NodeId(node), [shared])
    with pytest.raises(TaskRejected, match="is not the id of a node"):
        await files.write(A, files_of(secret("s")))
    await files.sweep(())


@pytest.mark.parametrize("task", ["", "..", "../node2", ".a"])
async def test_nor_has_a_task(shared: Base, task: str) -> None:
    """The same."""
    files = MemoryFiles(NODE, [shared])
    other = await MemoryFiles(NodeId("node2"), [shared]).write(A, files_of(secret("s")))
    with pytest.raises(TaskRejected, match="is not the id of a task"):
        await files.write(TaskId(task), files_of(secret("s")))
    assert await files.find(TaskId(task)) is None
    await files.remove(TaskId(task))
    assert (other / "secrets/0").exists()


async def test_writing_again_leaves_nothing_of_before(shared: Base) -> None:
    """Whole or not at all."""
    files = MemoryFiles(NODE, [shared])
    await files.write(A, files_of(secret("s"), secret("t")))
    directory = await files.write(A, files_of(secret("s"), data=b"new"))
    assert [path.read_bytes() for path in files_in(directory)] == [b"new"]
    assert [path.name for path in directory.parent.iterdir()] == ["a"]


async def test_what_no_task_needs_is_swept_away(shared: Base) -> None:
    """Also what was being written when an earlier life ended."""
    files = MemoryFiles(NODE, [shared])
    await files.write(A, files_of(secret("s")))
    await files.write(B, files_of(secret("s")))
    (shared.path / NODE / ".c").mkdir()
    again = MemoryFiles(NODE, [shared])
    await again.sweep({A, TaskId("c")})
    assert [path.name for path in (shared.path / NODE).iterdir()] == ["a"]
    await again.sweep(())
    assert not shared.path.exists()


@ROOT
async def test_what_an_earlier_life_has_is_not_hidden(mounted: Base, shared: Base) -> None:
    """One that could not mount put it elsewhere, or where something would be mounted now."""
    before = MemoryFiles(NODE, [shared])
    directory = await before.write(A, files_of(secret("s")))
    now = MemoryFiles(NODE, [mounted, shared])
    assert (await now.write(B, files_of(secret("s")))).parent == mounted.path / NODE
    assert await now.find(A) == directory
    await now.remove(A)
    assert not directory.exists()
    # A directory that is in use already is used on.
    directory = await before.write(A, files_of(secret("s")))
    able = MemoryFiles(NODE, [Base(path=shared.path, may_mount=True)])
    assert await able.write(B, files_of(secret("s"))) == directory.with_name("b")
    assert not directory.parent.is_mount()


@ROOT
async def test_what_only_this_daemon_would_see_is_not_mounted(
    mounted: Base, shared: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon with mounts of its own, as of a unit with PrivateTmp, uses what is in memory for everybody."""
    other = await asyncio.create_subprocess_exec("unshare", "--mount", "sleep", "60")
    try:
        monkeypatch.setattr(tmpfs, "FIRST_NAMESPACE", Path(f"/proc/{other.pid}/ns/mnt"))
        async with asyncio.timeout(10):
            while tmpfs.mounts_are_seen_by_others():
                await asyncio.sleep(0.01)
        directory = await MemoryFiles(NODE, [mounted, shared]).write(A, files_of(secret("s")))
    finally:
        other.kill()
        await other.wait()
    assert directory.is_relative_to(shared.path)
    assert not (mounted.path / NODE).exists()


async def test_who_is_cancelled_leaves_nothing(shared: Base) -> None:
    """A removal that comes right after a write that was given up finds all of it."""
    files = MemoryFiles(NODE, [shared])
    for _ in range(20):
        writing = asyncio.create_task(files.write(A, files_of(*(secret(f"s{number}") for number in range(50)))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        writing.cancel()
        await files.remove(A)
        assert await files.find(A) is None
        with pytest.raises(asyncio.CancelledError):
            await writing


def test_where_files_may_be() -> None:
    """As root a place for it alone; otherwise what the session gives, or shared memory."""
    assert usual_bases(0, {"XDG_RUNTIME_DIR": "/run/user/0"}) == (
        Base(path=Path("/run/swarmpy-secrets"), may_mount=True),
        Base(path=Path("/dev/shm/swarmpy-secrets-0")),
    )
    assert usual_bases(7, {"XDG_RUNTIME_DIR": "/run/user/7"}) == (
        Base(path=Path("/run/user/7/swarmpy-secrets")),
        Base(path=Path("/dev/shm/swarmpy-secrets-7")),
    )
    assert usual_bases(7, {"XDG_RUNTIME_DIR": "elsewhere"}) == (Base(path=Path("/dev/shm/swarmpy-secrets-7")),)


WITHOUT_ROOT = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_memory_files import A, B, NODE, files_of
from secret_tasks import secret
from swarmpy.errors import TaskRejected
from swarmpy.runtime.memory_files import MemoryFiles

async def main():
    files = MemoryFiles(NODE)
    mine = secret("t", uid=str(os.getuid()), gid=str(os.getgid()))
    directory = await files.write(A, files_of(secret("s", mode=0o440), mine))
    found = (directory / "secrets/0").stat()
    print(directory, found.st_uid, oct(found.st_mode & 0o7777), oct(directory.stat().st_mode & 0o7777))
    try:
        await files.write(B, files_of(secret("s", uid="5")))
    except TaskRejected as error:
        print(error)
    print(sorted(path.name for path in directory.parent.iterdir()))
    await files.sweep(())
    print(directory.parent.exists())

# Only now: the interpreter may be where nobody else can read.
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
asyncio.run(main())
"""


@ROOT
def test_without_root(tmp_path: Path) -> None:
    """Files are the daemon's own; an owner that was asked for by number and cannot be given is refused."""
    source = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOT, str(Path(__file__).parent)],
        env={"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.stderr == ""
    where, refused, left, exists = done.stdout.splitlines()
    assert where == "/dev/shm/swarmpy-secrets-54321/node1/a 54321 0o440 0o700"
    assert refused == "secret s: this node's daemon is not root, and cannot give a file to 5:0"
    assert (left, exists) == ("['a']", "False")

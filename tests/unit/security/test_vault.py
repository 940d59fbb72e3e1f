"""A vault: who can open it, and that it can be opened after a crash at any moment of any change."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmpy.errors import DataDirMismatch, SwarmLocked, WrongUnlockKey
from swarmpy.security.sealing import UnlockKey
from swarmpy.security.vault import FILES, KeyVersion, Vault, copy_vault

FIRST, SECOND = UnlockKey.new(), UnlockKey.new()
MOST_STEPS = 100


class Stop(BaseException):
    """The power is cut."""


def cut(after: int, work: Callable[[], Any]) -> bool:
    """Do ``work`` until it has changed the disk ``after`` times; True when it was cut off by that."""
    steps = 0
    events = ("os.rename", "os.remove", "open")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        writes = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if is_on and event in events and writes:
            steps += 1
            if steps > after:
                raise Stop

    is_on = True
    sys.addaudithook(hook)
    try:
        work()
    except Stop:
        return True
    finally:
        is_on = False
    return False


def opened(directory: Path, *keys: UnlockKey | None) -> Vault:
    """The vault in ``directory``, opened without a key or with one of ``keys``."""
    for key in (None, *keys):
        vault = Vault(directory)
        try:
            vault.open(key)
        except (SwarmLocked, WrongUnlockKey):
            continue
        return vault
    raise AssertionError("nothing opens it")


def test_without_autolock_it_opens_by_itself(tmp_path: Path) -> None:
    """By the key beside it, which is its owner's only; without that it does not, and says what to do."""
    vault = Vault(tmp_path)
    assert not vault.exists
    vault.create()
    assert vault.exists
    assert vault.unlock_key is None
    assert not vault.is_unfinished
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert vault.ring is not None
    sealed = vault.ring.seal(b"data", b"x")
    again = opened(tmp_path).ring
    assert again is not None
    assert again.open(1, sealed, b"x") == b"data"
    (tmp_path / "vault.key").write_text(FIRST.text)
    with pytest.raises(DataDirMismatch, match=r"no key in .*vault\.key opens"):
        Vault(tmp_path).open()
    (tmp_path / "vault.key").unlink()
    with pytest.raises(DataDirMismatch):
        Vault(tmp_path).open(FIRST)


def test_with_autolock_it_needs_the_key(tmp_path: Path) -> None:
    """Which is nowhere on the disk."""
    vault = Vault(tmp_path)
    vault.create(FIRST, KeyVersion(0, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vault"]
    assert FIRST.text not in (tmp_path / "vault").read_text()
    for key, error in ((None, SwarmLocked), (SECOND, WrongUnlockKey)):
        with pytest.raises(error):
            Vault(tmp_path).open(key)
    found = Vault(tmp_path)
    found.open(FIRST)
    assert (found.version, found.unlock_key) == (KeyVersion(0, 1), FIRST)
    assert FIRST.text not in repr(vars(found))
    assert repr(FIRST.secret) not in repr(vars(found))


@pytest.mark.parametrize(
    "change",
    [
        {"autolock": False},
        {"unlock_key": [0, 9]},
        {"sealed": "AAAA" * 20},
        {"sealed": "?"},
        {"unlock_key": 1},
        {"version": 2},
    ],
)
def test_a_vault_that_was_changed_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """What stands in it in clear is bound to what is sealed."""
    Vault(tmp_path).create(FIRST, KeyVersion(0, 1))
    path = tmp_path / "vault"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises((WrongUnlockKey, DataDirMismatch)):
        Vault(tmp_path).open(FIRST)


Change = tuple[UnlockKey | None, UnlockKey | None]


@pytest.mark.parametrize("change", [(None, FIRST), (FIRST, None), (FIRST, SECOND), (None, None)])
def test_a_change_that_is_cut_off(tmp_path: Path, change: Change) -> None:
    """At any step: the key before or the one after opens it, and it has all data keys; then it is done again."""
    before, after = change
    for step in range(MOST_STEPS):
        directory = tmp_path / str(step)
        directory.mkdir()
        vault = Vault(directory)
        vault.create(before, KeyVersion(0, 1))
        assert vault.ring is not None
        old = vault.ring.seal(b"old", b"x")
        was_cut = cut(step, lambda: vault.rotate(after, KeyVersion(0, 2)))  # noqa: B023
        found = opened(directory, before, after)
        assert found.ring is not None
        assert found.ring.open(1, old, b"x") == b"old"
        if found.version == KeyVersion(0, 1):
            assert was_cut
            found.rotate(after, KeyVersion(0, 2))
        assert found.unlock_key == after
        assert (found.is_unfinished, found.ring is not None and found.ring.current) == (True, 2)
        left = {path.name for path in directory.iterdir()}
        assert left - {"vault.tmp"} == ({"vault"} if after else {"vault", "vault.key"})
        if not was_cut:
            assert step > 2
            return
    raise AssertionError("it never came to an end")


def test_forgetting_the_keys_before(tmp_path: Path) -> None:
    """Cut off at any step, it is done again; the earlier key is then nowhere."""
    for step in range(MOST_STEPS):
        directory = tmp_path / str(step)
        directory.mkdir()
        vault = Vault(directory)
        vault.create(takes_plain=True)
        vault.rotate(FIRST, KeyVersion(1, 1))
        assert vault.ring is not None
        assert [key.number for key in vault.ring.keys] == [1, 2]
        was_cut = cut(step, vault.finish)
        found = opened(directory, FIRST)
        if found.is_unfinished:
            found.finish()
        found = opened(directory, FIRST)
        assert found.ring is not None
        assert (found.is_unfinished, [key.number for key in found.ring.keys]) == (False, [2])
        assert not found.ring.takes_plain
        if not was_cut:
            return
    raise AssertionError("it never came to an end")


def test_discarding_and_copying(tmp_path: Path) -> None:
    """A copy opens as the original does, which can be removed with everything that belongs to it."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    vault = Vault(tmp_path / "one")
    vault.create()
    copy_vault(tmp_path / "one", tmp_path / "two")
    vault.discard()
    assert (vault.ring, list((tmp_path / "one").iterdir())) == (None, [])
    assert opened(tmp_path / "two").ring is not None
    assert set(FILES) > {path.name for path in (tmp_path / "two").iterdir()}


def test_later_keys_are_greater() -> None:
    """Also those of a cluster that was begun anew from an older state."""
    assert KeyVersion() < KeyVersion(0, 1) < KeyVersion(0, 2) < KeyVersion(1_790_000_000_000, 1)

"""The vault of a manager: the data keys of its disk, sealed with its unlock key.

``vault`` says in clear whether it is locked, and holds sealed the data keys that the Raft log and the node's private
key are sealed with. Without autolock the unlock key lies beside it, in ``vault.key``: that keeps nobody out who reads
the whole directory, but all that autolock or a change of keys has to do then is to write the vault anew. With autolock
only the operator and the cluster's state have it.

Each change is one file put in the place of another. At any moment one of the keys that are there, or that the operator
has, opens the vault, and its data keys open everything on the disk:

- a key that lies on the disk is there (as ``vault.key.new``) before the vault needs it, and goes when no vault does;
- a data key is in the vault before anything is sealed with it, and leaves it when nothing is any more.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from swarmpy.errors import DataDirMismatch, InvalidArgument, StorageError, SwarmLocked, WrongUnlockKey
from swarmpy.security.private_files import sync_directory, write_privately
from swarmpy.security.sealing import DataKey, KeyRing, Nonces, UnlockKey

FILE = "vault"
KEY_FILE = "vault.key"
NEW_KEY_FILE = "vault.key.new"
FILES = (FILE, KEY_FILE, NEW_KEY_FILE)
FORMAT_VERSION = 1
_TEMPORARY = ".tmp"


@attrs.frozen(order=True)
class KeyVersion:
    """Which of the cluster's unlock keys one is: later ones are greater, also over the cluster's being begun anew."""

    incarnation: int = 0
    number: int = 0


@attrs.frozen(kw_only=True)
class _Header:
    """What stands in the vault in clear; it is bound to what is sealed."""

    locks: bool
    version: KeyVersion

    def plain(self) -> dict[str, Any]:
        return {
            "version": FORMAT_VERSION,
            "autolock": self.locks,
            "unlock_key": [self.version.incarnation, self.version.number],
        }

    @property
    def about(self) -> bytes:
        return b"swarmpy vault\0" + json.dumps(self.plain(), sort_keys=True).encode()


class Vault:
    """Of one data directory; :meth:`open` or :meth:`create` it. All methods block, and are called one at a time."""

    def __init__(self, directory: Path, random_bytes: Nonces = os.urandom) -> None:
        self._directory = directory
        self._random_bytes = random_bytes
        self._header = _Header(locks=False, version=KeyVersion())
        self._unlock: UnlockKey | None = None
        self._ring: KeyRing | None = None

    # -- what is in it ------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """True when there is one, open or not."""
        return (self._directory / FILE).exists()

    @property
    def is_locked(self) -> bool:
        """True when nothing on the disk opens it. Raises DataDirMismatch, StorageError."""
        with self._disk():
            return self._read()[0].locks

    @property
    def ring(self) -> KeyRing | None:
        """What to seal and open with; None while it is not open, or there is none."""
        return self._ring

    @property
    def unlock_key(self) -> UnlockKey | None:
        """The key that is not on the disk; None without autolock."""
        return self._unlock if self._header.locks else None

    @property
    def version(self) -> KeyVersion:
        """Which of the cluster's keys locks it, or the last that was given up."""
        return self._header.version

    @property
    def is_unfinished(self) -> bool:
        """True while something may be on the disk that is sealed with an earlier key, or not at all."""
        return self._ring is not None and (len(self._ring.keys) > 1 or self._ring.takes_plain)

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self, given: UnlockKey | None = None, *, tidy: bool = True) -> None:
        """Open it, with the key that is given where it is locked. ``tidy``: remove what a crash has left beside it.

        Raises SwarmLocked when a key is needed, WrongUnlockKey, DataDirMismatch (of a newer version, damaged, or its
        key file is gone), StorageError.
        """
        with self._disk():
            header, sealed = self._read()
            unlock, data = (
                self._opened(header, sealed, given) if header.locks else self._opened_by_files(header, sealed)
            )
            if tidy:
                self._tidy(header, unlock)
        self._header, self._unlock = header, unlock
        self._ring = self._ring_of(data)

    def _opened(self, header: _Header, sealed: bytes, given: UnlockKey | None) -> tuple[UnlockKey, bytes]:
        if given is None:
            raise SwarmLocked
        return given, given.open(sealed, header.about)

    def _opened_by_files(self, header: _Header, sealed: bytes) -> tuple[UnlockKey, bytes]:
        for name in (KEY_FILE, NEW_KEY_FILE):
            with contextlib.suppress(FileNotFoundError, InvalidArgument, WrongUnlockKey):
                unlock = UnlockKey.parse((self._directory / name).read_text(errors="replace"))
                return unlock, unlock.open(sealed, header.about)
        raise DataDirMismatch(
            f"no key in {self._directory / KEY_FILE} opens {self._directory / FILE}: restore them together, or empty "
            f"{self._directory} and join again"
        )

    def _tidy(self, header: _Header, unlock: UnlockKey) -> None:
        key, new = self._directory / KEY_FILE, self._directory / NEW_KEY_FILE
        if header.locks:
            self._remove(key, new)
        elif new.exists():
            if new.read_text(errors="replace").strip() == unlock.text:
                new.replace(key)
                sync_directory(self._directory)
            else:
                self._remove(new)

    def _read(self) -> tuple[_Header, bytes]:
        path = self._directory / FILE
        try:
            plain = json.loads(path.read_bytes())
            if plain["version"] > FORMAT_VERSION:
                raise DataDirMismatch(
                    f"{path} was written by a newer swarmpy (format {plain['version']}, this one reads "
                    f"{FORMAT_VERSION}): upgrade this node"
                )
            incarnation, number = map(int, plain["unlock_key"])
            header = _Header(locks=bool(plain["autolock"]), version=KeyVersion(incarnation, number))
            return header, base64.b64decode(plain["sealed"], validate=True)
        except (ValueError, TypeError, KeyError):
            raise DataDirMismatch(f"{path} is damaged: restore it, or empty {self._directory} and join again") from None

    def _ring_of(self, data: bytes) -> KeyRing:
        plain = json.loads(data)
        keys = tuple(DataKey(number, base64.b64decode(secret)) for number, secret in plain["keys"])
        return KeyRing(keys, takes_plain=plain["takes_plain"], nonces=self._random_bytes)

    # -- changing -----------------------------------------------------------------------------------------------------

    def create(
        self, unlock: UnlockKey | None = None, version: KeyVersion | None = None, *, takes_plain: bool = False
    ) -> None:
        """A new vault with a first data key, locked with ``unlock`` or, without one, with a key beside it.

        ``takes_plain``: there are things on the disk already that are not sealed. Raises StorageError.
        """
        ring = KeyRing((self._new_key(1),), takes_plain=takes_plain, nonces=self._random_bytes)
        self._change(ring, unlock, version or KeyVersion())

    def rotate(self, unlock: UnlockKey | None, version: KeyVersion) -> None:
        """Seal with a new data key from now on, and lock the vault with ``unlock``, or leave its key beside it.

        What the keys before have sealed has to be sealed anew, then :meth:`finish` is to be called. Raises
        StorageError.
        """
        assert self._ring is not None, "it is open"
        new = self._new_key(self._ring.current + 1)
        self._change(attrs.evolve(self._ring, keys=(*self._ring.keys, new)), unlock, version)

    def finish(self) -> None:
        """Everything is sealed with the current key: forget all others. Raises StorageError."""
        assert self._ring is not None, "it is open"
        assert self._unlock is not None, "it is open"
        ring = attrs.evolve(self._ring, keys=self._ring.keys[-1:], takes_plain=False)
        with self._disk():
            self._write(self._header, ring, self._unlock)
        self._ring = ring

    def discard(self) -> None:
        """Remove it: nothing is sealed any more. Raises StorageError."""
        self._ring = self._unlock = None
        self._header = _Header(locks=False, version=KeyVersion())
        with self._disk():
            self._remove(*(self._directory / name for name in FILES))

    def _new_key(self, number: int) -> DataKey:
        return DataKey.new(number, self._random_bytes)

    def _change(self, ring: KeyRing, unlock: UnlockKey | None, version: KeyVersion) -> None:
        header = _Header(locks=unlock is not None, version=version)
        key, new = self._directory / KEY_FILE, self._directory / NEW_KEY_FILE
        with self._disk():
            if unlock is None:
                unlock = UnlockKey.new(self._random_bytes)
                write_privately(new, unlock.text.encode() + b"\n")
            self._write(header, ring, unlock)
            if header.locks:
                self._remove(key, new)
            else:
                new.replace(key)
                sync_directory(self._directory)
        self._header, self._ring, self._unlock = header, ring, unlock

    def _write(self, header: _Header, ring: KeyRing, unlock: UnlockKey) -> None:
        keys = [[key.number, base64.b64encode(key.secret).decode()] for key in ring.keys]
        data = json.dumps({"keys": keys, "takes_plain": ring.takes_plain}).encode()
        sealed = unlock.seal(data, header.about, self._random_bytes)
        plain = {**header.plain(), "sealed": base64.b64encode(sealed).decode()}
        write_privately(self._directory / FILE, json.dumps(plain, indent=2).encode() + b"\n")

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_name(path.name + _TEMPORARY).unlink(missing_ok=True)
        sync_directory(self._directory)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot use {self._directory / FILE}: {error.strerror or error}") from error


def copy_vault(source: Path, to: Path) -> None:
    """Put a copy of a vault, with its key file if it has one, into another directory. Raises OSError."""
    for name in FILES:
        if (source / name).exists():
            shutil.copy2(source / name, to / name)

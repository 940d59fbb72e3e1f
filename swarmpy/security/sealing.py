"""Sealing data for a disk: AES-256-GCM under numbered data keys, which are themselves sealed under an unlock key.

Pure: keys and nonces come from outside, nothing is read or written. What is sealed is bound to what it is (``about``,
the associated data), so that it cannot be put in another place.

Nonces are 96 random bits. They need no memory, so a crash, a tail that is written anew or a machine that is put back to
an earlier state cannot make one repeat but by chance; for that to stay below 2^-32 a key seals no more than
:data:`MOST_SEALS` times (NIST SP 800-38D, 8.3 allows 2^32), and is replaced then.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import struct
from collections.abc import Callable, Iterator

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmpy.errors import InvalidArgument, SealBroken, WrongUnlockKey

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""What a seal adds: the nonce before, the tag behind."""
PIECE_BYTES = 256 << 10
"""What is long is sealed in such pieces: each holds Python's lock for about a millisecond, not for seconds."""
MOST_SEALS = 1 << 30
"""By one data key."""
PLAIN = 0
"""The number of no key: what is not sealed."""
UNLOCK_PREFIX = "SWMKEY-1-"

Nonces = Callable[[int], bytes]


@attrs.frozen(repr=False)
class UnlockKey:
    """The key that a node's own keys are sealed with; with autolock only the operator and the cluster have it."""

    secret: bytes

    def __repr__(self) -> str:
        return "UnlockKey(...)"

    @classmethod
    def new(cls, random_bytes: Nonces = os.urandom) -> UnlockKey:
        """A random one."""
        return cls(random_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, text: str) -> UnlockKey:
        """The key that is written as ``text``. Raises InvalidArgument, which does not repeat it."""
        text = text.strip()
        body = text.removeprefix(UNLOCK_PREFIX)
        try:
            secret = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if body == text or len(secret) != KEY_BYTES or cls(secret).text != text:
            raise InvalidArgument(
                f'invalid key: an unlock key is {UNLOCK_PREFIX} and 43 characters, as "swarm unlock-key" shows it'
            )
        return cls(secret)

    @property
    def text(self) -> str:
        """As an operator sees it."""
        return UNLOCK_PREFIX + base64.b64encode(self.secret).rstrip(b"=").decode()

    def seal(self, data: bytes, about: bytes, nonces: Nonces = os.urandom) -> bytes:
        """``data`` sealed, to be opened by this key and with the same ``about`` only."""
        nonce = nonces(NONCE_BYTES)
        return nonce + AESGCM(self.secret).encrypt(nonce, data, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """What was sealed. Raises WrongUnlockKey: the key is another, or something was changed; nobody can tell which.

        The comparison of the tag takes the same time whatever is wrong (OpenSSL).
        """
        if len(sealed) < OVERHEAD_BYTES:
            raise SealBroken("it is too short to be sealed")
        try:
            return AESGCM(self.secret).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
        except InvalidTag:
            raise WrongUnlockKey("invalid key provided") from None


@attrs.frozen(repr=False)
class DataKey:
    """One key that data is sealed with. Its number is never used again on its node."""

    number: int
    secret: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.number})"

    @classmethod
    def new(cls, number: int, random_bytes: Nonces = os.urandom) -> DataKey:
        """A random one."""
        return cls(number, random_bytes(KEY_BYTES))


@attrs.frozen(repr=False)
class KeyRing:
    """The data keys of a node: the last one seals, all open. May be used by several threads."""

    keys: tuple[DataKey, ...]
    takes_plain: bool = False
    """What was never sealed is taken as it is: while a node of a version without sealing is being changed over."""
    _nonces: Nonces = os.urandom
    _ciphers: dict[int, AESGCM] = attrs.field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_ciphers", {key.number: AESGCM(key.secret) for key in self.keys})

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(str(key.number) for key in self.keys)})"

    @property
    def current(self) -> int:
        """The number of the key that seals."""
        return self.keys[-1].number

    def seal(self, data: bytes, about: bytes) -> bytes:
        """``data``, sealed with the current key."""
        number = self.current
        nonce = self._nonces(NONCE_BYTES)
        return nonce + self._ciphers[number].encrypt(nonce, data, b"%b\0%d" % (about, number))

    def open(self, number: int, sealed: bytes, about: bytes) -> bytes:
        """What the key ``number`` has sealed; with :data:`PLAIN` what never was, where that is taken.

        Raises SealBroken.
        """
        if number == PLAIN:
            self.check_plain()
            return sealed
        cipher = self._ciphers.get(number)
        if cipher is None:
            raise SealBroken(f"it is sealed with key {number}, which this node does not have (any more)")
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], b"%b\0%d" % (about, number))
        except (InvalidTag, ValueError):
            raise SealBroken("its seal is broken: it was changed, or belongs elsewhere") from None

    def check_plain(self) -> None:
        """Raise SealBroken unless things that are not sealed are taken."""
        if not self.takes_plain:
            raise SealBroken("it is not sealed, though everything here is: somebody else put it there")

    def seal_long(self, data: bytes, about: bytes) -> Iterator[bytes]:
        """As :meth:`seal`, piece by piece; each knows its place, and the last one that it is the last.

        (The STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015, with random nonces.)
        """
        pieces = memoryview(data)
        count = pieces_of(len(data))
        for place in range(count):
            piece = pieces[place * PIECE_BYTES : (place + 1) * PIECE_BYTES]
            yield self.seal(bytes(piece), _about_piece(about, place, count))

    def open_long(self, number: int, sealed: bytes, about: bytes) -> bytes:
        """What :meth:`seal_long` has sealed. Raises SealBroken."""
        if number == PLAIN:
            return self.open(number, sealed, about)
        step = PIECE_BYTES + OVERHEAD_BYTES
        count = max(1, -(-len(sealed) // step))
        pieces = memoryview(sealed)
        opened = [
            self.open(number, bytes(pieces[place * step : (place + 1) * step]), _about_piece(about, place, count))
            for place in range(count)
        ]
        return b"".join(opened)


def pieces_of(size: int) -> int:
    """How often :meth:`KeyRing.seal_long` seals for so many bytes."""
    return max(1, -(-size // PIECE_BYTES))


def _about_piece(about: bytes, place: int, count: int) -> bytes:
    return about + struct.pack(">I?", place, place == count - 1)


def names_of(*parts: str | int) -> bytes:
    """Associated data of several parts, of which none can be taken for a part of its neighbour."""
    return hashlib.sha256(b"".join(struct.pack(">I", len(text)) + text for text in map(_bytes, parts))).digest()


def _bytes(part: str | int) -> bytes:
    return str(part).encode()

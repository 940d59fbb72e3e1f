"""A peer that speaks TLS 1.3 by the book until the handshake is done, and then sends what no library would."""

from __future__ import annotations

import asyncio
import re
import ssl
import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HANDSHAKE, DATA = 22, 23
_KEY_UPDATE_REQUESTED = bytes([24, 0, 0, 1, 1])


class Keys:
    """What one direction is encrypted with (RFC 8446, 7.1 to 7.3)."""

    def __init__(self, secret: bytes, cipher: str) -> None:
        self._is_chacha = "CHACHA" in cipher
        self._hash = hashes.SHA384() if cipher.endswith("SHA384") else hashes.SHA256()
        self._key_bytes = 16 if "AES_128" in cipher else 32
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        key, self._iv = self._expand(b"key", self._key_bytes), self._expand(b"iv", 12)
        self._cipher = ChaCha20Poly1305(key) if self._is_chacha else AESGCM(key)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack(">HB", length, len(label)) + label + b"\0"
        return HKDFExpand(self._hash, length, info).derive(self._secret)

    def record(self, kind: int, content: bytes) -> bytes:
        """The next record."""
        inner = content + bytes([kind])
        head = struct.pack(">BHH", DATA, 0x0303, len(inner) + 16)
        nonce = bytes(a ^ b for a, b in zip(self._iv, self._number.to_bytes(12, "big"), strict=True))
        self._number += 1
        return head + self._cipher.encrypt(nonce, inner, head)

    def updated(self) -> bytes:
        """The record that says that the next keys are used from now on, and asks the peer to take new ones as well."""
        record = self.record(HANDSHAKE, _KEY_UPDATE_REQUESTED)
        self._use(self._expand(b"traffic upd", self._hash.digest_size))
        return record


class Caller:
    """A connection whose own records are made here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keys: Keys) -> None:
        self.reader = reader
        self.writer = writer
        self.keys = keys

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext, log: Path, behind: int = 0) -> Caller:
        """Shake hands; ``behind``: so many changes of keys are sent in one with its end."""
        context.keylog_filename = str(log)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        cipher = tls.cipher()
        assert cipher is not None
        keys = Keys(_secret_in(log), cipher[0])
        writer.write(outgoing.read() + b"".join(keys.updated() for _ in range(behind)))
        return cls(reader, writer, keys)


def _secret_in(log: Path) -> bytes:
    found = re.search(r"^CLIENT_TRAFFIC_SECRET_0 \S+ (\S+)$", log.read_text(), re.MULTILINE)
    assert found is not None
    return bytes.fromhex(found[1])

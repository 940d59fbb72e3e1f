"""What the serial number of a node's certificate says: which one of its node it is, and for which key.

Of two certificates of one node the later one has the larger number, so one number is enough to revoke all before it,
those that nobody remembers included. The key's digest tells a repeated request for a certificate from a request for
another one. Nothing in here is secret, and nothing is trusted that is not in a signed certificate.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

import attrs

NUMBER_BITS = 32
KEY_BITS = 80
RANDOM_BITS = 24
"""So that no two certificates have the same serial number, even if number and key are the same."""


@attrs.frozen(kw_only=True)
class Serial:
    """A serial number, read. Of one node, certificates that are equal in this are one certificate, made twice.

    ``number`` 0: issued where certificates were not counted yet. ``key`` -1: not known.
    """

    number: int
    key: int


def make_serial(number: int, public_key_der: bytes) -> int:
    """The serial number of a node's certificate ``number`` (1 the first), for a key (SubjectPublicKeyInfo)."""
    assert 0 <= number < 1 << NUMBER_BITS
    head = number << KEY_BITS | key_digest(public_key_der)
    return head << RANDOM_BITS | secrets.randbits(RANDOM_BITS)


def key_digest(public_key_der: bytes) -> int:
    """What a serial number holds of a key."""
    return int.from_bytes(hashlib.sha256(public_key_der).digest()[: KEY_BITS // 8], "big")


def is_revoked(revoked: Mapping[str, int], node_id: str, serial: str) -> bool:
    """True when ``serial`` is of a certificate of the node up to the number that ``revoked`` has for it."""
    last = revoked.get(node_id)
    return last is not None and read_serial(serial).number <= last


def read_serial(text: str) -> Serial:
    """What a serial number in hexadecimal says."""
    value = int(text, 16)
    if value.bit_length() > NUMBER_BITS + KEY_BITS + RANDOM_BITS:
        # Of a version that drew all of it: 159 bits, which are this few once in 2^23.
        return Serial(number=0, key=-1)
    head = value >> RANDOM_BITS
    return Serial(number=head >> KEY_BITS, key=head & ((1 << KEY_BITS) - 1))

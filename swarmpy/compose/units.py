"""Amounts as stack files write them: durations, byte sizes, cores, and numbers in text. Pure; raises ValueError."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_DURATION_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_MAX_INT64 = 2**63 - 1

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_CPUS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}", re.ASCII)
_NANO = 1_000_000_000


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration such as ``1m30s`` or ``500ms``. Raises ValueError."""
    if text == "0":
        return 0
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    total = Decimal(0)
    position = 0
    while position < len(rest):
        match = _DURATION_PART.match(rest, position)
        if match is None:
            break
        total += Decimal(match[1]) * _DURATION_UNITS[match[2]]
        position = match.end()
    if position == 0 or position != len(rest):
        raise ValueError(f"{text!r} is not a duration: write a number with a unit, such as 30s, 1m30s or 500ms")
    if sign < 0 and total:
        raise ValueError(f"{text!r} is negative: a duration must not be")
    if total > _MAX_INT64:
        raise ValueError(f"{text!r} is too long: the longest duration is 292 years")
    return int(total)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``512M`` or ``1.5GiB``; units are binary. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write a number with a unit, such as 64M, 512kb or 1.5G")
    size = int(Decimal(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
    if size > _MAX_INT64:
        raise ValueError(f"{text!r} is too large")
    return size


def parse_cpus(text: str) -> int:
    """Billionths of a core of a number of cores such as ``0.5``. Raises ValueError."""
    if _CPUS.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a number of cores: write for example '0.5'")
    try:
        nano = Decimal(text) * _NANO
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a number of cores") from error
    if nano != int(nano):
        raise ValueError(f"{text!r} is too precise: a core is divided into billionths")
    return int(nano)


def number_text(value: float) -> str:
    """A number as text, the way the field's tools print one: ``1.0`` is "1", ``1000000.0`` is "1e+06"."""
    if isinstance(value, int):
        return str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    power = len(digits) - 1 + exponent
    if value and not -4 <= power < 6:
        mantissa = "".join(map(str, digits))
        fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
        return f"{'-' if value < 0 else ''}{mantissa[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):02d}"
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

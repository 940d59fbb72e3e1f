"""Amounts of resources, as people read them."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(amount: int) -> str:
    """Bytes, with three digits that count: ``1.2 GiB``."""
    value, unit = float(amount), 0
    while value >= 1023.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{_digits(value)} {_UNITS[unit]}"


def cpus(nano_cpus: int) -> str:
    """Cores: ``0.5``."""
    return _digits(nano_cpus / 1e9)


def _digits(value: float) -> str:
    return str(round(value)) if value >= 1000 else f"{value:.3g}"

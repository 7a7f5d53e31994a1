"""Amounts as people write them: durations, money, sizes."""

from __future__ import annotations

import re
from decimal import Decimal
from types import MappingProxyType

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_PLAIN = re.compile(rf"{_NUMBER}\Z")
_DURATION = re.compile(
    rf"(?:({_NUMBER}) ?d)? ?(?:({_NUMBER}) ?h)? ?(?:({_NUMBER}) ?m)? ?(?:({_NUMBER}) ?s)? ?(?:({_NUMBER}) ?ms)?\Z"
)
_UNIT_SECONDS = tuple(map(Decimal, ("86400", "3600", "60", "1", "0.001")))
_MONEY = re.compile(r"\$?(([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?)\Z")
_SIZE = re.compile(rf"({_NUMBER}) ?([A-Za-z]*)\Z")
_UNIT_BYTES = MappingProxyType(
    {
        "": 1,
        "b": 1,
        "kb": 10**3,
        "mb": 10**6,
        "gb": 10**9,
        "kib": 2**10,
        "mib": 2**20,
        "gib": 2**30,
    }
)
_LONGEST = 64


def parse_duration(text: str) -> float:
    """Seconds from "30s", "5m", "8h", "1h30m", "250ms", "1d"; a plain number is seconds. Raises ValueError."""
    held = text.strip()
    if held and len(held) <= _LONGEST:
        if _PLAIN.match(held):
            return float(Decimal(held))
        found = _DURATION.match(held)
        if found:
            parts = zip(found.groups(), _UNIT_SECONDS, strict=True)
            return float(sum((Decimal(part) * unit for part, unit in parts if part), Decimal(0)))
    raise ValueError(f"{shown(text)} is not a duration; write 30s, 5m, 8h, 1h30m, 1d or 250ms")


def parse_money(text: str) -> Decimal:
    """US dollars, exactly as written, from "5.00" or "$5". Raises ValueError."""
    found = _MONEY.match(text.strip())
    if found and len(text) <= _LONGEST:
        return Decimal(found[1])
    hint = "; write the cents after a point, and nothing between thousands" if re.search("[,_]", text) else ""
    raise ValueError(f"{shown(text)} is not an amount of US dollars, such as 5.00{hint}")


def parse_size(text: str) -> int:
    """Bytes from "32MiB", "200 MB" or a plain number. Raises ValueError."""
    found = _SIZE.match(text.strip())
    if found and len(text) <= _LONGEST:
        unit = _UNIT_BYTES.get(found[2].lower())
        size = None if unit is None else Decimal(found[1]) * unit
        if size is not None and size == int(size):
            return int(size)
    raise ValueError(f"{shown(text)} is not a size; write 32MiB, 500KB, 1GiB or a number of bytes")


def shown(text: str) -> str:
    """A text as messages repeat it: quoted, escaped and cut."""
    return repr(text if len(text) <= 40 else text[:39] + "…")

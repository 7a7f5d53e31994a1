"""Strings in the formats that JSON Schema names, each made from a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from types import MappingProxyType
from uuid import UUID


def _date(number: int) -> str:
    return (date(2026, 1, 1) + timedelta(days=number % 365)).isoformat()


def _time(number: int) -> str:
    return f"{number % 24:02}:{number // 24 % 60:02}:{number // 1440 % 60:02}Z"


def _uuid(number: int) -> str:
    return str(UUID(int=(number << 64 | number) & (1 << 128) - 1, version=4))


FORMATS: Mapping[str, Callable[[int], str]] = MappingProxyType(
    {
        "date": _date,
        "time": _time,
        "date-time": lambda number: f"{_date(number)}T{_time(number // 365)}",
        "duration": lambda number: f"P{number % 30 + 1}D",
        "email": lambda number: f"simulated{number % 1000}@example.com",
        "idn-email": lambda number: f"simulated{number % 1000}@example.com",
        "hostname": lambda number: f"simulated{number % 1000}.example.com",
        "idn-hostname": lambda number: f"simulated{number % 1000}.example.com",
        "ipv4": lambda number: f"192.0.2.{number % 254 + 1}",
        "ipv6": lambda number: f"2001:db8::{number % 0xFFFF:x}",
        "uri": lambda number: f"https://example.com/simulated/{number % 1000}",
        "uri-reference": lambda number: f"/simulated/{number % 1000}",
        "iri": lambda number: f"https://example.com/simulated/{number % 1000}",
        "iri-reference": lambda number: f"/simulated/{number % 1000}",
        "uuid": _uuid,
        "json-pointer": lambda number: f"/simulated/{number % 1000}",
        "regex": lambda number: f"simulated{number % 1000}",
    }
)

"""The store's time: UTC, in whole microseconds since 1970."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> int:
    return time.time_ns() // 1000


def moment(stamp: int) -> datetime:
    """An aware UTC time from the store's microseconds."""
    return datetime.fromtimestamp(stamp / 1_000_000, tz=UTC)

"""How long a server asks us to wait: headers in every form that servers write, and words in a message."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_PART = re.compile(
    r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])\s*"
    # Go writes durations without a gap: 1h2m3.5s
    r"|(\d+(?:\.\d+)?)(ms|s|m|h|d)(?=\d)",
    re.IGNORECASE | re.ASCII,
)
_ASKED = re.compile(
    r"(?:try again|retry|wait)\s+(?:in|after|for|another)?\s*(?:about\s+)?(?=\d)", re.IGNORECASE
)
_LONGEST_MESSAGE = 4000
_EPOCHS = 1e8
"""A reset above this is a point in time, not a duration."""


def retry_wait(
    headers: Mapping[str, str], message: str, now: datetime, *, resets: bool = True
) -> float | None:
    """Seconds that the server asks us to wait, None where it names no time ahead.

    Of retry-after-ms and the message ("Please try again in 174ms") the longer counts, and Retry-After too,
    unless it is the same time in the whole seconds that this header is made of. Where none of them says, the
    x-ratelimit-reset headers of what is used up do, if `resets`. Header names are lower case, `now` is an
    aware time. Any text is taken, none raises, and nothing is clamped.
    """
    exact = _longest(_milliseconds(headers), _in_words(message))
    coarse = _after(headers, now)
    if exact is not None and coarse is not None and coarse.is_integer() and coarse - 1 <= exact <= coarse:
        return exact
    known = _longest(exact, coarse)
    return _until_reset(headers) if known is None and resets else known


def _longest(*waits: float | None) -> float | None:
    return max((wait for wait in waits if wait is not None), default=None)


def _milliseconds(headers: Mapping[str, str]) -> float | None:
    wait = _number(headers.get("retry-after-ms", ""))
    return wait / 1000 if wait else None


def _after(headers: Mapping[str, str], now: datetime) -> float | None:
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    # A proxy may join two headers with a comma, which an HTTP date has too.
    values = (
        [_one(text, headers, now)]
        if not text[0].isdigit()
        else [_one(part.strip(), headers, now) for part in text.split(",")]
    )
    return max((value for value in values if value is not None), default=None)


def _one(text: str, headers: Mapping[str, str], now: datetime) -> float | None:
    seconds = _number(text)
    if seconds is None:
        seconds = _duration(text)
    if seconds is not None:
        return seconds or None
    date = _date(text)
    if date is None:
        return None
    # The server's own clock, where it tells it, is the one its date was made by.
    ahead = (date - (_date(headers.get("date", "")) or now)).total_seconds()
    return ahead if ahead > 0 else None


def _number(text: str) -> float | None:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _duration(text: str) -> float | None:
    """Seconds of a duration such as 6m0s, 174ms or 26 seconds; None if it is none."""
    text = text.strip()
    total, place = 0.0, 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            return None
        total += _seconds(part)
        place = part.end()
    return total if place and math.isfinite(total) else None


def _in_words(message: str) -> float | None:
    for asked in _ASKED.finditer(message[:_LONGEST_MESSAGE]):
        total, place = 0.0, asked.end()
        while part := _PART.match(message, place):
            total += _seconds(part)
            place = part.end()
        if total > 0 and math.isfinite(total):
            return total
    return None


def _seconds(part: re.Match[str]) -> float:
    number, unit = part[1] or part[3], (part[2] or part[4]).lower()
    return float(number) * _SECONDS["ms" if unit.startswith(("ms", "mil")) else unit[0]]


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _until_reset(headers: Mapping[str, str]) -> float | None:
    used_up: list[float] = []
    others: list[float] = []
    for name, text in headers.items():
        if not name.startswith("x-ratelimit-reset-"):
            continue
        wait = _number(text)
        if wait is None:
            wait = _duration(text)
        if not wait or wait > _EPOCHS:
            continue
        left = headers.get(name.replace("-reset-", "-remaining-"), "")
        (used_up if left.strip() == "0" else others).append(wait)
    if used_up:
        return max(used_up)
    # A bucket that is not empty is full again after its reset, which is more than one call needs.
    return min(others, default=None)

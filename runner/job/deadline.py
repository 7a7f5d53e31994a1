"""When a run must be done: so long from now, or at a time of day somewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from runner.job.amounts import parse_duration, shown

_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?: ?(Z|[-+][0-9]{2}:[0-9]{2})| ([A-Za-z][A-Za-z0-9_+/-]*))?\Z")
_EXAMPLES = "8h, 06:00 Europe/Berlin, 22:30 UTC or 22:30+01:00"


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a run must be done. Either `seconds` from its start, or `time_of_day` in `zone`, an IANA name, "UTC"
    or an offset such as "+01:00". `text` is how it was written; parse_deadline gives the same again."""

    text: str
    seconds: float | None = None
    time_of_day: time | None = None
    zone: str | None = None

    def at(self, now: datetime) -> datetime:
        """The moment, in UTC, for a run that starts at `now`, which must be aware: with a time of day, the next
        one after `now`."""
        now = now.astimezone(UTC)
        if self.seconds is not None:
            return now + timedelta(seconds=self.seconds)
        assert self.time_of_day is not None
        assert self.zone is not None
        zone = _zone(self.zone)
        today = now.astimezone(zone).date()
        # A day of the clock's change can have the time twice, or a little later than it says.
        moments = (
            datetime.combine(today + timedelta(days=day), self.time_of_day, zone).replace(fold=fold)
            for day in (-1, 0, 1, 2)
            for fold in (0, 1)
        )
        return min(moment for moment in (one.astimezone(UTC) for one in moments) if moment > now)


def parse_deadline(text: str) -> Deadline:
    """A deadline from a duration, or a time of day with its zone. Raises ValueError."""
    held = text.strip()
    if ":" not in held:
        try:
            seconds = parse_duration(held)
        except ValueError:
            raise ValueError(f"{shown(text)} is not a deadline; write {_EXAMPLES}") from None
        return Deadline(held, seconds)
    found = _CLOCK.match(held)
    if not found or int(found[1]) > 23 or int(found[2]) > 59:
        raise ValueError(f"{shown(text)} is not a deadline; write {_EXAMPLES}")
    zone = found[3] or found[4]
    if zone is None:
        raise ValueError(f"{shown(text)} needs its time zone; write {held} UTC or {held} Europe/Berlin")
    _zone(zone)
    return Deadline(held, None, time(int(found[1]), int(found[2])), zone)


def _zone(name: str) -> tzinfo:
    if name in ("UTC", "Z"):
        return UTC
    if name[0] in "+-":
        hours, minutes = int(name[1:3]), int(name[4:])
        if hours > 14 or minutes > 59:
            raise ValueError(f"{name} is not an offset from UTC; write one such as +01:00")
        offset = timedelta(hours=hours, minutes=minutes)
        return timezone(-offset if name[0] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"the time zone {shown(name)} is not known on this machine; write one such as Europe/Berlin, UTC "
            "or an offset such as +01:00"
        ) from None

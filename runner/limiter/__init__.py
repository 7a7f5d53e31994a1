"""How soon the next call may start, and how many may be in flight. Pure arithmetic; it never sleeps.

    nothing known ──first answer──▶ TOLD    the rates that the headers speak of, at once, up and down
                                └─▶ SILENT  ten calls a second or a round trip, doubling each second until refused

A refusal cuts to what was not refused of the last second's calls, and a little below; each second without one
lets a little more through, and that faster and faster. Where limits are told they are the most; a SILENT
server is tried beyond. Ceilings of the job file hold in any case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from runner.limiter.flow import SLICE, Flow
from runner.limiter.headers import DAY, MINUTE, QUANTITIES, Told, told
from runner.limiter.volley import Volley

__all__ = ["Limiter"]

FIRST_RATE = 10.0
SHORT_PAUSE = 2.0
"""Seconds up to which a refusal by a server that otherwise answers needs no prober."""

SLOW_GROWTH, MISHAP_GROWTH = 0.02, 0.2
FAST_GROWTH = 1.0
ACCELERATION = 1.25
"""What is let through grows by so much a second, from slow to fast by the factor a second."""

SLOWED = 3.0
"""A silent server that answers so many times slower than it did gets no more."""

RAMP_ABOVE = 1_000_000 / 60.0
RAMP = 1.5
RAMP_SECONDS = 900.0
"""After a slow_down: at most 50 % more in 15 minutes above a million tokens a minute (the API's own rule)."""


class Limiter:
    """One limit for all calls of an account and a model, learned from its answers.

    `requests` and `tokens` are ceilings a minute, None for none; `ceiling` is the most calls in flight. Times
    are seconds of one monotonic clock.
    """

    def __init__(self, *, requests: int | None, tokens: int | None, ceiling: int) -> None:
        self._ceiling = max(1, ceiling)
        self._asked = {"requests": _per_second(requests), "tokens": _per_second(tokens)}
        self._requests = Flow(whole=True)
        self._tokens = Flow()
        self._limits: dict[str, Told] = {}
        self._heard: dict[str, str] = {}
        self._exhausted: dict[str, float] = {}
        self._runs = 1
        self._silent: float | None = None
        self._share = 1.0
        self._growth = FAST_GROWTH
        self._grown_at = -math.inf
        self._refused_at = self._changed_at = -math.inf
        self._started_then = 0
        self._ramping = False
        self._paused_until = -math.inf
        self._started = 0
        self._answered = 0
        self._latency = self._least_latency = 0.0
        self._size = 0.0
        self._charge = 1.0
        self._volley = Volley(answered_since=True)
        self._bound, self._bound_at = "latency", -math.inf
        self._apply()

    @property
    def window(self) -> int:
        """How many calls may be in flight: one, the probe, until the first answer; then what the rates and the
        latency fill, twice, for calls leave in volleys and some take longer than most."""
        if not self._answered:
            return 1
        rate = self._rate()
        if rate is None:
            return self._ceiling
        # A silent server that only queues what it cannot do grows slow: it gets what filled it when it was not.
        latency = self._latency if self._silent is None else self._least_latency
        return int(min(self._ceiling, 4 + 2 * rate * max(SLICE, latency)))

    @property
    def is_told(self) -> bool:
        """Whether the server speaks of a limit a minute."""
        return any(limit.window == MINUTE for limit in self._limits.values())

    def bound_by(self, now: float) -> str:
        """What keeps the run from being faster: requests, tokens, latency or concurrency (the ceiling)."""
        if now - self._bound_at <= 2 * SLICE:
            return self._bound
        return "concurrency" if self.window >= self._ceiling else "latency"

    def shared_by(self, runs: int) -> None:
        """So many runs share the account's limits, this one included: each takes its part."""
        self._runs = max(1, runs)
        self._apply()

    def exhausted_until(self, now: float) -> float | None:
        """When a day's limit that is used up is there again, None if none is; a time of the same clock."""
        until = max(self._exhausted.values(), default=now)
        return until if until > now else None

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a call of so many tokens, its longest output included, may start; 0 if it may now."""
        self._grow(now)
        calls, worth = self._requests.wait(now, 1), self._tokens.wait(now, tokens * self._charge)
        longest = max(calls, worth)
        if longest > 0:
            self._bound, self._bound_at = "requests" if calls >= worth else "tokens", now + longest
        return max(longest, self._paused_until - now, 0.0)

    def start(self, now: float, tokens: float) -> int:
        """A call starts; the ticket it starts under."""
        self._requests.start(now, 1)
        self._tokens.start(now, tokens * self._charge)
        self._size = tokens if not self._size else self._size + 0.05 * (tokens - self._size)
        self._started += 1
        return self._started

    def answered(self, now: float, ticket: int, headers: Mapping[str, str], latency: float) -> None:
        """A server that does its work answered a call after `latency` seconds."""
        self._listen(now, headers)
        self._latency = latency if not self._answered else self._latency + 0.1 * (latency - self._latency)
        self._least_latency = min(self._latency, self._least_latency or self._latency)
        if not self._answered:
            self._learn_charge()
            self._grown_at = now
        self._answered += 1
        self._volley.answered_since = True
        if not self.is_told and self._silent is None:
            self._silent = FIRST_RATE / min(1.0, max(latency, 1e-4))
            self._apply()

    def refused(
        self,
        now: float,
        ticket: int,
        headers: Mapping[str, str],
        wait: float | None,
        *,
        slow_down: bool = False,
    ) -> bool:
        """A call was refused for speed, `wait` seconds asked for. True if one prober should go before the others.

        False where the pause is short and the server lets most calls pass: then `wait()` holds them that long.
        """
        self._listen(now, headers, whole=True)
        pause = SLICE if wait is None else wait
        if now - self._changed_at < 2 * SLICE and not self._ramping:
            # What is refused was sent under another limit than the one just told.
            self._volley.last = self._started
        elif self._count(now, ticket, slow_down=slow_down):
            return True
        if not self._answered or pause > SHORT_PAUSE:
            return True
        self._paused_until = max(self._paused_until, now + pause)
        return False

    def _count(self, now: float, ticket: int, *, slow_down: bool) -> bool:
        """Cut by one refusal more; True if most of its volley was refused, or all since the last one."""
        volley = self._volley
        if ticket > volley.last:
            self._volley = volley = Volley(
                last=self._started,
                size=max(1.0, self._requests.used(now)),
                fill=max(self._requests.fill(now), self._tokens.fill(now)),
                share=self._share,
                silent=self._silent,
                in_vain=not volley.answered_since,
            )
            # After a long time without a refusal, one of a told limit is likely to be a mishap.
            clean = 0.0 if self._silent is not None else SLOW_GROWTH / 3 * (now - self._refused_at)
            self._growth = min(MISHAP_GROWTH, max(SLOW_GROWTH, clean))
            self._refused_at = self._grown_at = now
            self._started_then = self._started
            if volley.fill > 0.5:
                self._requests.keep_strictly()
                self._tokens.keep_strictly()
            self._ramping |= slow_down and self._is_large()
        volley.refused += 1
        if volley.silent is None:
            self._share = volley.share_left()
        else:
            self._silent = volley.silent_left()
        self._apply()
        return volley.in_vain or volley.is_mostly_refused

    def _grow(self, now: float) -> None:
        passed = now - self._grown_at
        if passed < SLICE or not self._answered or (self._share >= 1.0 and self._silent is None):
            return
        # A rate that is not used is not known to be possible.
        used = self._silent is not None and self._started - self._started_then >= 0.5 * self._silent * passed
        used &= self._latency <= SLOWED * self._least_latency
        self._grown_at, self._started_then = now, self._started
        factor = 1 + self._growth * min(passed, 2 * SLICE)
        self._growth = min(FAST_GROWTH, self._growth * ACCELERATION)
        if self._ramping and self._is_large():
            factor = RAMP ** (passed / RAMP_SECONDS)
        self._share = min(1.0, self._share * factor)
        if self._silent is not None and used:
            self._silent *= factor
        self._apply()

    def _rate(self) -> float | None:
        """Calls a second that may start, by the tokens of those that did."""
        by_tokens = self._tokens.rate
        if by_tokens is not None:
            by_tokens = by_tokens / (self._size * self._charge) if self._size else None
        return _least(self._requests.rate, by_tokens)

    def _is_large(self) -> bool:
        """Whether what may start comes to more than a million tokens a minute."""
        return (self._rate() or 0.0) * self._size * self._charge > RAMP_ABOVE

    def _listen(self, now: float, headers: Mapping[str, str], *, whole: bool = False) -> None:
        """Take in what headers say. A minute's limit that is known already is read again only if asked for
        `whole`, for this is done with each answer."""
        changed = False
        for name in QUANTITIES:
            text = headers.get(f"x-ratelimit-limit-{name}")
            known = self._limits.get(name)
            settled = known is not None and known.window == MINUTE and self._heard[name] == text
            if text is None or (settled and not whole):
                continue
            found = told(headers, name)
            if found is None:
                continue
            same = known is not None and known.limit == found.limit
            window = found.window or (known.window if same and known is not None else None) or MINUTE
            self._limits[name] = Told(found.limit, found.remaining, found.reset, window)
            # As long as nothing tells a minute from a day, look again.
            self._heard[name] = text if found.window else ""
            if window == DAY and found.remaining == 0 and found.reset:
                self._exhausted[name] = now + found.reset
            else:
                self._exhausted.pop(name, None)
            if known is not None and not same:
                self._changed_at = now
            changed |= known is None or not same or known.window != window
        if changed:
            if self.is_told:
                self._silent = None
            self._apply()

    def _learn_charge(self) -> None:
        """The probe was alone: what is missing from the limit is what it was charged."""
        limit = self._limits.get("tokens")
        if limit is None or limit.remaining is None or not self._size:
            return
        ratio = (limit.limit - limit.remaining) / self._size
        # Beyond that, others use the account too.
        if self._started == 1 and 0.25 <= ratio <= 4.0:
            self._charge = ratio

    def _apply(self) -> None:
        part = self._share / self._runs
        rates = {
            name: limit.limit / MINUTE * part
            for name, limit in self._limits.items()
            if limit.window == MINUTE
        }
        self._requests.set_rate(_least(self._asked["requests"], rates.get("requests"), self._silent))
        self._tokens.set_rate(_least(self._asked["tokens"], rates.get("tokens"), rates.get("project-tokens")))


def _per_second(per_minute: int | None) -> float | None:
    return None if per_minute is None else per_minute / MINUTE


def _least(*rates: float | None) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)

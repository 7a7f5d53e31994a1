"""How soon the next call may start, and how many may be in flight. Pure arithmetic; it never sleeps.

    nothing known ──first answer──▶ TOLD    the rates that the headers speak of, at once, up and down
                                └─▶ SILENT  ten calls a second or a round trip, doubling each second until refused

A refusal cuts to what was not refused of the last second's calls, and a little below; each second without one
lets a little more through, and that faster and faster. Where limits are told they are the most, and a few
refusals once in a while, of calls that straddled two of the server's slices, cut nothing; a SILENT server is
tried beyond. After a storm calls go by ones and twos. Ceilings of the job file hold in any case.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from runner.limiter.announced import Announced
from runner.limiter.flow import SLICE, Flow
from runner.limiter.headers import MINUTE
from runner.limiter.load import BUSY, Load
from runner.limiter.reopening import Reopening
from runner.limiter.room import Room, drawn
from runner.limiter.volley import Volley

__all__ = ["Limiter", "Load"]

FIRST_RATE = 10.0
SHORT_PAUSE = 2.0
"""Seconds up to which a refusal by a server that otherwise answers needs no prober."""

SLOW_GROWTH, MISHAP_GROWTH = 0.02, 0.2
FAST_GROWTH = 1.0
ACCELERATION = 1.25
"""What is let through grows by so much a second, from slow to fast by the factor a second."""

TOLERATED = 0.2
CALM = 10.0
"""The part of a volley that may be refused, once in so many seconds, before what is told is doubted."""

REMEMBERED = 4_096
"""How many of the newest calls' starts are known."""

SLOWED = 3.0
"""A silent server that answers so many times slower than it did gets no more."""

RAMP_ABOVE = 1_000_000 / 60.0
RAMP = 1.5
RAMP_SECONDS = 900.0
"""After a slow_down: at most 50 % more in 15 minutes above a million tokens a minute (the API's own rule)."""

JOINING = 2.05
"""Seconds that a run goes by its probe alone where others share its limits: in one they hear of it, and after one
more what they started before is out of the slice."""


class Limiter:
    """One limit for all calls of an account and a model, learned from its answers.

    `requests` and `tokens` are ceilings a minute, None for none; `ceiling` is the most calls in flight. Times
    are seconds of one monotonic clock.
    """

    def __init__(self, *, requests: int | None, tokens: int | None, ceiling: int) -> None:
        self._ceiling = max(1, ceiling)
        asked = {"requests": requests, "tokens": tokens}
        self._asked = {name: None if most is None else most / MINUTE for name, most in asked.items()}
        self._requests = Flow(whole=True)
        self._tokens = Flow()
        self._announced = Announced()
        self._reopening = Reopening()
        self._runs = self._runs_heard = 1
        self._joined_at = -math.inf
        self._silent: float | None = None
        self._share = 1.0
        self._growth = FAST_GROWTH
        self._grown_at = self._refused_at = -math.inf
        self._started_then = 0
        self._ramping = False
        self._paused_until = -math.inf
        self._started = 0
        self._starts: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._answered = 0
        self._latency = self._least_latency = 0.0
        self._tokens_each = 0.0
        self._room = Room()
        self._charge = 1.0
        self._volley = Volley(answered_since=True)
        self._bound, self._bound_at = "latency", -math.inf
        self._busy = 0.0
        self._apply()

    @property
    def window(self) -> int:
        """How many calls may be in flight: one, the probe, until the first answer; then what the rates and the
        latency fill, twice, for calls leave in volleys and some take longer than most; and what memory holds."""
        if not self._answered:
            return 1
        most = self._most
        rate = self.calls_a_second
        if rate is None:
            return most
        # A silent server that only queues what it cannot do grows slow: it gets what filled it when it was not.
        latency = self._latency if self._silent is None else self._least_latency
        return int(min(most, 4 + 2 * rate * max(SLICE, latency)))

    @property
    def tokens_a_minute(self) -> float:
        """How many tokens may start in a minute, by the calls' own count; infinite as far as is known."""
        rate = self._tokens.rate
        return math.inf if rate is None else rate * MINUTE / self._charge

    def bound_by(self, now: float) -> str:
        """What keeps the run from being faster: requests, tokens, cpu (the client's own), latency, or
        concurrency (the ceiling, or the memory that the answers in flight take)."""
        if now - self._bound_at <= 2 * SLICE:
            return self._bound
        if self._busy >= BUSY:
            return "cpu"
        return "concurrency" if self.window >= self._most else "latency"

    def busy(self, share: float) -> None:
        """The client's process has used that part of one core of late; see `Load`."""
        self._busy = share

    def shared_by(self, runs: int, now: float | None = None) -> None:
        """So many runs share the account's limits, this one included: each takes its part.

        To be told each second. That there are fewer counts once it is heard twice, for the calls of one that
        has just ended are in the server's slice still. `now` is given before the first call: where others
        share the limits, all but the probe wait until they have heard of this run.
        """
        runs = max(1, runs)
        if now is not None and runs > 1 and not self._started:
            self._joined_at = now
        self._runs, self._runs_heard = max(runs, self._runs_heard), runs
        if self._runs > 1:
            # Several who each round up would exceed the limit together.
            self._requests.strict = True
        self._apply()

    def exhausted_until(self, now: float) -> float | None:
        """When a day's limit that is used up is there again, None if none is; a time of the same clock."""
        return self._announced.exhausted_until(now)

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until a call of so many tokens, its longest output included, may start; 0 if it may now."""
        self._grow(now)
        calls, worth = self._requests.wait(now, 1), self._tokens.wait(now, tokens * self._charge)
        longest = max(calls, worth)
        if longest > 0:
            self._bound, self._bound_at = "requests" if calls >= worth else "tokens", now + longest
        # Nothing else holds nearly any call.
        if self._paused_until <= now and self._reopening.is_open and self._joined_at == -math.inf:
            return longest
        joining = self._joined_at + JOINING - now if self._started else 0.0
        return max(longest, self._paused_until - now, self._reopening.wait(now), joining, 0.0)

    def start(self, now: float, tokens: float) -> int:
        """A call starts; the ticket it starts under."""
        self._requests.start(now, 1)
        self._tokens.start(now, tokens * self._charge)
        self._reopening.start(now)
        self._tokens_each = drawn(self._tokens_each, tokens, 0.05)
        self._started += 1
        self._starts.append((now, tokens))
        return self._started

    def answered(
        self,
        now: float,
        ticket: int,
        headers: Mapping[str, str],
        latency: float,
        *,
        sizes: tuple[int, int] = (0, 0),
        is_full: bool = True,
        tokens: float | None = None,
    ) -> None:
        """A server that does its work answered a call after `latency` seconds. `sizes` are the bytes of request
        and answer; `is_full` says that no more bytes of answers may be here than are; `tokens` is what the call
        would be taken for if it started now, where more is known than when it did."""
        self._listen(now, headers)
        self._latency = latency if not self._answered else self._latency + 0.1 * (latency - self._latency)
        self._least_latency = min(self._latency, self._least_latency or self._latency)
        if any(sizes):
            self._room.answered(*sizes, is_full=is_full)
        if not self._answered:
            self._learn_charge(tokens or self._tokens_each)
            self._grown_at = now
        self._answered += 1
        if not self._reopening.is_open:
            self._reopening.answered(ticket, min(self.window, self._requests.room))
        self._volley.answered_since = True
        if not self._announced.is_told and self._silent is None:
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
        divisible: bool = False,
    ) -> bool:
        """A call was refused for speed, `wait` seconds asked for; a `divisible` one can be asked as several. True if
        one prober should go before the others, which follow by ones and twos.

        False where the pause is short and the server lets most calls pass: then `wait()` holds them that long.
        """
        self._listen(now, headers, whole=True)
        # Where the server names no time, the slice in which it refused is over a second after the call left.
        pause = min(SLICE, self._start_of(ticket)[0] + SLICE - now) if wait is None else wait
        if now - self._announced.changed_at < 2 * SLICE and not self._ramping:
            # What is refused was sent under another limit than the one just told.
            self._volley.last = self._started
        elif divisible and self._announced.is_told and (beyond := self._beyond_a_slice(ticket)) > 0:
            # Its size may be why, which tells nothing of the rate. It pays off nothing, either.
            self._tokens.give_back(beyond)
            self._volley.last = self._started
            return True
        elif self._count(now, ticket, slow_down=slow_down):
            self._reopening.close(now, self._started + 1)
            return True
        if not self._answered or pause > SHORT_PAUSE:
            return True
        self._paused_until = max(self._paused_until, now + pause)
        return False

    def _beyond_a_slice(self, ticket: int) -> float:
        return self._start_of(ticket)[1] * self._charge - self._tokens.room

    def _count(self, now: float, ticket: int, *, slow_down: bool) -> bool:
        """Cut by one refusal more; True if most of its volley was refused, or all since the last one."""
        if ticket > self._volley.last:
            self._begin_volley(now, slow_down=slow_down)
        volley = self._volley
        volley.refused += 1
        if volley.is_tolerated:
            # It did not pass, so that its room is still there; else a single one would cost a slice at the end.
            self._requests.give_back(1)
            self._tokens.give_back(self._start_of(ticket)[1] * self._charge)
        if volley.silent is None:
            self._share = volley.share_left()
        else:
            self._silent = volley.silent_left()
        self._apply()
        return volley.in_vain or volley.is_mostly_refused

    def _begin_volley(self, now: float, *, slow_down: bool) -> None:
        """The first refusal of calls that were all sent under what is allowed now."""
        clean = now - self._refused_at
        self._volley = Volley(
            last=self._started,
            size=max(1.0, self._requests.used(now)),
            fill=max(self._requests.fill(now), self._tokens.fill(now)),
            share=self._share,
            silent=self._silent,
            in_vain=not self._volley.answered_since,
            tolerated=TOLERATED if self._follows_headers and clean > CALM else 0.0,
        )
        # After a long time without a refusal, one of a told limit is likely to be a mishap.
        hoped = 0.0 if self._silent is not None else SLOW_GROWTH / 3 * clean
        self._growth = min(MISHAP_GROWTH, max(SLOW_GROWTH, hoped))
        self._refused_at = self._grown_at = now
        self._started_then = self._started
        if self._volley.fill > 0.5:
            self._requests.keep_strictly()
            self._tokens.keep_strictly()
        self._ramping |= slow_down and self._is_large()

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

    @property
    def _most(self) -> int:
        """The calls in flight that the ceiling and the memory allow."""
        return max(1, int(min(self._ceiling, self._room.calls)))

    @property
    def _follows_headers(self) -> bool:
        """Whether it is what the server tells, and no ceiling of the job's, that holds calls back."""
        told = self._announced.rates
        asked = self._asked.items()
        return bool(told) and all(most is None or told.get(name, math.inf) < most for name, most in asked)

    @property
    def calls_a_second(self) -> float | None:
        """How many calls may start in a second; None where nothing is known."""
        by_tokens = self._tokens.rate
        if by_tokens is not None:
            each = self._tokens_each * self._charge
            by_tokens = by_tokens / each if each else None
        return _least(self._requests.rate, by_tokens)

    def _is_large(self) -> bool:
        """Whether what may start comes to more than a million tokens a minute."""
        return (self.calls_a_second or 0.0) * self._tokens_each * self._charge > RAMP_ABOVE

    def _start_of(self, ticket: int) -> tuple[float, float]:
        """When a call started, and its tokens; the earliest that is known, if that is too long ago."""
        place = ticket - self._started - 1
        return self._starts[max(place, -len(self._starts))] if self._starts else (-math.inf, 0.0)

    def _listen(self, now: float, headers: Mapping[str, str], *, whole: bool = False) -> None:
        if self._announced.listen(now, headers, whole=whole):
            if self._announced.is_told:
                self._silent = None
            self._apply()

    def _learn_charge(self, tokens: float) -> None:
        """The probe was alone: what is missing from the limit is what it was charged."""
        missing = self._announced.missing("tokens")
        if missing is None or not tokens:
            return
        ratio = missing / tokens
        # Beyond that, others use the account too.
        if self._started == 1 and 0.25 <= ratio <= 4.0:
            self._charge = ratio

    def _apply(self) -> None:
        part = self._share / self._runs
        rates = {name: rate * part for name, rate in self._announced.rates.items()}
        self._requests.set_rate(_least(self._asked["requests"], rates.get("requests"), self._silent))
        self._tokens.set_rate(_least(self._asked["tokens"], rates.get("tokens"), rates.get("project-tokens")))


def _least(*rates: float | None) -> float | None:
    return min((rate for rate in rates if rate is not None), default=None)

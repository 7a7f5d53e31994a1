"""Limits per minute, enforced as the API enforces them: buckets of requests and of tokens for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from runner.simulator.refusal import Refusal


class Bucket:
    """One limit per minute.

    Refilled continuously, or (`sliced`) once a second with a sixtieth and without carry-over; where a
    sixtieth is less than one, the slice is as long as one whole takes.
    """

    __slots__ = ("_level", "_slice", "_time", "capacity", "per_minute")

    def __init__(self, per_minute: int, *, now: float, sliced: bool = False) -> None:
        self.per_minute = per_minute
        self._slice = max(1.0, 60 / per_minute) if sliced else 0.0
        self.capacity = per_minute * self._slice / 60 if sliced else float(per_minute)
        self._level = self.capacity
        self._time = now

    def level(self, now: float) -> float:
        """What is left; below 0 after a cost that was larger than one slice."""
        if self._slice:
            slices = int((now - self._time) / self._slice)
            self._time += slices * self._slice
            gained = slices * self.capacity
        else:
            gained = max(0.0, now - self._time) * self.per_minute / 60
            self._time = now
        self._level = min(self.capacity, self._level + gained)
        return self._level

    def wait(self, cost: float, now: float) -> float:
        """Seconds until a request of this cost may pass; 0 if it may at once.

        A cost above the capacity passes when the bucket is full, and leaves a debt.
        """
        short = min(cost, self.capacity) - self.level(now)
        if short <= 1e-9:
            return 0.0
        if self._slice:
            return self._time + math.ceil(short / self.capacity) * self._slice - now
        return short * 60 / self.per_minute

    def take(self, cost: float) -> None:
        """Books the cost of a request that passes."""
        self._level -= cost

    def punish(self) -> None:
        """Books a refused request, which counts like any other: asking again at once lengthens the wait."""
        self._level = min(self._level, max(0.0, self._level - 1))

    def until_full(self, now: float) -> float:
        """Seconds until the bucket is full again."""
        short = self.capacity - self.level(now)
        return short * 60 / self.per_minute if short > 0 else 0.0


class Limit:
    """One limit as the API announces it, by the minute, and as it enforces it, perhaps by the second."""

    __slots__ = ("_announced", "_enforced", "word")

    def __init__(self, word: str, per_minute: int, *, now: float, sliced: bool) -> None:
        self.word = word
        self._announced = Bucket(per_minute, now=now)
        self._enforced = Bucket(per_minute, now=now, sliced=True) if sliced else self._announced

    def wait(self, cost: float, now: float) -> float:
        """Seconds until a request of this cost may pass."""
        return self._enforced.wait(cost, now)

    def take(self, cost: float) -> None:
        """Books the cost of a request that passes."""
        self._enforced.take(cost)
        if self._announced is not self._enforced:
            self._announced.take(cost)

    def punish(self) -> None:
        """Books a refused request."""
        self._enforced.punish()
        if self._announced is not self._enforced:
            self._announced.punish()

    def used(self, now: float) -> int:
        """What the API calls used: the limit less what is left of it."""
        return min(self.per_minute, max(0, math.ceil(self.per_minute - self._announced.level(now))))

    @property
    def per_minute(self) -> int:
        """The limit itself."""
        return self._announced.per_minute

    def headers(self, now: float) -> dict[str, str]:
        """The three `x-ratelimit-*` headers of this limit."""
        left = max(0, math.floor(self._announced.level(now) + 1e-9))
        return {
            f"x-ratelimit-limit-{self.word}": str(self.per_minute),
            f"x-ratelimit-remaining-{self.word}": str(left),
            f"x-ratelimit-reset-{self.word}": go_duration(self._announced.until_full(now)),
        }


class ModelLimits:
    """The limits of one model: refuses with 429 what comes too fast, and says in headers what is left."""

    __slots__ = ("_model", "_requests", "_tokens")

    def __init__(self, model: str, *, rpm: int | None, tpm: int | None, now: float, sliced: bool) -> None:
        self._model = model
        self._requests = Limit("requests", rpm, now=now, sliced=sliced) if rpm else None
        self._tokens = Limit("tokens", tpm, now=now, sliced=sliced) if tpm else None

    def admit(self, tokens: int, now: float) -> None:
        """Books one request of so many tokens, or raises the 429 that says how long to wait."""
        requests, budget = self._requests, self._tokens
        if budget is not None and tokens > budget.per_minute:
            self.punish()
            raise too_large(self._model, budget.per_minute, tokens)
        for limit, cost in ((requests, 1), (budget, tokens)):
            if limit is not None and (wait := limit.wait(cost, now)) > 0:
                used = limit.used(now)
                self.punish()
                # The refusal itself has just been booked: the wait is that of the next try.
                wait = limit.wait(cost, now) or wait
                raise too_fast(self._model, limit, used=used, requested=cost, wait=wait)
        if requests is not None:
            requests.take(1)
        if budget is not None:
            budget.take(tokens)

    def punish(self) -> None:
        """Books a request that failed for whatever reason: it counts against the requests."""
        if self._requests is not None:
            self._requests.punish()

    def headers(self, now: float) -> dict[str, str]:
        """All `x-ratelimit-*` headers; none where nothing is limited."""
        found: dict[str, str] = {}
        for limit in (self._requests, self._tokens):
            if limit is not None:
                found.update(limit.headers(now))
        return found


def too_fast(model: str, limit: Limit, *, used: int, requested: int, wait: float) -> Refusal:
    """The 429 of a request that comes too early."""
    short = "RPM" if limit.word == "requests" else "TPM"
    message = (
        f"Rate limit reached for {model} in organization org-sim on {limit.word} per min ({short}): "
        f"Limit {limit.per_minute}, Used {used}, Requested {requested}. "
        f"Please try again in {go_duration(wait)}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    return Refusal(429, message, kind=limit.word, code="rate_limit_exceeded", headers=retry_headers(wait))


def too_large(model: str, limit: int, requested: int) -> Refusal:
    """The 429 of a request that is larger than the whole limit: it can never pass."""
    message = (
        f"Request too large for {model} in organization org-sim on tokens per min (TPM): "
        f"Limit {limit}, Requested {requested}. The input or output tokens must be reduced in order to run "
        "successfully. Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    return Refusal(429, message, kind="tokens", code="rate_limit_exceeded")


def retry_headers(wait: float) -> Mapping[str, str]:
    """`Retry-After` in whole seconds and `retry-after-ms`, both rounded up."""
    return {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, to the millisecond and rounded up: 0s, 20ms, 8.64s, 6m0s, 1h2m3.5s."""
    total = math.ceil(seconds * 1000 - 1e-6)
    if total <= 0:
        return "0s"
    if total < 1000:
        return f"{total}ms"
    minutes, milliseconds = divmod(total, 60_000)
    rest = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return rest
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}" if hours else f"{minutes}m{rest}"

"""Servers that enforce limits, for the limiter's tests: in virtual time with a dispatch of their own, without
sockets or sleeping, and as a script of the fault server, over real ones."""

import heapq
import math
import random
import threading
from dataclasses import dataclass, field

import orjson
from faultserver import Arrival, Behaviour, answer, error, ok

from runner.limiter import Limiter


class Bucket:
    def __init__(self, per_minute, *, sliced, phase=0.0, capacity=None):
        self.rate, self.sliced = per_minute / 60, sliced
        self.slice = max(1.0, 1 / self.rate)
        self.capacity = self.rate * self.slice if sliced else (capacity or per_minute)
        self.level, self.at = self.capacity, -phase * self.slice if sliced else 0.0

    def _refill(self, now):
        if self.sliced:
            slices = math.floor((now - self.at) / self.slice)
            self.at += slices * self.slice
            gained = slices * self.capacity
        else:
            gained, self.at = (now - self.at) * self.rate, now
        self.level = min(self.capacity, self.level + gained)

    def wait(self, now, cost):
        self._refill(now)
        short = min(cost, self.capacity) - self.level
        if short <= 1e-9:
            return 0.0
        if self.sliced:
            return self.at + math.ceil(short / self.capacity - 1e-12) * self.slice - now
        return short / self.rate

    def change(self, per_minute):
        factor = per_minute / 60 / self.rate
        self.rate *= factor
        self.capacity *= factor
        self.level = min(self.level, self.capacity)


class Server:
    """Enforces requests and tokens by slices or continuously; announces them as buckets of a minute."""

    def __init__(
        self,
        rpm=None,
        tpm=None,
        *,
        sliced=True,
        phase=0.0,
        says=True,
        coarse=False,
        capacity=None,
        charge=1.0,
    ):
        self.says, self.coarse, self.charge = says, coarse, charge
        self.buckets, self.minutes = {}, {}
        for name, limit in (("requests", rpm), ("tokens", tpm)):
            if limit:
                self.buckets[name] = Bucket(limit, sliced=sliced, phase=phase, capacity=capacity)
                self.minutes[name] = [limit, Bucket(limit, sliced=False)]

    def ask(self, now, tokens):
        costs = {"requests": 1, "tokens": tokens * self.charge}
        wait = max((b.wait(now, costs[n]) for n, b in self.buckets.items()), default=0.0)
        for name, bucket in self.buckets.items():
            if wait <= 0:
                bucket.level -= costs[name]
                self.minutes[name][1].wait(now, 0)
                self.minutes[name][1].level -= costs[name]
            elif name == "requests":
                bucket.level = min(bucket.level, max(0.0, bucket.level - 1))
        headers = {}
        for name, (limit, minute) in self.minutes.items() if self.says else ():
            minute.wait(now, 0)
            left = max(0, math.floor(minute.level))
            headers[f"x-ratelimit-limit-{name}"] = str(limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(left)
            headers[f"x-ratelimit-reset-{name}"] = f"{math.ceil((limit - left) / limit * 60000)}ms"
        if wait > 0:
            wait = math.ceil(wait) if self.coarse else math.ceil(wait * 1000) / 1000
        return wait, headers

    def change(self, rpm):
        self.buckets["requests"].change(rpm)
        self.minutes["requests"][0] = rpm
        self.minutes["requests"][1].change(rpm)

    def earliest(self, now, tokens):
        costs = {"requests": 1, "tokens": tokens * self.charge}
        return now + max((b.wait(now, costs[n]) for n, b in self.buckets.items()), default=0.0)


def own_bound(server, sizes, latency):
    """Seconds that a FIFO client takes that knows when each call will pass."""
    now = 0.0
    for size in sizes:
        while (at := server.earliest(now, size)) > now + 1e-9:
            now = at
        wait, _ = server.ask(now, size)
        assert wait == 0
    return now + latency


@dataclass
class Result:
    seconds: float = 0.0
    answered: int = 0
    refused: int = 0
    calls: int = 0
    starts: list = field(default_factory=list)
    order: list = field(default_factory=list)

    @property
    def refusals(self):
        return self.refused / self.calls


class Gate:
    """runner.dispatch.gate, without asyncio. `escalate` makes a wait in vain longer though the server names one."""

    def __init__(self, rnd, *, escalate, remember):
        self.rnd, self.escalate, self.remember = rnd, escalate, remember
        self.open, self.until, self.probing, self.failed = True, 0.0, False, 0

    def hold(self, now, wait, prober):
        if prober:
            self.failed += 1
            self.probing = False
        own = (0.5 + 0.5 * self.rnd.random()) * min(60.0, 2.0**self.failed)
        if wait is None:
            if not (prober or self.open):
                return
            wait = own
        else:
            wait += self.rnd.random() * min(1.0, 0.1 * wait)
            if self.escalate and prober and self.failed > 1:
                wait = max(wait, own)
        self.open, self.until = False, max(self.until, now + wait)

    def release(self):
        self.open, self.probing, self.until = True, False, 0.0
        self.failed = self.failed // 2 if self.remember else 0


def run(
    server,
    sizes,
    *,
    latency=0.3,
    ceiling=1000,
    seed=1,
    requests=None,
    tokens=None,
    changes=(),
    mode="advice",
    escalate=True,
    remember=True,
    weather=None,
    names_wait=True,
    cpu=0.0003,
    refusal_latency=0.02,
    jitter=0.005,
):
    """Ask all, in virtual time: `mode` always: each refusal holds the gate; advice: where the limiter says so."""
    rnd, limiter, out = (
        random.Random(seed),
        Limiter(requests=requests, tokens=tokens, ceiling=ceiling),
        Result(),
    )
    gate, queue, events, flight, n = (
        Gate(rnd, escalate=escalate, remember=remember),
        list(range(len(sizes))),
        [],
        0,
        0,
    )
    heapq.heapify(queue)
    for at, rpm in changes:
        heapq.heappush(events, (at, n := n + 1, "change", rpm))
    now = free_at = 0.0
    while queue or flight:
        wake = math.inf
        if queue and flight < limiter.window and (gate.open or not gate.probing):
            wake = max(free_at, 0.0 if gate.open else gate.until)
            if wake <= now and (pause := limiter.wait(now, sizes[queue[0]])) > 0:
                wake = now + pause
            if wake <= now:
                row = heapq.heappop(queue)
                ticket = limiter.start(now, sizes[row])
                out.starts.append((now, sizes[row]))
                out.order.append(row)
                out.calls += 1
                flight += 1
                prober = not gate.open
                gate.probing |= prober
                heapq.heappush(
                    events, (now + rnd.uniform(0, jitter), n := n + 1, "arrive", (row, ticket, now, prober))
                )
                free_at = now + cpu
                continue
        if not events or events[0][0] > wake:
            now = wake
            continue
        now, _, kind, what = heapq.heappop(events)
        if kind == "change":
            server.change(what)
        elif kind == "arrive":
            wait, headers = (
                server.ask(now, sizes[what[0]]) if weather is None or not weather(now, rnd) else (1.0, {})
            )
            took = (refusal_latency if wait > 0 else latency) + rnd.uniform(0, 0.01)
            heapq.heappush(
                events, (now + took, n := n + 1, "end", (*what, wait if wait > 0 else None, headers))
            )
        else:
            row, ticket, started, prober, wait, headers = what
            flight -= 1
            if wait is None:
                limiter.answered(now, ticket, headers, now - started)
                out.seconds, out.answered = now, out.answered + 1
                if prober:
                    gate.release()
            else:
                out.refused += 1
                heapq.heappush(queue, row)
                asked = wait if names_wait else None
                advice = limiter.refused(now, ticket, headers, asked)
                if mode == "always" or advice or prober:
                    gate.hold(now, asked, prober)
    return out


FIGURES = "/v1/figures"
"""Where an `Enforced` server tells what it has seen so far, as JSON."""


class Enforced:
    """A fault server's script that enforces the limits of a `Server`; a request is charged its longest output.

    `changes` are pairs of seconds since the first call and a new limit of requests. A server that does not
    name the wait says nothing at all of limits in a refusal.
    """

    def __init__(self, server, *, changes=(), names_wait=True):
        self._server, self._changes, self._names_wait = server, list(changes), names_wait
        self._guard = threading.Lock()
        self._began = None
        self.passed, self.refused = [], []

    def __call__(self, arrival: Arrival) -> Behaviour:
        with self._guard:
            if arrival.path == FIGURES:
                return answer(200, body=orjson.dumps(self.figures()), executed=False)
            return self._admit(arrival) if arrival.paid else ok()

    def figures(self):
        """Arrivals that passed and that were refused, in seconds since the first."""
        began = self._began or 0.0
        return {"passed": [at - began for at in self.passed], "refused": [at - began for at in self.refused]}

    def _admit(self, arrival):
        now = arrival.time
        if self._began is None:
            self._began = now
        while self._changes and now - self._began >= self._changes[0][0]:
            self._server.change(self._changes.pop(0)[1])
        wait, limits = self._server.ask(now, (arrival.parsed or {}).get("max_completion_tokens", 0))
        if wait <= 0:
            self.passed.append(now)
            return ok().with_headers(*limits.items())
        self.refused.append(now)
        words, named = "Rate limit reached.", {}
        if self._names_wait:
            words += f" Please try again in {math.ceil(wait * 1000)}ms."
            named = {"retry-after": str(math.ceil(wait))}
        return error(429, "rate_limit_exceeded", words, headers=[*limits.items(), *named.items()])

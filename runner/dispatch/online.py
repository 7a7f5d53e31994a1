"""Calls go out side by side, as many as the window allows, through one gate, each exactly once.

A call is claimed in the store before its first byte leaves, and settled there before the next takes its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from runner.dispatch.feed import Feed, Nothing
from runner.dispatch.gate import Gate
from runner.limiter import Limiter
from runner.model import ABANDONED, MODEL_GONE, NOT_STARTED, Call, Reply, Signal

Send = Callable[[Call], Awaitable[Reply]]
ClaimCall = Callable[[Call], Awaitable[int]]
Settle = Callable[[Call, Reply], Awaitable[Signal]]


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the dispatch does its work by: claim in the store, send on the network, settle in the store."""

    claim: ClaimCall
    send: Send
    settle: Settle
    clock: Callable[[], float]


class Online:
    """Drives the ready tasks of one run until none is left, or until something stops it."""

    def __init__(
        self,
        feed: Feed,
        wiring: Wiring,
        *,
        gate: Gate,
        limiter: Limiter,
        reserve: Callable[[Call], bool],
        on_budget: Callable[[], Exception],
        on_exhausted: Callable[[float], Exception | None],
        told: Callable[[str, float], None],
    ) -> None:
        """`reserve` keeps a call's worst case aside from the budget, False if it does not fit; `on_budget`
        makes the error for when it never will; `on_exhausted` the one for a day's limit that is there again
        in so many seconds, None if that is waited for; `told` hears why the gate is held and for how long."""
        self._feed = feed
        self._wiring = wiring
        self._gate = gate
        self._limiter = limiter
        self._reserve = reserve
        self._on_budget = on_budget
        self._on_exhausted = on_exhausted
        self._told = told
        self._in_flight = 0
        self._progress = asyncio.Event()
        self._launching = anyio.CancelScope()
        self._stopping = False
        self._reason: Exception | None = None

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def stop(self, reason: Exception) -> None:
        """Start no more calls. Those in flight are waited for."""
        self._stopping = True
        self._reason = self._reason or reason
        self._launching.cancel()

    async def run(self, *, grace: float) -> None:
        """Ask all that is to be asked. Raises the reason if it was stopped, once what was in flight has
        ended or `grace` seconds are over; what is abandoned then is settled as ambiguous."""
        async with anyio.create_task_group() as group:
            with self._launching:
                await self._launch(group)
            with anyio.move_on_after(grace if self._stopping else None) as limit:
                while self._in_flight:
                    await self._wait(None)
            if limit.cancelled_caught:
                group.cancel_scope.cancel()
        if self._reason is not None:
            raise self._reason

    async def _launch(self, group: TaskGroup) -> None:
        while not self._stopping:
            if self._in_flight >= self._limiter.window:
                await self._wait(None)
                continue
            call = self._feed.next(to_probe=not self._gate.is_open)
            if isinstance(call, Nothing):
                if call.due_in is None and not self._in_flight:
                    return
                await self._wait(call.due_in)
                continue
            if not await self._has_budget(call):
                return
            prober, ticket = await self._may_start(call)
            self._in_flight += 1
            group.start_soon(self._make, call, prober, ticket)

    async def _has_budget(self, call: Call) -> bool:
        while not self._reserve(call):
            if not self._in_flight:
                self.stop(self._on_budget())
                return False
            await self._wait(None)
        return True

    async def _may_start(self, call: Call) -> tuple[bool, int]:
        """Wait for the limits and the gate; whether this call is the prober, and its ticket."""
        # What the API charges is the larger of the two, not their sum.
        tokens = max(call.demand.input_tokens, call.demand.max_output or 0)
        while True:
            now = self._wiring.clock()
            until = self._limiter.exhausted_until(now)
            if until is not None and (error := self._on_exhausted(until - now)) is not None:
                self.stop(error)
                await anyio.lowlevel.checkpoint()
            wait = self._limiter.wait(now, tokens)
            if wait <= 0:
                break
            await anyio.sleep(wait)
        prober = await self._gate.enter()
        return prober, self._limiter.start(self._wiring.clock(), tokens)

    async def _make(self, call: Call, prober: bool, ticket: int) -> None:
        try:
            with anyio.CancelScope(shield=True):
                call = replace(call, id=await self._wiring.claim(call))
            if self._stopping or not (prober or self._gate.is_open):
                reply = NOT_STARTED
            else:
                reply = await self._send(call)
            with anyio.CancelScope(shield=True):
                signal = await self._wiring.settle(call, reply)
            # What was never asked proves nothing about the server.
            asked = reply is not NOT_STARTED and reply is not MODEL_GONE
            if asked:
                self._obey(signal, reply, ticket, prober=prober)
            elif prober:
                self._gate.give_up_probe()
            if signal.refused_for_speed:
                self._feed.again(call)
            else:
                self._feed.settled(call.task_id)
        finally:
            self._in_flight -= 1
            self._touch()

    async def _send(self, call: Call) -> Reply:
        try:
            return await self._wiring.send(call)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._wiring.settle(call, ABANDONED)
            raise

    def _obey(self, signal: Signal, reply: Reply, ticket: int, *, prober: bool) -> None:
        if signal.stop is not None:
            self.stop(signal.stop)
        hold = signal.hold
        if signal.refused_for_speed:
            needs_prober = self._limiter.refused(
                self._wiring.clock(), ticket, reply.headers, signal.wait, slow_down=signal.slow_down
            )
            hold &= needs_prober or prober or not self._gate.is_open
        if signal.release:
            self._gate.release()
        elif hold:
            self._gate.hold(signal.wait, prober=prober)
            self._told(signal.reason, self._gate.seconds_left())
        elif signal.healthy:
            self._limiter.answered(self._wiring.clock(), ticket, reply.headers, reply.elapsed)
            if prober:
                self._gate.release()
        elif prober:
            self._gate.hold(None, prober=True)

    async def _wait(self, seconds: float | None) -> None:
        """Until a call ends, or the time is over."""
        progress = self._progress
        with anyio.move_on_after(seconds):
            await progress.wait()

    def _touch(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

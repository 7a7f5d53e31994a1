"""Calls go out side by side, as many as the window allows, through one gate, each exactly once.

    feed ──▶ gather ──▶ claim ──▶ send ──▶ settle ──▶ save
             a handful at a time            all that came meanwhile at a time

A call is claimed in the store before its first byte leaves. What became of it is handed to the store before the
claim of the call that takes its place: whatever is sent while it is not saved yet was claimed before it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import anyio.lowlevel

from runner.dispatch.feed import Feed, Nothing
from runner.dispatch.flight import HANDFUL, UNPROVEN, Flight, Pause
from runner.dispatch.gate import Gate
from runner.dispatch.landing import Landing
from runner.dispatch.wiring import Wiring
from runner.limiter import Limiter
from runner.model import ABANDONED, MODEL_GONE, NOT_STARTED, Call, Reply, Signal


class Online:
    """Drives the ready tasks of one run until none is left, or until something stops it."""

    def __init__(
        self,
        feed: Feed,
        wiring: Wiring,
        *,
        gate: Gate,
        limiter: Limiter,
        charge: Callable[[Call], float],
        reserve: Callable[[Call], bool],
        on_budget: Callable[[], Exception],
        on_exhausted: Callable[[float], Exception | None],
        told: Callable[[str, float], None],
    ) -> None:
        """`charge` is how many tokens of the limit a call takes; `reserve` keeps its worst case aside from the
        budget, False if it does not fit; `on_budget` makes the error for when it never will; `on_exhausted` the
        one for a day's limit that is there again in so many seconds, None if that is waited for; `told` hears
        why the gate is held and for how long."""
        self._feed = feed
        self._wiring = wiring
        self._gate = gate
        self._limiter = limiter
        self._charge = charge
        self._reserve = reserve
        self._on_budget = on_budget
        self._on_exhausted = on_exhausted
        self._told = told
        self._next: Call | None = None
        self._next_charge = 0.0
        self._is_reserved = False
        self.in_flight = 0
        self.unsaved = 0
        """How many tasks are in flight, or have come back and are not in the store yet."""
        self._claiming: set[asyncio.Future[Sequence[int]]] = set()
        self._away: set[Flight] = set()
        self._landing = Landing(wiring.hold)
        self._unsaved: set[asyncio.Future[object]] = set()
        self._progress = asyncio.Event()
        self._launching = anyio.CancelScope()
        self._stopping = self._is_proven = False
        self._reason: Exception | None = None
        self._grace: float | None = None
        self._broken: BaseException | None = None
        self._unclaimed: BaseException | None = None

    @property
    def _is_idle(self) -> bool:
        return not self.in_flight and not self._unsaved

    def stop(self, reason: Exception, *, grace: float | None = None) -> None:
        """Start no more calls. Those in flight are waited for, so many seconds where it says how many."""
        self._stopping = True
        self._grace = self._grace or grace
        self._reason = self._reason or reason
        self._launching.cancel()

    async def run(self, *, grace: float) -> None:
        """Ask all that is to be asked. Raises the reason if it was stopped, once what was in flight has ended or
        `grace` seconds are over; what is abandoned then is settled as ambiguous."""
        settling = asyncio.create_task(self._settle_arrivals())
        settling.add_done_callback(self._settling_ended)
        try:
            await self._drive(grace)
        finally:
            settling.cancel()
        error = self._broken or self._unclaimed or self._reason
        if error is not None:
            raise error

    async def _drive(self, grace: float) -> None:
        try:
            with self._launching:
                await self._launch()
            patience = grace if self._grace is None else self._grace
            with anyio.move_on_after(patience if self._stopping else None) as limit:
                while not self._is_idle and self._broken is self._unclaimed is None:
                    await self._wait(None)
            if limit.cancelled_caught or self._unclaimed is not None:
                await self._abandon()
        except BaseException:
            await self._abandon()
            raise

    async def _abandon(self) -> None:
        """End what is in flight now, and settle it."""
        self._stopping = True
        with anyio.CancelScope(shield=True):
            while not self._is_idle and self._broken is None:
                self._call_off()
                await self._wait(None)

    async def _launch(self) -> None:
        while not self._stopping:
            flights, pause = self._gather()
            if flights:
                self._claim(flights)
                await asyncio.sleep(0)
            elif pause.is_end:
                return
            elif pause.by_gate:
                if await self._gate.enter():
                    self._claim([self._take_off(self._wiring.clock(), prober=True)])
            elif pause.by_time:
                assert pause.seconds is not None
                await anyio.sleep(pause.seconds)
            else:
                await self._wait(pause.seconds)

    def _gather(self) -> tuple[list[Flight], Pause]:
        """The calls that may start now, a handful at most, and what keeps more from it."""
        flights: list[Flight] = []
        window = self._limiter.window if self._is_proven else min(self._limiter.window, UNPROVEN)
        room = min(HANDFUL, window - self.in_flight)
        while len(flights) < room and not self._stopping:
            pause = self._hindrance()
            if pause is not None:
                return flights, pause
            flights.append(self._take_off(self._wiring.clock(), prober=False))
        return flights, Pause()

    def _hindrance(self) -> Pause | None:
        """What keeps the next call from starting now, where there is room for it."""
        if self._next is None:
            found = self._feed.next(to_probe=not self._gate.is_open)
            if isinstance(found, Nothing):
                return Pause(found.due_in, is_end=found.due_in is None and self._is_idle)
            self._next, self._next_charge = found, self._charge(found)
        if not self._is_reserved and not self._reserve(self._next):
            if not self._is_idle:
                return Pause()
            if self._next.is_packed:
                # What is left may do for a part of it.
                self._feed.halve(self._next)
                self._next = None
                return self._hindrance()
            self.stop(self._on_budget())
            return Pause()
        self._is_reserved = True
        now = self._wiring.clock()
        until = self._limiter.exhausted_until(now)
        if until is not None and (error := self._on_exhausted(until - now)) is not None:
            self.stop(error)
            return Pause()
        wait = self._limiter.wait(now, self._next_charge)
        if wait > 0:
            return Pause(wait, by_time=True)
        return None if self._gate.is_open else Pause(by_gate=True)

    def _take_off(self, now: float, *, prober: bool) -> Flight:
        assert self._next is not None
        call, self._next, self._is_reserved = self._next, None, False
        self.in_flight += 1
        self.unsaved += len(call.asked)
        return Flight(call, self._limiter.start(now, self._next_charge), prober)

    def _claim(self, flights: list[Flight]) -> None:
        claiming = asyncio.ensure_future(self._wiring.claim([one.call for one in flights]))
        self._claiming.add(claiming)
        claiming.add_done_callback(partial(self._claimed, flights))

    def _claimed(self, flights: list[Flight], claiming: asyncio.Future[Sequence[int]]) -> None:
        self._claiming.discard(claiming)
        if (error := asyncio.CancelledError() if claiming.cancelled() else claiming.exception()) is not None:
            # None of them has left. Those that have are settled before this is raised.
            self._unclaimed = self._unclaimed or error
            self.in_flight -= len(flights)
            self._launching.cancel()
            self._touch()
            return
        for one, number in zip(flights, claiming.result(), strict=True):
            one.call.id = number
            if self._stopping or not (one.prober or self._gate.is_open):
                self._landing.add(one, NOT_STARTED)
                continue
            self._away.add(one)
            try:
                one.sent = self._wiring.start(one.call, partial(self._came, one))
            except BaseException as fault:  # noqa: BLE001 - the outermost frame of a callback
                self._came(one, fault)

    def _came(self, flight: Flight, outcome: Reply | BaseException) -> None:
        if flight not in self._away:
            return
        self._away.discard(flight)
        if isinstance(outcome, BaseException):
            self._break(outcome)
        else:
            self._landing.add(flight, outcome)

    def _call_off(self) -> None:
        """Wait no more for the calls that have left."""
        away, self._away = self._away, set()
        for flight in away:
            if flight.sent is not None:
                flight.sent.cancel()
            self._landing.add(flight, ABANDONED)

    async def _settle_arrivals(self) -> None:
        while True:
            self._settle_landed(await self._landing.some())

    def _settling_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _settle_landed(self, landed: Sequence[tuple[Flight, Reply]]) -> None:
        signals, saving = self._wiring.settle([(flight.call, reply) for flight, reply in landed])
        is_full = self._landing.is_full
        for (flight, reply), signal in zip(landed, signals, strict=True):
            self._is_proven |= reply.status == 200
            # What was never asked proves nothing about the server.
            if reply is not NOT_STARTED and reply is not MODEL_GONE:
                self._obey(signal, reply, flight, is_full)
            elif flight.prober:
                self._gate.give_up_probe()
        self.in_flight -= len(landed)
        saved = asyncio.ensure_future(saving)
        self._unsaved.add(saved)
        # The calls alone: a packed answer that waits to be saved is kept in its own form, and need not lie here too.
        ended = [
            (flight.call, signal, reply.status == 200)
            for (flight, reply), signal in zip(landed, signals, strict=True)
        ]
        saved.add_done_callback(partial(self._saved, ended, sum(len(reply.body) for _, reply in landed)))
        self._touch()

    def _saved(
        self, ended: Sequence[tuple[Call, Signal, bool]], size: int, saved: asyncio.Future[object]
    ) -> None:
        self._unsaved.discard(saved)
        self._landing.stored(size)
        self.unsaved -= sum(len(call.asked) for call, _, _ in ended)
        if not saved.cancelled() and (error := saved.exception()) is not None:
            self._break(error)
            return
        try:
            for call, signal, is_whole in ended:
                self._feed.settled(call, signal)
                if is_whole and signal.healthy and not signal.split:
                    self._feed.answered(call)
        except BaseException as error:  # noqa: BLE001 - the outermost frame of a callback
            # Its error would be told to nobody, and what it left out be waited for without end.
            self._break(error)
        self._touch()

    def _break(self, error: BaseException) -> None:
        """Nothing can be kept any more: whoever waits for what is in flight waits in vain."""
        self._broken = self._broken or error
        self._launching.cancel()
        self._call_off()
        self._touch()

    def _obey(self, signal: Signal, reply: Reply, flight: Flight, is_full: bool) -> None:
        if signal.stop is not None:
            self.stop(signal.stop)
        hold, prober = signal.hold, flight.prober
        if signal.refused_for_speed:
            needs_prober = self._limiter.refused(
                self._wiring.clock(),
                flight.ticket,
                reply.headers,
                signal.wait,
                slow_down=signal.slow_down,
                divisible=flight.call.is_packed,
            )
            hold &= needs_prober or prober or not self._gate.is_open
        if signal.release:
            self._gate.release()
        elif hold:
            self._gate.hold(signal.wait, prober=prober)
            self._told(signal.reason, self._gate.seconds_left())
        elif signal.healthy:
            # A pack that is to be halved says nothing yet of whether this server answers at all.
            if not signal.split:
                self._note_answer(flight, reply, is_full)
            if prober:
                self._gate.release()
        elif prober:
            self._gate.hold(None, prober=True)

    def _note_answer(self, flight: Flight, reply: Reply, is_full: bool) -> None:
        self._limiter.answered(
            self._wiring.clock(),
            flight.ticket,
            reply.headers,
            reply.elapsed,
            sizes=(len(flight.call.body), len(reply.body)),
            is_full=is_full,
            tokens=self._charge(flight.call) if flight.ticket == 1 else None,
        )

    async def _wait(self, seconds: float | None) -> None:
        """Until a call ends, or the time is over."""
        if seconds is None:
            await self._progress.wait()
            return
        with anyio.move_on_after(seconds):
            await self._progress.wait()

    def _touch(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()

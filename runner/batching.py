"""The parts of a dispatch by the Batch API, put together for one run: packing, submission, looks, collecting.

shard ──▶ store ──▶ upload and create ──▶ look ──▶ download ──▶ settle in the store ──▶ what is left: shard
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from runner import bulletin, loop
from runner.amnesia import refuse_what_was_forgotten
from runner.asking import BEAT_SECONDS, Asking, policy_of
from runner.budget import Budget
from runner.dispatch.batch_life import Life
from runner.dispatch.batch_wiring import Wiring
from runner.dispatch.batches import Batches
from runner.dispatch.patience import Patience
from runner.dispatch.spool import spool_of
from runner.dispatch.submitting import Submitting
from runner.errors import Interrupted, NotFinished, RunnerError
from runner.intake import Intake
from runner.model import Signal
from runner.polling import pause_in_trouble
from runner.provider import provider_of
from runner.remote import RemoteBatch
from runner.settle import Settler
from runner.stop import Stop
from runner.store import batches, runs, totals, webhooks
from runner.store.batches import Kept
from runner.store.faults import DiskFull
from runner.store.locks import lock_folder
from runner.store.runs import Beat
from runner.store.writer import GroupWriter
from runner.stowage import Stowage
from runner.submission import UNSENT, Protocol, Stage, Submission
from runner.tokens import Estimates
from runner.twins import call_off, call_off_twins


@dataclass(frozen=True, slots=True)
class Batching:
    """What a dispatch by the Batch API needs to know beside what an online one does.

    `quarantine` is in seconds; `waits` is False where it is to end when nothing can be done now. It plans nothing
    where `plans` is False; it cancels what is out at the time `until` (seconds since 1970), or at once where
    `calls_off` says so.
    """

    asking: Asking
    quarantine: float
    waits: bool = True
    plans: bool = True
    calls_off: bool = False
    until: float | None = None


def batch(batching: Batching, *, stop: Stop, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Have the run's rows answered by batches; what this start did. Raises the RunnerError that ended it early:
    NotFinished where something is out and it was not to wait."""
    return loop.run(_Dispatch(batching, stop, emit).run)


class _Dispatch:
    def __init__(self, batching: Batching, stop: Stop, emit: Callable[[dict[str, Any]], None]) -> None:
        self._batching = batching
        self._asking = asking = batching.asking
        self._stop = stop
        self._emit = emit
        account = asking.account
        dated, inside = account.api_version is not None, account.is_inside
        self._provider = provider_of(account.provider, account.address.is_azure, dated, is_inside=inside)
        # What ends with this start, nobody can take in later.
        self._waits = batching.waits or not self._provider.keeps_batches
        self._folder = spool_of(asking.store.path, asking.tenure.series_id)
        with asking.store.read() as connection:
            self._left = totals.unfinished(connection, asking.run.id)
            self._out = batches.out(connection, asking.tenure.series_id)
            if batching.calls_off:
                self._out = batches.waited_for(connection, asking.run.id, asking.tenure.series_id)
            self._hinted_to, _ = webhooks.hints(connection, 0)
            spent = totals.spent(connection, asking.run.id) if asking.budget is not None else 0
            worst = [(one, batches.worst_case(connection, one.id)) for one in self._out]
        self._budget = Budget(asking.budget, spent, sum(cost for one, cost in worst if self._is_own(one)))
        self._protocol = Protocol(batching.quarantine)
        self._settler = self._make_settler(self._budget)
        # What an earlier run of the series has paid for is not this one's spending, nor its progress.
        others = sum(cost for one, cost in worst if not self._is_own(one))
        self._others_settler = self._make_settler(Budget(None, reserved=others))
        self._stopped_by: RunnerError | None = None
        self._ended = self._done = self._in_vain = 0
        self._refused_by: RunnerError | None = None

    async def run(self) -> dict[str, Any]:
        from runner.api.batches import BatchApi

        asking = self._asking
        shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = GroupWriter(asking.store, asking.tenure, self._on_disk_full)
        self._patience = Patience(clock=time.time, waits=self._waits)
        self._stowage = Stowage(
            asking,
            self._provider,
            self._budget,
            self._settler.tally,
            writer=self._writer,
            folder=self._folder,
            lives=lambda: self._batches.lives,
            # Before a deadline there is another way for what no batch takes.
            leaves=self._batching.until is not None,
        )
        self._batches = Batches(
            plan=self._stowage.plan,
            live=self._live,
            patience=self._patience,
            clock=time.time,
            plans=self._batching.plans and not self._batching.calls_off,
            calls_off=self._batching.calls_off or self._is_late(),
        )
        try:
            async with BatchApi(asking.account, self._provider) as self._api:
                self._submitting = Submitting(
                    self._protocol, self._api, self._keep, bytes_of=self._file_of, clock=time.time
                )
                self._intake = self._make_intake()
                await self._give_up()
                if self._provider.keeps_batches and self._batching.plans and not self._batching.calls_off:
                    await refuse_what_was_forgotten(
                        asking, self._api, lambda words: self._emit({"event": "warning", "message": words})
                    )
                await self._drive()
                if self._ended:
                    await call_off_twins(self._api, asking.store, asking.run.id, self._tell)
            return self._progress()
        finally:
            with anyio.CancelScope(shield=True):
                await self._writer.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _give_up(self) -> None:
        """The batches of a server that has ended, and those of another run, or of another mode, that were never sent:
        their rows are ready again."""
        keeps = self._provider.keeps_batches
        for kept in self._out.copy():
            goes_on = kept.submission.stage not in UNSENT or (self._batching.plans and self._is_own(kept))
            if keeps and goes_on:
                continue
            if not keeps:
                self._tell(kept, "gone", "the simulator that had it has ended; its rows are asked again")
            await self._stowage.dissolve(kept)
            self._out.remove(kept)

    async def _drive(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._beat)
            try:

                def on_stop(reason: str) -> None:
                    group.start_soon(self._on_stop, reason, group)

                with self._stop.listening(on_stop):
                    await self._batches.run(self._out)
            finally:
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._sign_of_life()
        if self._stopped_by is not None:
            raise self._stopped_by
        with self._asking.store.read() as connection:
            left = totals.unfinished(connection, self._asking.run.id)
        # Whoever plans nothing here, or no more, has another way for what is left.
        goes_on = self._waits or self._stowage.left_some or not self._batching.plans or self._is_late()
        if left and (self._batches.still_out or not goes_on):
            raise NotFinished(bulletin.what_is_out(self._batches.lives, left))

    def _live(self, kept: Kept) -> Life:
        return Life(
            kept,
            Wiring(
                step=self._submitting.step,
                look=self._api.retrieve,
                cancel=self._api.cancel,
                keep=self._keep,
                see=self._see,
                take_in=self._intake.take_in,
                settle_left=self._intake.settle_left,
                fail_lines=self._intake.fail_lines,
                dissolve=self._stowage.dissolve,
                end=self._end,
                beside=self._stowage.beside,
                learn=self._stowage.learn,
                tell=self._tell,
            ),
            self._patience,
            self._stowage.queue(kept.model),
            provider=self._provider,
            protocol=self._protocol,
            first_pause=self._asking.job.batch.poll,
            clock=time.time,
        )

    def _make_settler(self, budget: Budget) -> Settler:
        return Settler(
            policy_of(self._asking),
            self._asking.prices,
            budget,
            random=random.random,
            remaining=lambda: max(1, self._left),
            estimates=Estimates(),
        )

    def _make_intake(self) -> Intake:
        return Intake(
            self._asking.store,
            self._writer,
            self._api,
            self._asking.job,
            fetched=self._folder,
            unmatched=lock_folder(self._asking.store.path) / "unmatched",
            settler_of=lambda kept: self._settler if self._is_own(kept) else self._others_settler,
            told=self._on_signal,
            tell=self._tell,
        )

    def _is_own(self, kept: Kept) -> bool:
        return kept.run_id == self._asking.run.id

    async def _keep(self, number: int, submission: Submission) -> None:
        await self._writer.submit(batches.keep, [(number, submission)])
        if submission.stage is Stage.SUBMITTED:
            self._stowage.drop_file(number)
            for twin in submission.extras:
                [of] = [life.kept for life in self._batches.lives if life.kept.id == number]
                await call_off(self._api, twin, of, self._tell)

    async def _see(self, number: int, remote: RemoteBatch) -> None:
        await self._writer.submit(batches.see, [(number, remote)])

    async def _file_of(self, submission: Submission) -> Path | None:
        kept = next(one.kept for one in self._batches.lives if one.submission.shard == submission.shard)
        return await self._stowage.file_of(kept)

    async def _end(self, kept: Kept, result: str) -> None:
        await self._writer.submit(batches.end, [(kept.id, result)])
        self._ended += 1
        self._rest_if_in_vain()
        if self._refused_by is not None:
            self._batches.stop(self._refused_by)
        if not self._is_own(kept):
            self._stowage.look_again()

    async def _beat(self) -> None:
        while True:
            await anyio.sleep(BEAT_SECONDS)
            if await self._sign_of_life() and not self._batching.calls_off:
                self._stopped_by = self._stopped_by or Interrupted(
                    "Stopped by `runner cancel`. What the batches did is kept; the same command goes on."
                )
                self._batches.call_off()
            if self._is_late():
                self._batches.call_off()
            with self._asking.store.read() as connection:
                self._hinted_to, hinted = webhooks.hints(connection, self._hinted_to)
            if hinted:
                self._batches.hint(hinted)

    def _rest_if_in_vain(self) -> None:
        """Lines that are put back cost no attempt: a server that does nothing else is not given batch after batch."""
        tallies = (self._settler.tally, self._others_settler.tally)
        done = sum(one.answered + one.failed + one.held for one in tallies)
        self._in_vain = 0 if done > self._done else self._in_vain + 1
        self._done = done
        if self._in_vain:
            self._batches.rest(pause_in_trouble(self._in_vain - 1, self._asking.job.batch.poll))

    def _is_late(self) -> bool:
        return self._batching.until is not None and time.time() >= self._batching.until

    async def _sign_of_life(self) -> bool:
        progress = self._progress()
        self._emit(progress)
        [stop_asked] = await self._writer.submit(runs.beat, [Beat(self._asking.run.id, progress)])
        return stop_asked

    def _progress(self) -> dict[str, Any]:
        return bulletin.progress(
            self._asking.run,
            self._settler.tally,
            self._batches.lives,
            left=self._left,
            waits_for_room=self._batches.waits_for_room,
        )

    def _tell(self, kept: Kept, state: str, message: str) -> None:
        self._emit(
            {
                "event": "batch",
                "run": kept.run_name,
                "batch": kept.submission.batch_id or kept.submission.shard,
                "state": state,
                "lines": kept.lines,
                "message": message,
            }
        )
        self._batches.look_again()

    def _on_signal(self, signal: Signal) -> None:
        # What ends the run ends it once the batch is taken in.
        if isinstance(signal.stop, RunnerError):
            self._refused_by = self._refused_by or signal.stop
        self._stowage.base64 &= not signal.refuses_base64

    async def _on_stop(self, reason: str, group: TaskGroup) -> None:
        words = bulletin.how_it_goes_on(
            self._batches.lives, self._asking.run.name, keeps_batches=self._provider.keeps_batches
        )
        self._emit(
            {
                "event": "stopping",
                "run": self._asking.run.name,
                "reason": reason,
                "in_flight": 0,
                "grace": self._asking.grace,
            }
        )
        # What does not end within its grace is cut off, and so is what would have raised this.
        self._stopped_by = self._stopped_by or Interrupted(f"Stopped ({reason}). {words}")
        self._batches.stop(self._stopped_by)
        await anyio.sleep(self._asking.grace)
        group.cancel_scope.cancel()

    def _on_disk_full(self) -> None:
        self._batches.stop(
            DiskFull(
                f"The disk of the store {self._asking.store.path} is full. What was answered is kept. Free some "
                "space and run the same command again."
            )
        )

"""The life of one batch: submitted, looked at until it has ended, taken in; and what is left then.

    plan ──▶ submit ──▶ follow ──▶ take in ──▶ settle what is left ──▶ end
               ▲                                    │
               └────── again, with the same bytes ──┘   it failed without executing anything

Whatever happens, the store knows how far it is: a life that is cut off is taken up at the same place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runner.admission import QUEUE_FULL, Queue, too_large
from runner.dispatch.batch_wiring import TakenIn, Wiring
from runner.dispatch.patience import Patience, Stopped
from runner.dispatch.submitting import BytesGone
from runner.errors import AccessRefused, BatchRefused
from runner.polling import (
    MISSING,
    Look,
    hours,
    is_believed,
    pause,
    pause_in_trouble,
    stands_still,
    unheard_of,
)
from runner.provider import Provider, account_fault, failure_kind, why_failed
from runner.remote import Failure, Refused, RemoteBatch, Unclear, Why
from runner.store.batches import Kept
from runner.submission import NOT_NOW, Protocol, Stage, Submission

MOST_FAILURES = 3
"""How often a shard is submitted whose batch fails as a whole, for a reason that may pass."""

MOST_DENIALS = 3
WORTH_A_WORD = 3
"""How often something must have failed in a row before the user is told."""

CONFIRM = 1.0
"""Seconds until the second look at a batch that says that it has ended, and names no file."""


class Life:
    """One batch. `first_pause` and `quarantine` are in seconds, `clock` tells those since 1970."""

    def __init__(
        self,
        kept: Kept,
        wiring: Wiring,
        patience: Patience,
        queue: Queue,
        *,
        provider: Provider,
        protocol: Protocol,
        first_pause: float,
        clock: Callable[[], float],
    ) -> None:
        self.kept = kept
        self.poke = asyncio.Event()
        self.sleeps = False
        self.waits_for_room = False
        self.takes_in = False
        self.status = kept.seen.status if kept.seen is not None else kept.submission.stage.value
        self._wiring = wiring
        self._patience = patience
        self._queue = queue
        self._provider = provider
        self._protocol = protocol
        # Who asks for shorter pauses than the usual has a reason.
        self._first = max(first_pause, provider.shortest_poll) if first_pause >= 30.0 else first_pause
        self._clock = clock
        self._since = clock()
        self._named_at = clock()
        self._calling_off = False
        self._looked_again = False
        self._is_new = False

    @property
    def submission(self) -> Submission:
        return self.kept.submission

    @property
    def is_sent(self) -> bool:
        """Whether it is at the server, or may be."""
        return self.submission.stage not in (Stage.PLANNED, Stage.UPLOADING, Stage.SEEKING, Stage.UPLOADED)

    def call_off(self) -> None:
        """Let it end as soon as it can: what was not sent is not sent, what was is cancelled."""
        self._calling_off = True
        self.poke.set()

    async def run(self) -> None:
        """Live, until the store knows that the batch has ended."""
        while await self._submit():
            remote = await self._follow()
            if await self._take_in(remote):
                return

    async def _submit(self) -> bool:
        """Bring it to the server; False where it came to nothing, and has ended."""
        # What an earlier start has submitted is looked at at once: this one may not wait at all.
        self._is_new = self.submission.stage is not Stage.SUBMITTED
        while self.submission.stage is not Stage.SUBMITTED:
            if self._patience.is_stopping and not self.is_sent:
                raise Stopped
            if self._calling_off and not self.is_sent:
                await self._wiring.dissolve(self.kept)
                return False
            if self.submission.stage is Stage.HELD:
                await self._hold(self.submission.words)
                return False
            if self.submission.stage is Stage.REFUSED:
                words = self.submission.words
                await self._wiring.dissolve(self.kept)
                raise BatchRefused(
                    f"A batch of {self.kept.lines:,} requests for {self.kept.model} was refused: {words}. Nothing of it "
                    "was executed, and its rows wait. Ask them with --mode online, or correct the job or the base URL; "
                    "then run the same command again."
                )
            try:
                url = self._provider.endpoints[self.kept.endpoint]
                stepped = await self._wiring.step(self.kept.id, self.submission, url)
            except BytesGone:
                await self._wiring.dissolve(self.kept)
                return False
            self._hold_on_to(stepped.submission)
            refused = stepped.refused
            if refused is not None and refused.why is Why.QUEUE_FULL:
                if not await self._wait_for_room(refused.message, refused.wait):
                    await self._wiring.dissolve(self.kept)
                    return False
            elif stepped.until is not None:
                if stepped.trouble and self.submission.tries >= WORTH_A_WORD:
                    in_ = hours(stepped.until - self._clock())
                    self._wiring.tell(self.kept, "unsent", f"{stepped.trouble}; again in {in_}")
                await self._wait_until(stepped.until)
        return True

    async def _wait_until(self, when: float) -> None:
        """Wait with the submission until then, or, where it waits for room, until there may be some."""
        self.waits_for_room = not self.is_sent and self.submission.words == QUEUE_FULL
        await self._patience.until(when, self.poke)
        if self.waits_for_room:
            self.waits_for_room = False
            self._hold_on_to(self.submission._replace(due=self._clock(), words=""))

    def _hold_on_to(self, submission: Submission) -> None:
        before, self.kept = self.submission, self.kept._replace(submission=submission)
        if submission.stage is not before.stage:
            self._say(submission.stage.value)

    async def _wait_for_room(self, message: str, named: float) -> bool:
        """Wait for room in the account's queue; False where the shard may never fit."""
        beside, kept, sub = self._wiring.beside(self.kept), self.kept, self.submission
        before = (sub.attempt if sub.stage is Stage.PLANNED else sub.tries) - 1
        full = self._queue.refused(
            message, tokens=kept.tokens, beside=beside, named_wait=named, before=max(0, before)
        )
        await self._wiring.learn(kept, full)
        if kept.lines == 1 and full.never_fits and full.refusals >= MOST_FAILURES and not beside:
            await self._wiring.fail_lines(kept, (too_large(full),))
            return False
        if full.never_fits and kept.lines > 1:
            words = f"the account's queue takes {full.cut:,} tokens of {kept.model} at a time: smaller batches follow"
            self._wiring.tell(kept, "queue_full", words)
            return False
        until = self._clock() + full.wait
        self._wiring.tell(self.kept, "queue_full", f"{QUEUE_FULL}: again in {hours(full.wait)}")
        waiting = self.submission._replace(due=until, words=QUEUE_FULL)
        await self._wiring.keep(self.kept.id, waiting)
        self._hold_on_to(waiting)
        await self._wait_until(until)
        # Without a limit that is named, a smaller one is tried, but no sooner than the same again would be.
        return full.cut is None or kept.lines == 1

    async def _hold(self, words: str) -> None:
        self._wiring.tell(self.kept, "held", f"{words}: its rows are held")
        await self._wiring.settle_left(self.kept, "batch_unknown")
        await self._wiring.end(self.kept, "held")

    async def _follow(self) -> RemoteBatch | None:
        """Look at the batch until it has ended; None where its server does not know it any more."""
        batch_id = self.submission.batch_id
        assert batch_id is not None
        before: Look | None = None
        trouble = denied = 0
        asked_to_end = False
        if self._is_new and not self._calling_off:
            await self._wait(self._first)
        while True:
            if self._calling_off and not asked_to_end:
                asked_to_end = await self._cancel(batch_id)
            found = await self._wiring.look(batch_id)
            if isinstance(found, RemoteBatch):
                if found.status in ("in_progress", "finalizing", "completed"):
                    self._queue.admitted(self.kept.tokens)
                trouble = denied = 0
                await self._note(found)
                if is_believed(found, before):
                    return found
                before = Look.of(found)
                wait = min(self._first, CONFIRM) if found.has_ended else pause(self.age(), self._first)
                if self._calling_off:
                    wait = min(wait, max(self._first, 15.0))
            else:
                trouble += 1
                denied = denied + 1 if _is(found, Why.NO_ACCESS) else 0
                if denied >= MOST_DENIALS:
                    raise AccessRefused(
                        f"The key may not look at batch {batch_id} any more: {found.message}. What is answered is "
                        "kept, and the batch goes on. Put the key right, then run the same command again."
                    )
                if _is(found, Why.FILE_GONE) and await self._is_missing_for_good(batch_id):
                    return None
                wait = pause_in_trouble(trouble - 1, min(self._first, 30.0))
                if isinstance(found, Refused):
                    wait = max(wait, found.wait)
                if trouble >= WORTH_A_WORD:
                    self._wiring.tell(
                        self.kept, "unseen", f"looking at it has failed {trouble} times: {found.message}"
                    )
            await self._wait(wait, soon=not isinstance(found, RemoteBatch) or found.has_ended)

    async def _cancel(self, batch_id: str) -> bool:
        """Ask the batch to end; whether that was heard, or never will be."""
        answer = await self._wiring.cancel(batch_id)
        if isinstance(answer, RemoteBatch):
            return True
        self._wiring.tell(self.kept, "uncancelled", f"it could not be cancelled: {answer.message}")
        return isinstance(answer, Refused) and answer.why not in NOT_NOW

    async def _note(self, remote: RemoteBatch) -> None:
        now = self._clock()
        if remote.status != self.status:
            self._since = self._named_at = now
            self._say(remote.status, unheard_of(remote.status) or why_failed(remote))
        self.kept = self.kept._replace(seen=remote)
        await self._wiring.see(self.kept.id, remote)
        expires_in = None if remote.expires_at is None else remote.expires_at - now
        odd = stands_still(
            remote.status,
            for_seconds=now - self._since if remote.status in ("finalizing", "cancelling") else self.age(),
            expires_in=expires_in,
            expires=self._provider.expires,
        )
        if odd is not None and not remote.has_ended and now - self._named_at >= 3600.0:
            self._named_at = now
            self._wiring.tell(self.kept, "stuck", f"{odd}; it is waited for, and not submitted again")

    async def _is_missing_for_good(self, batch_id: str) -> bool:
        """Whether its server has not known the batch for as long as a list may lag."""
        now, seen = self._clock(), self.kept.seen
        if seen is None or seen.status != MISSING or (seen.created_at or now) > now:
            seen = RemoteBatch(batch_id, MISSING, created_at=now)
            self.kept = self.kept._replace(seen=seen)
            await self._wiring.see(self.kept.id, seen)
        return now - (seen.created_at or now) >= self._protocol.quarantine

    def age(self) -> float:
        since = self.kept.submitted_at or self.kept.created_at
        return max(0.0, self._clock() - since / 1_000_000)

    async def _take_in(self, remote: RemoteBatch | None) -> bool:
        """Settle what the batch did; False where it is to be submitted again, or looked at once more."""
        if remote is None:
            self._wiring.tell(self.kept, "missing", "its server does not know it any more: its rows are held")
            await self._wiring.settle_left(self.kept, "results_gone")
            await self._wiring.end(self.kept, "held")
            return True
        trouble = 0
        while True:
            # Until it is known what the batch leaves, no shard is planned: the rest goes into one.
            self.takes_in = True
            taken = await self._wiring.take_in(self.kept, remote)
            if not taken.waits:
                break
            self.takes_in = False
            trouble += 1
            await self._wait(pause_in_trouble(trouble, min(self._first, 30.0)))
        if taken.left and not self._looked_again and remote.status == "completed" and not taken.output_gone:
            # What is missing may have been on its way still.
            self._looked_again = True
            self.takes_in = False
            await self._wait(min(self._first, CONFIRM))
            return False
        if remote.status == "failed" and not taken.settled and not taken.output_gone:
            self.takes_in = False
            if await self._goes_again(remote.failures):
                return False
            self.takes_in = True
        if taken.left:
            await self._settle_left(remote, taken)
        await self._wiring.end(self.kept, "failed" if remote.status == "failed" else "collected")
        if (error := account_fault(remote)) is not None:
            raise error
        return True

    async def _settle_left(self, remote: RemoteBatch, taken: TakenIn) -> None:
        kept = self.kept
        claims_work = remote.output_file_id is None and (remote.completed or 0) > 0
        if taken.output_gone or claims_work:
            self._wiring.tell(kept, "results_gone", "it did work, and its results are gone: held")
            await self._wiring.settle_left(kept, "results_gone")
        elif remote.status == "failed":
            # What others of its lines were spared is no fault of these: only what names a line fails that line.
            # Of a batch that was taken over, only some lines may be ours: they are not counted as in its file.
            ours = self.submission.t_send > 0
            told = {False: ours, True: not taken.settled}
            faults = tuple(one for one in remote.failures if told[one.line is None])
            await self._wiring.fail_lines(kept, faults)
            await self._wiring.settle_left(kept, "batch_failed")
        elif remote.status in ("expired", "cancelled"):
            await self._wiring.settle_left(kept, f"batch_{remote.status}")
        else:
            await self._wiring.settle_left(kept, "unreported")

    async def _goes_again(self, failures: tuple[Failure, ...]) -> bool:
        """Whether a batch that failed as a whole is submitted again, with the same bytes, when its time has come."""
        if self._calling_off:
            return False
        kinds = {failure_kind(one.code, one.message) for one in failures}
        first = failures[0] if failures else Failure("unknown", "the server gives no reason")
        submission = self._protocol.again(self.submission)
        if "queue_full" in kinds:
            await self._wiring.keep(self.kept.id, submission)
            self.kept = self.kept._replace(submission=submission, seen=None)
            return await self._wait_for_room(first.message, 0.0)
        given_up = submission.attempt >= MOST_FAILURES and kinds != {"moment"}
        if given_up or kinds & {"money", "no_access", "line", "model"}:
            return False
        until = self._clock() + pause_in_trouble(submission.attempt, self._first)
        submission = submission._replace(due=until)
        self._wiring.tell(self.kept, "again", f"it goes again in {hours(until - self._clock())}, as it is")
        await self._wiring.keep(self.kept.id, submission)
        self.kept = self.kept._replace(submission=submission, seen=None)
        return True

    async def _wait(self, seconds: float, *, soon: bool = True) -> None:
        await self._patience.until(self._clock() + seconds, self.poke, soon=soon)

    def _say(self, status: str, words: str = "") -> None:
        self.status = status
        self._wiring.tell(self.kept, status, words)


def _is(found: Refused | Unclear, why: Why) -> bool:
    return isinstance(found, Refused) and found.why is why

"""How a batch lives: it goes through its states by itself, in the time that the settings name.

validating ──▶ in_progress ──▶ finalizing ──▶ completed
    │  │            │  │            │
    │  │            │  └──▶ expired │
    │  └────────────┴───────────────┴──cancel──▶ cancelling ──▶ cancelled
    └──▶ failed
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable

import orjson

from runner.simulator.admission import Queue
from runner.simulator.batch import ENDED, ENDPOINTS, Batch
from runner.simulator.batch_lines import Lines, error
from runner.simulator.batch_results import Results
from runner.simulator.calls import Calls
from runner.simulator.faults import ERRORS, FATE, OUTPUT, RESULT, Fault
from runner.simulator.files import Files
from runner.simulator.profiles import Profile
from runner.simulator.webhooks import Webhooks

_AT_ONCE = 50
_READ_AT_ONCE = 500


class Life:
    """Takes batches through their states. Waits on the running loop's time; `wall` is the time of day."""

    def __init__(
        self,
        calls: Calls,
        files: Files,
        queue: Queue,
        webhooks: Webhooks,
        *,
        profile: Profile,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._calls = calls
        self._files = files
        self._queue = queue
        self._webhooks = webhooks
        self._profile = profile
        self._clock = clock
        self._wall = wall
        self._span = max(0.0, calls.settings.batch_time)
        self._seen: Counter[bytes] = Counter()

    def clear(self) -> None:
        """Forgets what batches held."""
        self._seen.clear()

    async def live(self, batch: Batch) -> None:
        """The life of a batch: a tenth of its time in validation, a tenth in the end, the rest in between."""
        try:
            await self._live(batch)
        finally:
            self._queue.release(batch.id)
        if batch.status in ENDED:
            self._webhooks.tell(batch.id, batch.status)

    async def read(self, file_id: str, endpoint: str) -> Lines:
        """Reads and checks all lines of an input file."""
        script, calls = self._calls.script, self._calls
        judged = any(script.has(kind) for kind in (FATE, RESULT, OUTPUT, ERRORS))
        lines = Lines(endpoint, calls.catalogue, self._profile, digests=set() if judged else None)
        if self._queue.limit is not None:
            lines.count_tokens = lambda body: calls.count_input(ENDPOINTS[endpoint], body)
        stored = self._files.find(file_id)
        if stored is None or stored.purpose != "batch":
            lines.errors.append(_unseen(file_id))
            return lines
        with stored.path.open("rb") as stream:
            offset = 0
            for number, line in enumerate(stream):
                lines.check(line, offset)
                offset += len(line)
                if number % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                    await asyncio.sleep(0)
        lines.finish()
        return lines

    async def _live(self, batch: Batch) -> None:
        await self._pause(batch, self._span * 0.1)
        stored = self._files.find(batch.shown["input_file_id"])
        if stored is not None:
            await self._pause(batch, max(0.0, stored.processed_at - self._clock()))
        lines = await self.read(batch.shown["input_file_id"], batch.shown["endpoint"])
        fate = self._fate(batch, lines)
        await self._dwell(batch, fate)
        if not batch.cancelled.is_set() and self._failed(batch, lines, fate):
            batch.enter("failed", self._wall())
            return
        results: Results | None = None
        if not batch.cancelled.is_set():
            batch.enter("in_progress", self._wall())
            batch.counts.update(total=len(lines.offsets), completed=0, failed=0)
            results = await self._work(batch, lines, fate)
            await self._dwell(batch, fate)
        if not batch.cancelled.is_set() and not batch.expired:
            batch.enter("finalizing", self._wall())
            await self._pause(batch, self._span * 0.1)
            await self._dwell(batch, fate)
        if batch.cancelled.is_set():
            await asyncio.sleep(self._span * 0.1)
            if _is_slow(fate, "cancelling"):
                await asyncio.sleep(fate.figure if fate is not None else 0)
        if results is not None:
            results.keep()
        end = "cancelled" if batch.cancelled.is_set() else "expired" if batch.expired else "completed"
        batch.enter(end, self._wall())

    async def _pause(self, batch: Batch, seconds: float) -> None:
        """Lets time pass, or less if the batch is cancelled meanwhile."""
        try:
            await asyncio.wait_for(batch.cancelled.wait(), seconds)
        except TimeoutError:
            return

    async def _dwell(self, batch: Batch, fate: Fault | None) -> None:
        """Stays longer in the present state, if that is its fate."""
        if fate is not None and _is_slow(fate, batch.status):
            await self._pause(batch, fate.figure)

    def _fate(self, batch: Batch, lines: Lines) -> Fault | None:
        """What becomes of the batch by the script. It comes first while one of its requests does."""
        batch.shown["model"] = lines.model
        if self._profile.counts_early:
            batch.counts["total"] = len(lines.offsets)
        if not lines.digests:
            return None
        batch.coming = 1 + min(self._seen[digest] for digest in lines.digests)
        self._seen.update(lines.digests)
        fate = self._calls.script.choose(batch.digest, batch.coming, FATE)
        if fate is None or (fate.name == "batch-expired" and not self._profile.expires):
            return None
        self._calls.ledger.fault(fate.name)
        return fate

    def _failed(self, batch: Batch, lines: Lines, fate: Fault | None) -> bool:
        """Whether validation fails; if so, the batch says why."""
        errors = lines.errors or self._fated_errors(batch, lines, fate)
        if not errors and self._files.find(batch.shown["input_file_id"]) is None:
            errors = [_unseen(batch.shown["input_file_id"])]
        if not errors and not self._queue.admit(batch.id, str(lines.model), lines.tokens):
            errors = [error("token_limit_exceeded", self._queue.message(lines.model))]
        if not errors:
            return False
        batch.shown["errors"] = {"object": "list", "data": errors}
        batch.counts.update(total=0, completed=0, failed=0)
        return True

    def _fated_errors(
        self, batch: Batch, lines: Lines, fate: Fault | None
    ) -> list[dict[str, str | int | None]]:
        name = fate.name if fate is not None else ""
        if name == "batch-invalid":
            message = "This line is not parseable as valid JSON."
            return [error("invalid_json_line", message, line=lines.last)]
        if name == "batch-unseen":
            return [_unseen(batch.shown["input_file_id"])]
        if name == "batch-tokens":
            return [error("token_limit_exceeded", self._queue.message(lines.model))]
        if name == "batch-money":
            return [error("billing_hard_limit_reached", "Billing hard limit has been reached.")]
        return []

    async def _work(self, batch: Batch, lines: Lines, fate: Fault | None) -> Results:
        """Answers the lines in an order of its own, spread over the time, as far as the batch gets."""
        order = list(range(len(lines.offsets)))
        random.Random(batch.id).shuffle(order)  # noqa: S311
        end = len(order) + 1
        if fate is not None and fate.name in ("batch-expired", "batch-cancelled"):
            end = round(len(order) * fate.figure)
        results = Results(batch, self._calls, self._files, profile=self._profile, clock=self._clock)
        started, span = self._clock(), self._span * 0.8
        with (
            self._files.get(batch.shown["input_file_id"]).path.open("rb") as source,
            contextlib.closing(results),
        ):
            for done, place in enumerate(order):
                self._stop(batch, fate, due=done >= end)
                source.seek(lines.offsets[place])
                request = orjson.loads(source.readline())
                if batch.cancelled.is_set() or batch.expired:
                    results.leave(request, "batch_expired" if batch.expired else "batch_cancelled")
                    if done % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                        await asyncio.sleep(0)
                    continue
                results.answer(request)
                early = started + span * (done + 1) / len(order) - self._clock()
                if early > 0.01:
                    await self._pause(batch, early)
                elif done % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
            self._stop(batch, fate, due=len(order) >= end)
        return results

    def _stop(self, batch: Batch, fate: Fault | None, *, due: bool) -> None:
        """Ends the work of a batch whose time is over, by its fate or by its window."""
        if batch.cancelled.is_set() or batch.expired:
            return
        if due and fate is not None and fate.name == "batch-cancelled":
            batch.cancel(self._wall())
        elif due or (self._profile.expires and self._wall() >= batch.shown["expires_at"]):
            batch.expired = True


def _is_slow(fate: Fault | None, state: str) -> bool:
    return fate is not None and fate.name == f"batch-slow-{state}"


def _unseen(file_id: str) -> dict[str, str | int | None]:
    message = f"Cannot find file {file_id}, or organization org-sim does not have access to it."
    return error("invalid_request", message, param="file_id")

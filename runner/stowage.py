"""What goes into the next batch: as many rows as the account's queue, the budget and the disk have room for.

ready rows ──▶ group (endpoint, model) ──▶ bounds ──▶ file ──▶ kept in the store, as the intent to submit it
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from runner.admission import Full, Queue
from runner.asking import Asking
from runner.budget import Budget
from runner.dispatch.batch_life import Life
from runner.dispatch.batches import Room
from runner.dispatch.shard import Group, Nothing, RefusedLine, Shards, Written
from runner.errors import BudgetReached
from runner.expand import expand
from runner.model import Outcome, TaskState
from runner.pricing import usd
from runner.provider import Provider
from runner.question import Questions
from runner.settle.tally import Tally
from runner.shards import Bound, Bounds
from runner.store import batches, series, tasks
from runner.store.batches import Kept, NewBatch
from runner.store.clock import now
from runner.store.faults import DiskFull
from runner.store.tasks import Claim, Settlement
from runner.store.writer import GroupWriter
from runner.submission import Stage, Submission, mark_of
from runner.tokens import Estimates

PART_OF_THE_DISK = 4
"""A shard may take one part in so many of what the disk has room for: its order is written anew, and its results
follow."""


class Stowage:
    """Plans the shards of one run. `lives` are the batches that are out; `folder` is where files wait for upload. What
    no batch takes fails or, where it `leaves` that to another way of asking, is left: `left_some` says so."""

    def __init__(
        self,
        asking: Asking,
        provider: Provider,
        budget: Budget,
        tally: Tally,
        *,
        writer: GroupWriter,
        folder: Path,
        lives: Callable[[], Sequence[Life]],
        leaves: bool = False,
    ) -> None:
        self._asking = asking
        self._provider = provider
        self._budget = budget
        self._tally = tally
        self._writer = writer
        self._lives = lives
        self._queues: dict[str, Queue] = {}
        self._files: dict[int, Path] = {}
        self._expanded = False
        self.base64 = True
        self._leaves = leaves
        self.left_some = False
        self._shards = Shards(
            asking.store,
            asking.run.id,
            Questions(asking.job),
            asking.prices,
            urls=provider.endpoints,
            folder=folder,
            estimates=Estimates(),
            leaves=leaves,
        )
        self._mark = mark_of(asking.run.meaning, asking.run.fingerprint.sha256)
        with asking.store.read() as connection:
            identity = series.identity_of(connection, asking.tenure.series_id)
        self._account, self._series = identity.account, identity.mark

    async def plan(self) -> Kept | Room:
        """The next shard, kept in the store, or why there is none."""
        full: set[Group] = set()
        left: set[Group] = set()
        while True:
            group = await asyncio.to_thread(self._next_group, frozenset(full | left))
            if group is None:
                self.left_some = bool(left)
                return await self._nothing_to_plan(full=bool(full))
            if self._leaves and group.endpoint not in self._provider.endpoints:
                left.add(group)
                continue
            if not self._has_room(group):
                full.add(group)
                continue
            written = await self._write(group, self._bounds(group))
            if (
                written.stopped_by is Bound.TOKENS
                and isinstance(written, Nothing)
                and not self._enqueued(group.model)
            ):
                # An empty queue is offered one line, however long it seems: only the server counts its tokens.
                written = await self._write(group, self._bounds(group)._replace(requests=1, tokens=None))
            await self._refuse(written.refused)
            if isinstance(written, Written):
                return await self._keep_new(written)
            if written.stopped_by is Bound.TOKENS:
                full.add(group)
            elif self._leaves and written.stopped_by is None:
                left.add(group)
            elif not written.refused:
                return self._no_room(written)

    def _next_group(self, besides: frozenset[Group]) -> Group | None:
        asking = self._asking
        while not self._expanded:
            self._expanded = expand(asking.store, asking.tenure, asking.run.id) is None
        return self._shards.first(besides)

    def _has_room(self, group: Group) -> bool:
        if any(life.waits_for_room and life.kept.model == group.model for life in self._lives()):
            return False
        room = self._tokens(group.model)
        return room is None or room > 0

    async def _write(self, group: Group, bounds: Bounds) -> Written | Nothing:
        return await asyncio.to_thread(self._shards.write, bounds, of=group, base64=self.base64)

    def _tokens(self, model: str) -> int | None:
        """How many tokens may be enqueued now."""
        return self.queue(model).room(self._enqueued(model))

    def _bounds(self, group: Group) -> Bounds:
        provider = self._provider
        return Bounds(
            requests=provider.most_requests,
            bytes=provider.most_bytes,
            inputs=provider.most_inputs,
            tokens=self._tokens(group.model),
            cost=self._budget.left,
            disk=self._asking.store.room() // PART_OF_THE_DISK,
        )

    async def _nothing_to_plan(self, *, full: bool) -> Room:
        with self._asking.store.read() as connection:
            due = tasks.next_due(connection, self._asking.run.id)
        if full and due is not None:
            return Room(until=time.time() + self._asking.job.batch.queue_wait, full=True)
        if due is None or self.left_some:
            return Room()
        return Room(until=max(due / 1_000_000, time.time() + 0.05))

    def _no_room(self, nothing: Nothing) -> Room:
        """Why the first line of a group fits in no shard now."""
        if nothing.stopped_by is Bound.DISK:
            return Room(error=self._disk_full())
        if nothing.stopped_by is not Bound.COST:
            return Room(until=None if nothing.due_in is None else time.time() + nothing.due_in)
        assert self._budget.limit is not None
        words = (
            f"The budget of ${usd(self._budget.limit)} does not allow the next batch: "
            f"${usd(self._budget.spent + self._budget.reserved)} is spent, at risk or set aside for batches that "
            "are out. Raise --budget, or allow fewer output tokens, then run the same command again."
        )
        return Room(error=BudgetReached(words))

    def _disk_full(self) -> DiskFull:
        return DiskFull(
            f"The disk of the store {self._asking.store.path} has no room for a batch's file. What is answered is kept. "
            "Free some space and run the same command again."
        )

    async def _keep_new(self, written: Written) -> Kept:
        run = self._asking.run
        shard = f"{run.name}_{secrets.token_hex(4)}"
        # That of all is unknown where that of one is; what is known of the others comes back line by line.
        self._budget.set_aside(sum(one.reserved or 0 for one in written.lines))
        new = NewBatch(
            run_id=run.id,
            series_id=self._asking.tenure.series_id,
            epoch=self._asking.tenure.epoch,
            account=self._account,
            endpoint=written.group.endpoint,
            model=written.group.model,
            lines=len(written.lines),
            size=written.size,
            tokens=written.tokens,
            submission=Submission(shard, written.sha256, run=run.name, mark=self._mark, series=self._series),
        )
        [number] = await self._writer.submit(batches.plan, [(new, written.lines)])
        self._files[number] = written.path
        with self._asking.store.read() as connection:
            return batches.get(connection, number)

    async def _refuse(self, refused: Sequence[RefusedLine]) -> None:
        """Tasks that no batch takes fail before anything is uploaded."""
        if not refused:
            return
        run, epoch = self._asking.run.id, self._asking.tenure.epoch
        claims = [Claim(run, epoch, (one.task_id,), 0) for one in refused]
        calls = await self._writer.submit(tasks.claim, claims)
        self._tally.failed += len(refused)
        ended = [_failed_unsent(call, one) for call, one in zip(calls, refused, strict=True)]
        await self._writer.submit(tasks.settle, ended)

    def look_again(self) -> None:
        """Rows that an earlier run of the series asked may be this run's to ask now."""
        self._expanded = False

    async def file_of(self, kept: Kept) -> Path | None:
        """The file of a batch, written again where it is not there; None if its bytes cannot be had any more."""
        if kept.id not in self._files:
            path = await asyncio.to_thread(self._shards.again, kept)
            if path is None:
                return None
            self._files[kept.id] = path
        return self._files[kept.id]

    async def dissolve(self, kept: Kept) -> None:
        """A batch that surely never came to be: its rows are ready again."""
        with self._asking.store.read() as connection:
            reserved = batches.worst_case(connection, kept.id)
        await self._writer.submit(batches.dissolve, [kept.id])
        if kept.run_id == self._asking.run.id:
            self._budget.settle(reserved, 0)
        self.drop_file(kept.id)

    def drop_file(self, number: int) -> None:
        """The file of a batch is at the server, or of no use."""
        if (path := self._files.pop(number, None)) is not None:
            path.unlink(missing_ok=True)

    def queue(self, model: str) -> Queue:
        """The account's queue for a model."""
        if model not in self._queues:
            with self._asking.store.read() as connection:
                limit = batches.queue_limit(connection, self._account, model)
            self._queues[model] = Queue(first_wait=self._asking.job.batch.queue_wait, limit=limit)
        return self._queues[model]

    def _enqueued(self, model: str) -> int:
        with self._asking.store.read() as connection:
            return batches.enqueued(connection, self._account, model)

    def beside(self, kept: Kept) -> int:
        """How many tokens the others of ours have enqueued of its model."""
        others = self._enqueued(kept.model)
        return max(0, others - kept.tokens) if kept.submission.stage is Stage.SUBMITTED else others

    async def learn(self, kept: Kept, full: Full) -> None:
        """Keep the limit that a refusal named."""
        if full.limit is not None:
            await self._writer.submit(batches.learn_queue, [(self._account, kept.model, full.limit)])


def _failed_unsent(call_id: int, refused: RefusedLine) -> Settlement:
    error = {"code": refused.code, "message": refused.message, "status": None, "attempts": 0}
    return Settlement(
        call_id,
        refused.task_id,
        Outcome.NOT_SENT,
        "row_error",
        None,
        refused.code,
        None,
        TaskState.FAILED,
        now(),
        0,
        error=orjson.dumps(error).decode(),
    )

"""The results of a batch: what its two files say of its lines, joined by custom_id, and what becomes of the rest.

    output file ──┐ survey: of each line the first ──▶ settle, in the order of the batch, chunk by chunk
    error file  ──┘ answer, or else the first error
                    and what neither tells of      ──▶ settle as the caller says

An answer beats an error, and the first answer another one. Each chunk is one transaction: a crash between two loses
nothing, and collecting again settles what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec
from anyio.lowlevel import checkpoint

from runner import record
from runner.dispatch.replies import reply_of, untold
from runner.dispatch.result_file import MAX_LINE, ResultFile, Unmatched
from runner.dispatch.roster import Roster
from runner.dispatch.survey import Survey
from runner.endpoints import forced_tool
from runner.errors import RunnerError
from runner.job import Job
from runner.model import Asked, Call, Demand, Reply, Usage
from runner.question import Questions
from runner.store import batches
from runner.store.batches import Kept, Member
from runner.store.database import Store
from runner.store.runs import line_of
from runner.store.tasks import Settlement

CHUNK_LINES = 1_000
CHUNK_BYTES = 8 * 2**20

Settle: TypeAlias = Callable[[Sequence[tuple[Call, Reply]]], tuple[Sequence[Settlement], Awaitable[object]]]
"""Judges some lines; what is to be written of them, and what ends when that is on disk."""

ForcedTool: TypeAlias = bool | Callable[[bytes], bool]
"""Whether a question forces one tool: the same for all rows, or told by a row's record."""

_NOTHING_ASKED = Demand(0, None)


class Collection(NamedTuple):
    """What came of a batch's files so far.

    `settled` counts the tasks that were settled by their line now, `before` those that an earlier collecting had
    settled, `left` those that no line tells of. Of the other lines, `duplicates` repeat a task, `conflicts` of them
    with another answer, `unknown` name no task of this batch, and `unreadable` ones are no line at all; those that
    are not `duplicates` alone stand in the file `unmatched`, if there are any. `usage` sums what was `settled` now,
    but for the answers `without_usage`.
    """

    settled: int
    left: int
    before: int
    duplicates: int
    conflicts: int
    unknown: int
    unreadable: int
    usage: Usage
    without_usage: int
    unmatched: Path | None


class Collecting:
    """Collects the results of one batch."""

    def __init__(
        self,
        store: Store,
        batch: Kept,
        *,
        settle: Settle,
        forced_tool: ForcedTool,
        folder: Path,
        added_base64: bool = False,
        max_line: int = MAX_LINE,
    ) -> None:
        """`forced_tool` is what `forced_tool_of` says of the job; what belongs to no row goes into a file in `folder`;
        `added_base64` says that its vectors are asked for as base64 of our own accord."""
        self._store = store
        self._batch = batch
        self._settle = settle
        self._forced_tool = forced_tool
        self._added_base64 = added_base64
        self._max_line = max_line
        self._unmatched = Unmatched(folder, batch.submission.batch_id or f"batch_{batch.id}", max_line)
        self._in_hand: tuple[Sequence[Settlement], Awaitable[object]] | None = None
        self._usage = [0] * len(Usage.__struct_fields__)
        self._settled = self._without_usage = 0

    async def read(self, output: Path | None, error: Path | None) -> Collection:
        """Settle all that the files tell of; None is a file that there is not."""
        roster = Roster(self._store, self._batch.id)
        with ExitStack() as stack:
            paths = [path for path in (output, error) if path is not None]
            files = [stack.enter_context(ResultFile(path, self._max_line)) for path in paths]
            with self._unmatched:
                survey = Survey(roster, files, self._unmatched)
                for number, _ in enumerate(survey.lines()):
                    if not number % CHUNK_LINES:
                        await checkpoint()
            try:
                await self._settle_found(survey)
                await self._wait()
            except RunnerError:
                # The first error is the one to tell; the chunk behind it may have had its own.
                with suppress(RunnerError):
                    await self._wait()
                raise
        return Collection(
            self._settled,
            len(roster.members) - self._settled,
            survey.before,
            survey.duplicates,
            survey.conflicts,
            survey.unknown,
            survey.unreadable,
            Usage(*self._usage),
            self._without_usage,
            self._unmatched.path,
        )

    async def settle_left(self, fault: str) -> int:
        """Settle those that no line told of, all by one word of `replies.untold`; how many there were."""
        reply = untold(fault)
        count = 0
        for members in self._left():
            _, on_disk = self._settle([(call, reply) for call in self.calls_of(members)])
            await on_disk
            count += len(members)
        return count

    def calls_of(self, members: Sequence[Member]) -> list[Call]:
        """The calls that some lines of the batch are."""
        forced = self._forced_tool
        if isinstance(forced, bool):
            return [self._call_of(one, forced) for one in members]
        with self._store.read() as connection:
            return [self._call_of(one, forced(batches.record(connection, one.row_id))) for one in members]

    def _call_of(self, member: Member, forced_tool: bool) -> Call:
        return Call(
            asked=(Asked(member.task_id, line_of(member.row_id), member.key, member.attempts),),
            endpoint=self._batch.endpoint,
            model=self._batch.model,
            body=b"",
            forced_tool=forced_tool,
            demand=_NOTHING_ASKED,
            worst_case=member.reserved,
            id=member.call_id,
            added_base64=self._added_base64,
            in_batch=True,
        )

    async def _settle_found(self, survey: Survey) -> None:
        """Hand all that was found over to be settled, chunk by chunk; each waits until the one before it is on disk."""
        members: list[Member] = []
        replies: list[Reply] = []
        size = 0
        for member, result in survey.results():
            members.append(member)
            replies.append(reply_of(result))
            size += len(replies[-1].body)
            if len(replies) >= CHUNK_LINES or size >= CHUNK_BYTES:
                await self._wait(self._settle(list(zip(self.calls_of(members), replies, strict=True))))
                members, replies, size = [], [], 0
        if members:
            await self._wait(self._settle(list(zip(self.calls_of(members), replies, strict=True))))

    async def _wait(self, following: tuple[Sequence[Settlement], Awaitable[object]] | None = None) -> None:
        """Until the chunk that was handed over is on disk; `following` is the next."""
        before, self._in_hand = self._in_hand, following
        if before is not None:
            settlements, on_disk = before
            await on_disk
            self._count(settlements)

    def _count(self, settlements: Sequence[Settlement]) -> None:
        self._settled += sum(one.tasks for one in settlements)
        answers = [one.answer for one in settlements if one.answer is not None]
        usages = [msgspec.structs.astuple(one.usage) for one in answers if one.usage is not None]
        self._usage = [sum(tokens) for tokens in zip(self._usage, *usages, strict=True)]
        self._without_usage += len(answers) - len(usages)

    def _left(self) -> Iterator[list[Member]]:
        after = 0
        while True:
            with self._store.read() as connection:
                members = batches.left(connection, self._batch.id, after_call=after, limit=CHUNK_LINES)
            if not members:
                return
            yield members
            after = members[-1].call_id


def forced_tool_of(job: Job) -> ForcedTool:
    """Whether the questions of a job force one tool."""
    if job.endpoint is None:
        # It matters only to what checks an answer by a schema, which a file of requests has none of.
        return False
    tools = {
        name: job.request[name] for name in ("tools", "tool_choice", "function_call") if name in job.request
    }
    if b"{{" not in record.dumps(tools):
        return forced_tool(tools)
    questions = Questions(job)
    return lambda text: questions.ask(text, checked=True).forced_tool

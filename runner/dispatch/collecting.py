"""The results of a batch: what its two files say of its lines, joined by custom_id, and what becomes of the rest.

    output file ──┐  the answers, of both files       ──▶ settle, chunk by chunk
    error file  ──┘  then what else is said, of both  ──▶ settle what has no answer
                     and what neither tells of        ──▶ settle as the caller says

An answer beats an error, and the first answer another one. Each chunk is one transaction: a crash between two loses
nothing, and collecting again settles what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from runner import record
from runner.dispatch.replies import is_answer, reply_of, untold
from runner.dispatch.result_file import MAX_LINE, LongLine, Unmatched, result_lines
from runner.endpoints import forced_tool
from runner.errors import RunnerError
from runner.job import Job
from runner.model import Asked, Call, Demand, Reply, Usage
from runner.question import Questions
from runner.record import RecordFault
from runner.record.line_id import key_of
from runner.record.result import ResultLine, parse_result
from runner.store import batches
from runner.store.batches import Kept, Member
from runner.store.database import Store
from runner.store.runs import line_of
from runner.store.tasks import Settlement

CHUNK_LINES = 1_000
CHUNK_BYTES = 8 * 2**20

Settle: TypeAlias = Callable[[Sequence[tuple[Call, Reply]]], tuple[Sequence[Settlement], Awaitable[object]]]
"""Judges some lines; what is to be written of them, and what ends when that is on disk."""

_Key: TypeAlias = tuple[bytes, int]
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
        forced_tool: Callable[[bytes], bool],
        folder: Path,
        added_base64: bool = False,
        max_line: int = MAX_LINE,
    ) -> None:
        """`forced_tool` tells of a row's record whether its question forces one tool (`forced_tool_of`); what belongs
        to no row goes into a file in `folder`; `added_base64` says that its vectors are asked for as base64 of our
        own accord."""
        self._store = store
        self._batch = batch
        self._settle = settle
        self._forced_tool = forced_tool
        self._added_base64 = added_base64
        self._max_line = max_line
        self._unmatched = Unmatched(folder, batch.submission.batch_id or f"batch_{batch.id}", max_line)
        # What was seen of each task, by a hash of its key: that of its answer, 0 for what is none. It only counts.
        self._seen: dict[int, int] = {}
        self._lines: set[int] | None = None
        self._in_hand: _InHand | None = None
        self._usage = [0] * len(Usage._fields)
        self._settled = self._before = self._duplicates = self._conflicts = 0
        self._unknown = self._unreadable = self._without_usage = 0

    async def read(self, output: Path | None, error: Path | None) -> Collection:
        """Settle all that the files tell of; None is a file that there is not."""
        files = [path for path in (output, error) if path is not None]
        with self._unmatched:
            try:
                with_others = [path for path in files if await self._answers(path)]
                for path in with_others:
                    await self._others(path)
                await self._wait()
            except RunnerError:
                # The first error is the one to tell; the chunk behind it may have had its own.
                with suppress(RunnerError):
                    await self._wait()
                raise
        return self._collection()

    async def settle_left(self, fault: str) -> int:
        """Settle those that no line told of, all by one word of `replies.untold`; how many there were."""
        reply = untold(fault)
        count = 0
        for members in self._left():
            _, on_disk = self._settle([(self.call_of(one), reply) for one in members])
            await on_disk
            count += len(members)
        return count

    def call_of(self, member: Member) -> Call:
        """The call that a line of the batch is."""
        return Call(
            asked=(Asked(member.task_id, line_of(member.row_id), member.key, member.attempts),),
            endpoint=self._batch.endpoint,
            model=self._batch.model,
            body=b"",
            forced_tool=self._forced_tool(member.record),
            demand=_NOTHING_ASKED,
            worst_case=member.reserved,
            id=member.call_id,
            added_base64=self._added_base64,
            in_batch=True,
        )

    async def _answers(self, path: Path) -> int:
        """Settle the answers of a file; how many of its lines say something else."""
        others = 0
        chunk = _Chunk()
        for line in result_lines(path, self._max_line):
            result = _parsed(line)
            key = None if result is None else _key_of(result)
            if result is None or key is None:
                self._unreadable += result is None
                self._unknown += result is not None
                self._unmatched.add(line)
            elif not is_answer(result):
                others += 1
            elif chunk.add(key, result, line):
                await self._settle_chunk(chunk, answers=True)
                chunk = _Chunk()
        await self._settle_chunk(chunk, answers=True)
        return others

    async def _others(self, path: Path) -> None:
        """Settle, of the tasks that have no answer, what a file says instead."""
        chunk = _Chunk()
        for line in result_lines(path, self._max_line):
            result = _parsed(line)
            key = None if result is None else _key_of(result)
            if result is None or key is None or is_answer(result):
                continue
            if chunk.add(key, result, line):
                await self._settle_chunk(chunk, answers=False)
                chunk = _Chunk()
        await self._settle_chunk(chunk, answers=False)

    async def _settle_chunk(self, chunk: _Chunk, *, answers: bool) -> None:
        """Hand a chunk over to be settled, and wait until the one before it is on disk."""
        if not chunk.lines:
            return
        # The store may not know yet what became of the chunk before.
        keys = (
            chunk.keys
            if self._in_hand is None
            else [key for key in chunk.keys if key not in self._in_hand.keys]
        )
        with self._store.read() as connection:
            members = dict(batches.members(connection, self._batch.id, list(keys)))
        ended: list[tuple[Call, Reply]] = []
        for key, result, line in chunk.lines:
            member = members.pop(key, None)
            mark = hash(result.body) if answers else 0
            if member is None:
                self._count_again(key, mark, line, answers=answers)
            else:
                self._seen[hash(key)] = mark
                ended.append((self.call_of(member), reply_of(result)))
        if ended:
            settlements, on_disk = self._settle(ended)
            await self._wait(_InHand(chunk.keys, settlements, on_disk))

    async def _wait(self, following: _InHand | None = None) -> None:
        """Until the chunk that was handed over is on disk; `following` is the next."""
        before, self._in_hand = self._in_hand, following
        if before is not None:
            await before.on_disk
            self._count(before.settlements)

    def _count_again(self, key: _Key, mark: int, line: bytes, *, answers: bool) -> None:
        """A line whose task is settled already, or is none of this batch."""
        place = hash(key)
        seen = self._seen.get(place)
        if seen is not None:
            self._duplicates += 1
            if answers and seen != mark:
                self._conflicts += 1
                self._unmatched.add(line)
        elif place in self._all_lines():
            self._seen[place] = mark
            self._before += 1
        else:
            self._unknown += 1
            self._unmatched.add(line)

    def _count(self, settlements: Sequence[Settlement]) -> None:
        self._settled += len(settlements)
        answers = [one.answer for one in settlements if one.answer is not None]
        usages = [one.usage for one in answers if one.usage is not None]
        self._usage = [sum(tokens) for tokens in zip(self._usage, *usages, strict=True)]
        self._without_usage += len(answers) - len(usages)

    def _all_lines(self) -> set[int]:
        """The keys of all lines of the batch, whatever became of them, as hashes."""
        if self._lines is None:
            self._lines, after = set(), 0
            while True:
                with self._store.read() as connection:
                    page = batches.content(connection, self._batch.id, after_call=after, limit=CHUNK_LINES)
                if not page:
                    break
                self._lines.update(hash((one.hash, one.occurrence)) for one in page)
                after = page[-1].call_id
        return self._lines

    def _left(self) -> Iterator[list[Member]]:
        after = 0
        while True:
            with self._store.read() as connection:
                members = batches.left(connection, self._batch.id, after_call=after, limit=CHUNK_LINES)
            if not members:
                return
            yield members
            after = members[-1].call_id

    def _collection(self) -> Collection:
        return Collection(
            self._settled,
            sum(len(members) for members in self._left()),
            self._before,
            self._duplicates,
            self._conflicts,
            self._unknown,
            self._unreadable,
            Usage(*self._usage),
            self._without_usage,
            self._unmatched.path,
        )


class _InHand(NamedTuple):
    """A chunk that is on its way to the disk."""

    keys: Mapping[_Key, None]
    settlements: Sequence[Settlement]
    on_disk: Awaitable[object]


class _Chunk:
    """Lines that are settled together."""

    def __init__(self) -> None:
        self.lines: list[tuple[_Key, ResultLine, bytes]] = []
        self.keys: dict[_Key, None] = {}
        self._size = 0

    def add(self, key: _Key, result: ResultLine, line: bytes | LongLine) -> bool:
        """Take a line; True if that is enough."""
        assert isinstance(line, bytes)
        self.lines.append((key, result, line))
        self.keys[key] = None
        self._size += len(line)
        return len(self.lines) >= CHUNK_LINES or self._size >= CHUNK_BYTES


def _parsed(line: bytes | LongLine) -> ResultLine | None:
    """A line as far as it can be read; None for one that cannot."""
    if isinstance(line, LongLine):
        return None
    try:
        return parse_result(line)
    except RecordFault:
        return None


def _key_of(result: ResultLine) -> _Key | None:
    return None if result.custom_id is None else key_of(result.custom_id)


def forced_tool_of(job: Job) -> Callable[[bytes], bool]:
    """What tells of a row's record whether its question forces one tool."""
    if job.endpoint is None:
        # It matters only to what checks an answer by a schema, which a file of requests has none of.
        return lambda _record: False
    tools = {
        name: job.request[name] for name in ("tools", "tool_choice", "function_call") if name in job.request
    }
    if b"{{" not in record.dumps(tools):
        always = forced_tool(tools)
        return lambda _record: always
    questions = Questions(job)
    return lambda text: questions.ask(text, checked=True).forced_tool

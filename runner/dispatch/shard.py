"""The writer of shards: ready tasks of a run as the lines of one input file of the Batch API.

Nothing is kept of the lines but which tasks they ask and where they stand, so that a file of 200 MB takes no memory.
What a file would be refused for is found here, before anything is uploaded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import NamedTuple

from runner import packing, shards
from runner.dispatch.spool import SpoolFile
from runner.pricing import Prices
from runner.question import Question, Questions, Unaskable, worst_case
from runner.record.batch_line import batch_line
from runner.record.line_id import line_id
from runner.shards import Bound, Bounds, Filling
from runner.store import batches, tasks
from runner.store.batches import Kept, NewLine, ReadyTask
from runner.store.clock import now
from runner.store.database import Store
from runner.tokens import Estimates

PAGE_ROWS = 2_000
PAGE_BYTES = 8 * 2**20

AHEAD = 3_600_000_000
"""Tasks that are due in the next hour, in microseconds, go at once: a batch takes longer than any pause before it."""

MOST_REFUSED = 1_000
"""Tasks that can go in no batch: so many are told at a time."""


class Group(NamedTuple):
    """What all lines of a shard have in common."""

    endpoint: str
    model: str


UNASKABLE = Group("", "")
"""The group of what can be asked no more, as after a change of version: `write` refuses it."""


class RefusedLine(NamedTuple):
    """A task that can go in no batch, and why."""

    task_id: int
    row_id: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Written:
    """A shard's file. `lines` are in its order; `size` is in bytes, `worst_case` in pico-dollars; `stopped_by` is
    None where it holds all that was ready of its group."""

    path: Path
    sha256: str
    group: Group
    lines: list[NewLine]
    size: int
    tokens: int
    worst_case: int | None
    stopped_by: Bound | None
    refused: list[RefusedLine]


@dataclass(frozen=True, slots=True)
class Nothing:
    """No file was written. `due_in` is seconds until a task is due, None if none waits; `stopped_by` is the bound
    that leaves no room for the first task of `group`."""

    due_in: float | None = None
    group: Group | None = None
    stopped_by: Bound | None = None
    refused: tuple[RefusedLine, ...] = ()


class Shards:
    """Writes the shards of one run. `urls` has the url of each endpoint that this provider's batches take. What can
    go in no batch is refused or, where it `leaves` that to another way, left."""

    def __init__(
        self,
        store: Store,
        run_id: int,
        questions: Questions,
        prices: Prices,
        *,
        urls: Mapping[str, str],
        folder: Path,
        estimates: Estimates,
        leaves: bool = False,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._questions = questions
        self._prices = prices
        self._urls = urls
        self._folder = folder
        self._estimates = estimates
        self._leaves = leaves
        self._in_vain: tuple[frozenset[Group], int] = (frozenset(), 0)

    def first(self, besides: Set[Group] = frozenset()) -> Group | None:
        """The group of the longest due task, of none of those `besides`; None if none is due."""
        at, only = now(), self._questions.only
        if only is not None and only in besides:
            return None
        # What was looked through in vain for the same need not be looked at again: a task that has become ready
        # since then is due since then, unless somebody has set the clock.
        looked_for, until = self._in_vain
        since = until if besides and besides == looked_for and until <= at else 0
        for due in self._due(since, at + AHEAD):
            try:
                found = _group(self._questions.ask(due.record, checked=True))
            except Unaskable:
                found = UNASKABLE
            if found not in besides:
                return found
        self._in_vain = frozenset(besides), at
        return None

    def write(self, bounds: Bounds, *, of: Group | None = None, base64: bool = True) -> Written | Nothing:
        """Write the next shard: the longest due task and all further ones of its endpoint and model, or those `of`
        a group, until a bound is met. `base64` asks for vectors in that form where the job names none.

        The tasks stay ready. Those refused are to be failed, or they are told again.
        """
        with SpoolFile(self._folder) as file:
            shard = _Shard(file, Filling(bounds), of)
            for due in self._due(0, now() + AHEAD):
                if self._add(shard, due, base64):
                    break
            if shard.lines:
                return shard.written()
        if shard.refused or shard.stopped_by is not None:
            return Nothing(None, shard.group, shard.stopped_by, tuple(shard.refused))
        with self._store.read() as connection:
            at = tasks.next_due(connection, self._run_id)
        return Nothing(None if at is None else max(0.001, (at - now()) / 1_000_000))

    def again(self, batch: Kept) -> Path | None:
        """Write the file of a batch again, from the store; None if its bytes are no longer those submitted."""
        url = self._urls.get(batch.endpoint)
        if url is None:
            return None
        for base64 in (True, False) if self._questions.can_pack else (False,):
            with SpoolFile(self._folder) as file:
                try:
                    for one in self._content(batch):
                        question = self._questions.ask(one.record, checked=True)
                        body = self._body(question, base64)
                        file.write(batch_line(line_id(one.hash, one.occurrence), url, body))
                except Unaskable:
                    return None
                if file.sha256 == batch.submission.sha256:
                    return file.keep()
        return None

    def _add(self, shard: _Shard, due: ReadyTask, base64: bool) -> bool:
        """Take one task into a shard, if it belongs there; True if the shard is full."""
        try:
            question = self._questions.ask(due.record, checked=True)
        except Unaskable as fault:
            return self._refuse(shard, due, fault.faults[0])
        group = _group(question)
        if shard.group is None:
            shard.group = group
        elif group != shard.group:
            return False
        url = self._urls.get(group.endpoint)
        why = unfit(question, url is None)
        if url is None or why is not None:
            return why is not None and self._refuse(shard, due, why)
        line = batch_line(line_id(due.hash, due.occurrence), url, self._body(question, base64))
        embeds = group.endpoint == "embeddings"
        inputs = shards.inputs_of(question.request) if embeds else 0
        too_much = shards.never_fits(shard.filling.bounds, len(line), inputs)
        if too_much is not None:
            return self._refuse(shard, due, too_much)
        demand = question.endpoint.demand(question.request, len(question.body))
        likely = self._estimates.of(group.endpoint, group.model, demand, len(question.body))
        worst = worst_case(question, demand, self._prices, batch=True)
        shard.stopped_by = shard.filling.take(len(line), inputs=inputs, tokens=ceil(likely.input), cost=worst)
        if shard.stopped_by is not None:
            return True
        is_short = embeds or len(line) < shards.PREFIX_BYTES
        shard.add(
            line, NewLine(due.task_id, worst), None if is_short else shards.prompt_prefix(question.request)
        )
        return False

    def _refuse(self, shard: _Shard, due: ReadyTask, fault: tuple[str, str]) -> bool:
        """Refuse a task, or leave it; True if enough are refused."""
        return not self._leaves and shard.refuse(due, *fault)

    def _body(self, question: Question, base64: bool) -> bytes:
        # The bodies of a requests file go as they are.
        return with_base64(question) if base64 and self._questions.can_pack else question.body

    def _due(self, since: int, upto: int) -> Iterator[ReadyTask]:
        """The ready tasks whose turn came between two times, the longest due first, read page by page."""
        after = (since, 0)
        while True:
            with self._store.read() as connection:
                page = batches.next_ready(
                    connection, self._run_id, after=after, upto=upto, limit=PAGE_ROWS, max_bytes=PAGE_BYTES
                )
            if not page:
                return
            after = (page[-1].due_at, page[-1].row_id)
            yield from page
            # Two pages at a time are never held.
            del page

    def _content(self, batch: Kept) -> Iterator[batches.LineContent]:
        # So many of its lines come to a page, as they are on average.
        limit = max(1, min(PAGE_ROWS, PAGE_BYTES * batch.lines // max(1, batch.size)))
        after = 0
        while True:
            with self._store.read() as connection:
                page = batches.content(connection, batch.id, after_call=after, limit=limit)
            if not page:
                return
            after = page[-1].call_id
            yield from page
            del page


class _Shard:
    """A shard in the making."""

    def __init__(self, file: SpoolFile, filling: Filling, group: Group | None) -> None:
        self._file = file
        self._ends = array("q", [0])
        self._prefixes: list[int | None] = []
        self.filling = filling
        self.group = group
        self.lines: list[NewLine] = []
        self.refused: list[RefusedLine] = []
        self.stopped_by: Bound | None = None

    def add(self, text: bytes, line: NewLine, prefix: int | None) -> None:
        self._file.write(text)
        self._ends.append(self._ends[-1] + len(text))
        self._prefixes.append(prefix)
        self.lines.append(line)

    def refuse(self, due: ReadyTask, code: str, message: str) -> bool:
        """Note a task that goes in no batch; True if enough are noted."""
        self.refused.append(RefusedLine(due.task_id, due.row_id, code, message))
        return len(self.refused) >= MOST_REFUSED

    def written(self) -> Written:
        """The file as it stays, its lines side by side whose prompts begin alike."""
        order = shards.grouped(self._prefixes)
        if order is None:
            return self._written(self._file, self.lines)
        with SpoolFile(self._file.path.parent) as sorted_file:
            spans = ((self._ends[place], self._ends[place + 1] - self._ends[place]) for place in order)
            for text in self._file.parts(spans):
                sorted_file.write(text)
            return self._written(sorted_file, [self.lines[place] for place in order])

    def _written(self, file: SpoolFile, lines: list[NewLine]) -> Written:
        assert self.group is not None
        filling = self.filling
        return Written(
            path=file.keep(),
            sha256=file.sha256,
            group=self.group,
            lines=lines,
            size=filling.size,
            tokens=filling.tokens,
            worst_case=filling.cost,
            stopped_by=self.stopped_by,
            refused=self.refused,
        )


def with_base64(question: Question) -> bytes:
    """A question's body that asks for vectors as base64, where it leaves the form open and would be packed online."""
    request = question.request
    if "encoding_format" in request or packing.part(request) is None:
        return question.body
    return packing.body(request, [request["input"]], base64=True)


def _group(question: Question) -> Group:
    return Group(question.endpoint.name, question.model)


def unfit(question: Question, is_unknown: bool) -> tuple[str, str] | None:
    """Why a batch would fail for this line, as (code, message), whatever its size."""
    if is_unknown:
        return (
            "batch_unsupported",
            f"batches of this provider do not take {question.endpoint.name}: `runner retry RUN --mode online` asks it",
        )
    request = question.request
    if request.get("stream") not in (None, False):
        return "stream_unsupported", "the request asks for a stream, which no batch can give: remove stream"
    if request.get("background") not in (None, False):
        return (
            "background_unsupported",
            "the request asks for a background answer, which no batch can give: remove background",
        )
    return None

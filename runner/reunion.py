"""Batches at a server and the ready tasks of a run, brought together by the ids of their lines.

The ids stand in a batch's input file; where that is gone, in its results, as far as they go.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import islice
from math import ceil
from pathlib import Path
from typing import NamedTuple

from runner import loop
from runner.api.account import Account
from runner.api.batches import BatchApi, Downloaded
from runner.dispatch.result_file import result_lines
from runner.errors import AccessRefused, BadConfiguration, NotFinished, RunnerError
from runner.job import Job
from runner.pricing import Prices
from runner.provider import provider_of
from runner.question import Questions, worst_case
from runner.record import RecordFault
from runner.record.line_id import key_of
from runner.record.result import parse_result
from runner.remote import Refused, RemoteBatch, Unclear, Why
from runner.store import adoption, series, tasks
from runner.store.batches import NewBatch, NewLine
from runner.store.database import Store
from runner.store.faults import unwritable
from runner.store.locks import lock_folder
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.submission import Stage, Submission
from runner.tokens import Estimates

CHUNK_LINES = 1_000

_OUR_LINE = re.compile(rb'\{"custom_id":"([A-Za-z0-9_.-]{1,64})"')


class Gone(NamedTuple):
    """None of a batch's files can be had any more."""


class _Ids(NamedTuple):
    """The keys of a batch's lines, in their order as far as it is known, and the size of its file in bytes."""

    keys: list[tuple[bytes, int]]
    size: int


class _Lines(NamedTuple):
    """The lines of a batch whose tasks are ready: what they ask, and how many tokens that is."""

    lines: list[NewLine]
    endpoint: str
    model: str
    tokens: int


class Reunion:
    """Finds the batches of an account and takes them over for a run, all of whose tasks are made."""

    def __init__(
        self, store: Store, tenure: Tenure, this: Run, job: Job, account: Account, prices: Prices
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._run = this
        self._account = account
        self._prices = prices
        self._questions = Questions(job)
        self._folder = lock_folder(store.path) / "adopting" / str(tenure.series_id)
        self._provider = provider_of(
            account.provider, account.address.is_azure, account.api_version is not None
        )
        self._fetched: dict[str, _Ids | Gone] = {}

    def listed(self) -> list[RemoteBatch]:
        """All batches of the account. AccessRefused, NotFinished or BadConfiguration where they cannot be listed."""
        return loop.run(self._list)

    def is_complete(self) -> bool:
        """Whether no task of the run is left to be found."""
        with self._store.read() as connection:
            return tasks.next_due(connection, self._run.id) is None

    def asks_ours(self, remote: RemoteBatch) -> bool:
        """Whether a batch has a line that asks a ready task of the run."""
        ids = self._ids_of(remote)
        return not isinstance(ids, Gone) and any(self._ready(chunk) for chunk in _chunks(ids.keys))

    def adopt(self, remote: RemoteBatch) -> int | Gone:
        """Take over a batch with those of its lines that ask ready tasks of the run; how many these are."""
        ids = self._ids_of(remote)
        self._fetched.clear()
        if isinstance(ids, Gone):
            return ids
        found = self._lines(ids)
        if found is None:
            return 0
        with self._store.read() as connection:
            account = series.identity_of(connection, self._tenure.series_id).account
        new = NewBatch(
            run_id=self._run.id,
            series_id=self._tenure.series_id,
            epoch=self._tenure.epoch,
            account=account,
            endpoint=found.endpoint,
            model=found.model,
            lines=len(found.lines),
            size=ids.size,
            tokens=found.tokens,
            submission=_submission_of(remote),
        )
        with self._store.write() as connection:
            series.fence(connection, self._tenure)
            adoption.adopt(connection, new, found.lines, remote)
        return len(found.lines)

    def clean_up(self) -> None:
        """Leave no file behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lines(self, ids: _Ids) -> _Lines | None:
        """The lines whose tasks are ready; None if there is none."""
        lines: list[NewLine] = []
        tokens = 0
        endpoint = model = ""
        estimates = Estimates()
        for chunk in _chunks(ids.keys):
            ready = self._ready(chunk)
            for key in chunk:
                # An id that stands in a file twice is one task.
                one = ready.pop(key, None)
                if one is None:
                    continue
                question = self._questions.ask(one.record, checked=True)
                demand = question.endpoint.demand(question.request, len(question.body))
                endpoint, model = question.endpoint.name, question.model
                tokens += ceil(estimates.of(endpoint, model, demand, len(question.body)).input)
                lines.append(NewLine(one.task_id, worst_case(question, demand, self._prices, batch=True)))
        return _Lines(lines, endpoint, model, tokens) if lines else None

    def _ready(self, keys: list[tuple[bytes, int]]) -> dict[tuple[bytes, int], adoption.Ready]:
        with self._store.read() as connection:
            return adoption.ready(connection, self._run.id, self._tenure.series_id, keys)

    def _ids_of(self, remote: RemoteBatch) -> _Ids | Gone:
        if remote.id not in self._fetched:
            self._fetched = {remote.id: loop.run(lambda: self._fetch_ids(remote))}
        return self._fetched[remote.id]

    async def _list(self) -> list[RemoteBatch]:
        found: list[RemoteBatch] = []
        async with BatchApi(self._account, self._provider) as api:
            async for one in api.batches():
                if isinstance(one, (Refused, Unclear)):
                    raise _error(one, "The account's batches could not be listed")
                found.append(one)
        return found

    async def _fetch_ids(self, remote: RemoteBatch) -> _Ids | Gone:
        path = self._folder / "lines.jsonl"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            async with BatchApi(self._account, self._provider) as api:
                if await _fetch(api, remote.input_file_id, path):
                    return _Ids(list(_asked(path)), path.stat().st_size)
                keys: dict[tuple[bytes, int], None] = {}
                size = 0
                for file_id in (remote.output_file_id, remote.error_file_id):
                    if await _fetch(api, file_id, path):
                        keys.update(dict.fromkeys(_answered(path)))
                        size += path.stat().st_size
                return _Ids(list(keys), size) if keys else Gone()
        except OSError as error:
            raise unwritable(error, path) from error
        finally:
            path.unlink(missing_ok=True)


async def _fetch(api: BatchApi, file_id: str | None, path: Path) -> bool:
    """Bring a file to disk; False where it cannot be had any more."""
    if file_id is None:
        return False
    answer = await api.download(file_id, path)
    if isinstance(answer, Downloaded):
        return True
    if isinstance(answer, Refused) and answer.why not in (Why.NO_ACCESS, Why.NOT_NOW):
        return False
    raise _error(answer, f"File {file_id} could not be fetched")


def _asked(path: Path) -> Iterator[tuple[bytes, int]]:
    """The keys of the lines of an input file."""
    for line in result_lines(path):
        found = _OUR_LINE.match(line) if isinstance(line, bytes) else _OUR_LINE.match(line.head)
        key = None if found is None else key_of(found[1].decode())
        if key is not None:
            yield key


def _answered(path: Path) -> Iterator[tuple[bytes, int]]:
    """The keys of the lines of a file of results."""
    for line in result_lines(path):
        if not isinstance(line, bytes):
            continue
        try:
            custom_id = parse_result(line).custom_id
        except RecordFault:
            continue
        key = None if custom_id is None else key_of(custom_id)
        if key is not None:
            yield key


def _chunks(keys: list[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    left = iter(keys)
    while chunk := list(islice(left, CHUNK_LINES)):
        yield chunk


def _submission_of(remote: RemoteBatch) -> Submission:
    """The record of a submission that somebody else has made, from what its metadata says."""
    said = remote.metadata
    attempt = said.get("attempt", "")
    return Submission(
        said.get("shard") or remote.id,
        said.get("sha256", ""),
        stage=Stage.SUBMITTED,
        attempt=int(attempt) if attempt.isascii() and attempt.isdigit() else 1,
        file_id=remote.input_file_id,
        files=() if remote.input_file_id is None else (remote.input_file_id,),
        first_file_at=remote.created_at,
        batch_id=remote.id,
        run=said.get("run", ""),
        mark=said.get("mark", ""),
    )


def _error(answer: Refused | Unclear, what: str) -> RunnerError:
    message = f"{what}: {answer.message.rstrip('.')}. What was taken over is kept."
    if isinstance(answer, Unclear) or answer.why is Why.NOT_NOW:
        return NotFinished(f"{message} Run the same command again later.")
    if answer.why is Why.NO_ACCESS:
        return AccessRefused(f"{message} Use the key and project that made the batches.")
    return BadConfiguration(f"{message} Nothing can be taken over from this server.")

"""Find the run that this start goes on with, or begin one: what a run is, and what starts a new one.

A run is the same while its job means the same and its input holds the same bytes. Whether the input changed is
told by size, time and inode; only where those differ are its bytes read to be sure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import LISTED_FAULTS, BadInput, LineFault, Paused
from runner.files import LineReader, Stamp, digest
from runner.ingest import InputChanged, clear, ingest
from runner.job import Job
from runner.model import RunState
from runner.question import Questions, Unaskable
from runner.store import rows, runs, series
from runner.store.database import Store
from runner.store.runs import Fingerprint, Run
from runner.store.series import Tenure

TRIES = 3


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows come from: a file, or a stream that can be read once."""

    path: Path | None
    stream: BinaryIO | None
    limit: int | None
    max_line: int


class RowsHeld(Paused):
    """Some rows' fate is unknown, and they wait for the user."""

    def __init__(self, count: int, run_name: str) -> None:
        super().__init__(
            f"{count} rows may have been answered and charged without an answer reaching us, and are held. "
            f"`runner retry {run_name}` asks them again."
        )


def take_up(
    store: Store,
    tenure: Tenure,
    job: Job,
    source: Source,
    *,
    stopping: Callable[[], bool],
    told: Callable[[int], None],
) -> Run:
    """The run of this job over this input, its rows all in the store."""
    with store.read() as connection:
        whole = runs.of_series(connection, tenure.series_id)
    earlier = [one for one in whole if one.meaning == job.meaning_digest() and one.row_limit == source.limit]
    # What was rejected is read again: a longer --max-line, or another output_field, may have made it good.
    known = [one for one in earlier if one.state not in (RunState.INGESTING, RunState.REJECTED)]
    found = _same_input(store, tenure, known, whole[0].fingerprint if whole else None, source)
    if found is not None:
        return _with_free_fields(store, found, job)
    _drop_unread(store, tenure)
    with store.write() as connection:
        series.fence(connection, tenure)
        this = runs.create(
            connection,
            series_id=tenure.series_id,
            meaning=job.meaning_digest(),
            job=job.frozen(),
            row_limit=source.limit,
        )
    questions = Questions(job)
    for last in range(TRIES):
        try:
            with LineReader(
                source.path, stream=source.stream, max_line=source.max_line, limit=source.limit
            ) as reader:
                got = ingest(
                    store, tenure, this, reader, questions, dedupe=job.dedupe, stopping=stopping, told=told
                )
            break
        except InputChanged:
            if last == TRIES - 1 or source.path is None:
                raise
    for one in known:
        if one.fingerprint.sha256 == got.fingerprint.sha256:
            _drop(store, tenure, this)
            return _with_free_fields(store, one, job)
    with store.read() as connection:
        return runs.get(connection, this.id)


def forget_answers(store: Store, tenure: Tenure) -> int:
    """Forget what a series has been answered: its rows will be asked, and paid, again."""
    with store.write() as connection:
        series.fence(connection, tenure)
        return runs.forget_answers(connection, tenure.series_id)


def forget_run(store: Store, tenure: Tenure, this: Run) -> None:
    """Forget a run, its rows and its series' answers."""
    forget_answers(store, tenure)
    _drop(store, tenure, this)
    store.compact()


def _same_input(
    store: Store, tenure: Tenure, known: list[Run], last: Fingerprint | None, source: Source
) -> Run | None:
    """The run among `known` that has read this very input. `last` is what the series' newest run has read."""
    if source.path is None or not known:
        return None
    try:
        stamp = Stamp.of(source.path)
    except OSError as error:
        raise BadInput(
            f"The input {source.path} cannot be read: {error.strerror}. Nothing was sent."
        ) from error
    now = Fingerprint(stamp.size, stamp.mtime_ns, stamp.inode, None)
    # A stamp that an input had before another came between may be that of a third: only its bytes can tell.
    if last is not None and _stamp_of(last) == _stamp_of(now):
        for one in known:
            if _stamp_of(one.fingerprint) == _stamp_of(now):
                return one
    if source.limit is not None or not any(one.fingerprint.size == stamp.size for one in known):
        return None
    sha256 = digest(source.path)
    for one in known:
        if one.fingerprint.sha256 == sha256:
            with store.write() as connection:
                series.fence(connection, tenure)
                runs.set_stamp(connection, one.id, now)
            return one
    return None


def _stamp_of(one: Fingerprint) -> tuple[int | None, int | None, int | None]:
    return one.size, one.mtime_ns, one.inode


def _with_free_fields(store: Store, this: Run, job: Job) -> Run:
    """The run, unless its job names the output's own fields anew, and its rows have fields of these names."""
    before = Job.thaw(dict(this.job))
    if (job.output_field, job.keep) == (before.output_field, before.keep):
        return this
    questions = Questions(job)
    faults: list[LineFault] = []
    with store.read() as connection:
        for line, text in rows.good_records(connection, this.id):
            try:
                questions.ask(text)
            except Unaskable as refused:
                faults.extend(refused.at(line))
                if len(faults) >= LISTED_FAULTS:
                    break
    if faults:
        raise BadInput(
            "The input has fields where the output puts its own. Nothing was sent. Name another output_field, or "
            "list in keep the fields to repeat.",
            faults,
        )
    return this


def _drop_unread(store: Store, tenure: Tenure) -> None:
    """Runs whose input was never read to its end, or refused, hold nothing that was paid."""
    with store.read() as connection:
        left = [
            one
            for one in runs.of_series(connection, tenure.series_id)
            if one.state in (RunState.INGESTING, RunState.REJECTED)
        ]
    for one in left:
        _drop(store, tenure, one)


def _drop(store: Store, tenure: Tenure, this: Run) -> None:
    clear(store, tenure, this.id)
    with store.write() as connection:
        series.fence(connection, tenure)
        runs.drop(connection, this.id)

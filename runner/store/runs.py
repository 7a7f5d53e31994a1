"""Runs: one job applied to one state of one input."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from runner.errors import StoreUnusable, UsageError
from runner.model import RUN_TRANSITIONS, RunState
from runner.store.clock import now
from runner.store.schema import LINE_BITS, answer, attempt, batch, call, row, run, task

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How an input is told to be the same: size, time and inode first, SHA-256 where those differ.

    All are None for standard input but the hash."""

    size: int | None
    mtime_ns: int | None
    inode: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the store knows it."""

    id: int
    name: str
    series_id: int
    state: RunState
    meaning: str
    job: Mapping[str, Any]
    fingerprint: Fingerprint
    row_limit: int | None
    rows_in: int
    rows_invalid: int
    lines_blank: int
    expanded_to: int
    skip_invalid: bool
    stop_requested: bool
    drawn_as: str | None
    progress: Mapping[str, Any] | None
    summary: Mapping[str, Any] | None
    created_at: int
    finished_at: int | None


def create(
    connection: Connection, *, series_id: int, meaning: str, job: Mapping[str, Any], row_limit: int | None
) -> Run:
    """A new run, whose input is still to be read."""
    name = "".join(secrets.choice(_ALPHABET) for _ in range(10))
    made = connection.execute(
        insert(run)
        .values(
            name=name,
            series_id=series_id,
            state=RunState.INGESTING.value,
            meaning=meaning,
            job=orjson.dumps(job).decode(),
            row_limit=row_limit,
            created_at=now(),
        )
        .returning(run.c.id)
    ).scalar_one()
    return get(connection, int(made))


def get(connection: Connection, run_id: int) -> Run:
    return _run(connection.execute(select(run).where(run.c.id == run_id)).one())


def of_series(connection: Connection, series_id: int) -> list[Run]:
    """A series' runs, newest first."""
    return [
        _run(found)
        for found in connection.execute(
            select(run).where(run.c.series_id == series_id).order_by(run.c.id.desc())
        )
    ]


def newest(connection: Connection, limit: int) -> list[Run]:
    """The newest runs of all series, newest first."""
    return [_run(found) for found in connection.execute(select(run).order_by(run.c.id.desc()).limit(limit))]


def find(connection: Connection, name: str) -> Run:
    """The run of this id, of a unique beginning of it, or the `last`. UsageError if there is none, or several."""
    if name == "last":
        found = connection.execute(select(run).order_by(run.c.id.desc()).limit(1)).all()
    else:
        found = connection.execute(
            select(run).where(run.c.name.startswith(name, autoescape=True)).limit(9)
        ).all()
    if not found:
        raise UsageError(f"No run '{name}' in this store. `runner status` lists the runs.")
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UsageError(f"'{name}' begins several runs ({names}): give more letters.")
    return _run(found[0])


def move(connection: Connection, run_id: int, to: RunState) -> None:
    """Change a run's state, from a legal one only."""
    legal = [state.value for state, ways in RUN_TRANSITIONS.items() if to in ways]
    changed = connection.execute(
        update(run)
        .where(run.c.id == run_id, run.c.state.in_(legal))
        .values(state=to.value, finished_at=now() if to is RunState.FINISHED else None)
    )
    if changed.rowcount != 1:
        there = connection.execute(select(run.c.state).where(run.c.id == run_id)).scalar()
        raise UsageError(f"The run is {there or 'gone'}; it cannot become {to.value}.")


def set_input(
    connection: Connection, run_id: int, fingerprint: Fingerprint, *, rows: int, invalid: int, blank: int
) -> None:
    connection.execute(
        update(run)
        .where(run.c.id == run_id)
        .values(
            input_size=fingerprint.size,
            input_mtime_ns=fingerprint.mtime_ns,
            input_inode=fingerprint.inode,
            input_sha256=fingerprint.sha256,
            rows_in=rows,
            rows_invalid=invalid,
            lines_blank=blank,
        )
    )


def set_stamp(connection: Connection, run_id: int, fingerprint: Fingerprint) -> None:
    """Remember a new size, time and inode of an input whose bytes are the same."""
    connection.execute(
        update(run)
        .where(run.c.id == run_id)
        .values(
            input_size=fingerprint.size,
            input_mtime_ns=fingerprint.mtime_ns,
            input_inode=fingerprint.inode,
        )
    )


def look_again(connection: Connection, run_id: int) -> None:
    """Let a run look for its rows' tasks from the first row on, if a later run of its series may have taken some of
    them over; and so the others when they go on, for it takes them back."""
    this = get(connection, run_id)
    later = select(run.c.id).where(run.c.series_id == this.series_id, run.c.id > run_id).limit(1)
    if connection.execute(later).first() is not None:
        connection.execute(update(run).where(run.c.id == run_id).values(expanded_to=0))
        others_look_again(connection, run_id, this.series_id)


def others_look_again(connection: Connection, run_id: int, series_id: int) -> None:
    """Let the other unfinished runs of a series look for their rows' tasks from the first row on: this one may have
    taken some of them over."""
    others = update(run).where(run.c.series_id == series_id, run.c.id != run_id)
    connection.execute(others.where(run.c.state != RunState.FINISHED.value).values(expanded_to=0))


def set_job(connection: Connection, run_id: int, job: Mapping[str, Any], *, skip_invalid: bool) -> None:
    """The job as this start has it: fields of handling may differ from start to start."""
    connection.execute(
        update(run)
        .where(run.c.id == run_id)
        .values(job=orjson.dumps(job).decode(), skip_invalid=int(skip_invalid), stop_requested=0)
    )


class Beat(NamedTuple):
    """A sign of life of a run: what it has done so far."""

    run_id: int
    progress: Mapping[str, Any]


def beat(connection: Connection, beats: Sequence[Beat]) -> list[bool]:
    """Leave signs of life; for each, whether somebody has asked the run to stop."""
    asked = []
    for one in beats:
        text = orjson.dumps(one.progress).decode()
        connection.execute(update(run).where(run.c.id == one.run_id).values(progress=text))
        asked.append(
            bool(connection.execute(select(run.c.stop_requested).where(run.c.id == one.run_id)).scalar())
        )
    return asked


def ask_to_stop(connection: Connection, run_id: int) -> None:
    connection.execute(update(run).where(run.c.id == run_id).values(stop_requested=1))


def set_drawn(connection: Connection, run_id: int, drawn_as: str, summary: Mapping[str, Any]) -> None:
    """The output has been written: how, as JSON that begins with its path, and what it came to."""
    connection.execute(
        update(run)
        .where(run.c.id == run_id)
        .values(drawn_as=drawn_as, summary=orjson.dumps(summary).decode())
    )


def unset_drawn(connection: Connection, series_id: int, output: str) -> None:
    """Another output takes this place: no run of the series finds its own there any more."""
    begins = f"[{orjson.dumps(output).decode()},"
    mine = run.c.drawn_as.startswith(begins, autoescape=True)
    connection.execute(update(run).where(run.c.series_id == series_id, mine).values(drawn_as=None))


def clear_rows(connection: Connection, run_id: int, *, at_most: int) -> int:
    """Delete some of the rows of a run whose input is to be read again; how many were deleted."""
    some = select(row.c.id).where(row.c.id.between(*span(run_id))).limit(at_most)
    return connection.execute(delete(row).where(row.c.id.in_(some))).rowcount


def forget_answers(connection: Connection, series_id: int) -> int:
    """Delete what a series has asked and been answered. Its runs must be asked again; how many tasks went.

    UsageError while batches of the series are out: they would be paid, and nobody would know.
    """
    _refuse_while_out(connection, series_id)
    runs = select(run.c.id).where(run.c.series_id == series_id)
    calls = select(call.c.id).where(call.c.run_id.in_(runs))
    connection.execute(delete(attempt).where(attempt.c.call_id.in_(calls)))
    gone = connection.execute(delete(task).where(task.c.series_id == series_id)).rowcount
    connection.execute(delete(answer).where(answer.c.call_id.in_(calls)))
    connection.execute(delete(call).where(call.c.run_id.in_(runs)))
    connection.execute(delete(batch).where(batch.c.series_id == series_id))
    connection.execute(
        update(run)
        .where(run.c.series_id == series_id)
        .values(expanded_to=0, drawn_as=None, summary=None, finished_at=None)
    )
    connection.execute(
        update(run)
        .where(run.c.series_id == series_id, run.c.state == RunState.FINISHED.value)
        .values(state=RunState.ACTIVE.value)
    )
    return gone


def _refuse_while_out(connection: Connection, series_id: int) -> None:
    found = connection.execute(
        select(run.c.name, func.count(), func.sum(batch.c.lines))
        .join(batch, batch.c.run_id == run.c.id)
        .where(batch.c.series_id == series_id, batch.c.ended_at.is_(None))
        .group_by(run.c.id)
    ).all()
    if found:
        listed = "; ".join(f"run {name}: {count:,} with {lines:,} requests" for name, count, lines in found)
        cancels = ", ".join(f"`runner cancel {one[0]}`" for one in found)
        raise UsageError(
            f"Batches of this series are out ({listed}), and what they do is paid. Nothing was forgotten. Cancel "
            f"them first, with {cancels}, or wait until `runner resume {found[0][0]}` has collected them."
        )


def drop(connection: Connection, run_id: int) -> None:
    """Delete a run whose rows are gone and that no task or call speaks of, with its batches."""
    connection.execute(delete(batch).where(batch.c.run_id == run_id))
    connection.execute(delete(run).where(run.c.id == run_id))


def row_id(run_id: int, line: int) -> int:
    return run_id << LINE_BITS | line


def span(run_id: int) -> tuple[int, int]:
    """The first and the last id that a row of a run can have."""
    return row_id(run_id, 0), row_id(run_id, (1 << LINE_BITS) - 1)


def line_of(row_id: int) -> int:
    return row_id & ((1 << LINE_BITS) - 1)


def _run(found: Row[Any]) -> Run:
    try:
        return _read_run(found)
    except (ValueError, TypeError) as error:
        raise StoreUnusable(
            f"What the store holds of run {found.name} is damaged: {error}. Nothing was changed. Restore a copy of "
            "the store; `runner doctor` checks the whole of it."
        ) from error


def _read_run(found: Row[Any]) -> Run:
    return Run(
        id=found.id,
        name=found.name,
        series_id=found.series_id,
        state=RunState(found.state),
        meaning=found.meaning,
        job=orjson.loads(found.job),
        fingerprint=Fingerprint(
            found.input_size, found.input_mtime_ns, found.input_inode, found.input_sha256
        ),
        row_limit=found.row_limit,
        rows_in=found.rows_in,
        rows_invalid=found.rows_invalid,
        lines_blank=found.lines_blank,
        expanded_to=found.expanded_to,
        skip_invalid=bool(found.skip_invalid),
        stop_requested=bool(found.stop_requested),
        drawn_as=found.drawn_as,
        progress=orjson.loads(found.progress) if found.progress else None,
        summary=orjson.loads(found.summary) if found.summary else None,
        created_at=found.created_at,
        finished_at=found.finished_at,
    )

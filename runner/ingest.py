"""Lines of input become rows, checked one by one; the same input gives the same rows.

Every line is checked before the first call: a bad one becomes a row with its faults, so that all of them can be
told at once. Nothing is held but the chunk at hand; repeated keys and repeated questions are found by the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.errors import BadInput, Interrupted
from runner.files import LineReader
from runner.question import Questions, Unaskable
from runner.store import rows, runs, series
from runner.store.database import Store
from runner.store.rows import NewRow, fault_text, faults_text
from runner.store.runs import Fingerprint, Run, row_id

CHUNK_ROWS = 4_000
CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an input came to."""

    rows: int
    invalid: int
    blank: int
    fingerprint: Fingerprint


def ingest(
    store: Store,
    tenure: series.Tenure,
    run: Run,
    reader: LineReader,
    questions: Questions,
    *,
    dedupe: bool,
    stopping: Callable[[], bool],
    told: Callable[[int], None],
) -> Ingested:
    """Read the whole input into the store. `told` hears the number of rows after each chunk.

    Interrupted if `stopping` says so in between: the next start reads the input again.
    """
    clear(store, tenure, run.id)
    count, invalid = _read_rows(store, tenure, run, reader, questions, stopping, told)
    stamp = reader.stamp
    if stamp is not None and reader.changed():
        raise InputChanged
    with store.write() as connection:
        series.fence(connection, tenure)
        invalid += rows.refuse_repeated_keys(connection, run.id)
        if not dedupe:
            rows.number_repeats(connection, run.id)
        fingerprint = Fingerprint(
            stamp.size if stamp else None,
            stamp.mtime_ns if stamp else None,
            stamp.inode if stamp else None,
            reader.sha256,
        )
        runs.set_input(connection, run.id, fingerprint, rows=count, invalid=invalid, blank=reader.blank)
    return Ingested(count, invalid, reader.blank, fingerprint)


class InputChanged(BadInput):
    """The input file changed while it was read."""

    def __init__(self) -> None:
        super().__init__(
            "The input changed while it was read. Nothing was sent. Run the same command again when it is complete."
        )


def clear(store: Store, tenure: series.Tenure, run_id: int) -> None:
    """Delete what rows a run has, a part at a time, so that no single transaction grows large."""
    gone = CHUNK_ROWS
    while gone:
        with store.write() as connection:
            series.fence(connection, tenure)
            gone = runs.clear_rows(connection, run_id, at_most=CHUNK_ROWS)


def _read_rows(
    store: Store,
    tenure: series.Tenure,
    run: Run,
    reader: LineReader,
    questions: Questions,
    stopping: Callable[[], bool],
    told: Callable[[int], None],
) -> tuple[int, int]:
    count = invalid = size = 0
    base = row_id(run.id, 0)
    chunk: list[NewRow] = []

    def flush() -> None:
        with store.write() as connection:
            series.fence(connection, tenure)
            rows.add(connection, chunk)
        told(count)

    for number, data, fault in reader:
        if fault is not None:
            row = NewRow(base | number, None, data, None, fault_text(fault.code, fault.message))
        else:
            try:
                question = questions.ask(data)
                row = NewRow(base | number, question.key, data, question.hash, None)
            except Unaskable as refused:
                row = NewRow(base | number, refused.key, data, None, faults_text(refused.faults))
        if row.fault is not None:
            invalid += 1
        count += 1
        chunk.append(row)
        size += len(data)
        if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            flush()
            chunk.clear()
            size = 0
            if stopping():
                raise Interrupted(
                    "Stopped while reading the input. Nothing was sent; the same command starts again."
                )
    if chunk:
        flush()
    return count, invalid

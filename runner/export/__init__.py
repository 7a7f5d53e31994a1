"""Store to output files, in input order. Drawn from saved bodies: a mistake in drawing costs nothing.

One line for each non-blank line of the input, always. Each file appears under its name only when it is whole,
and the summary last of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields

from runner.errors import StoreUnusable
from runner.export.drawing import Drawing, drawing_of, error_of, usage_of
from runner.export.ownership import Outputs
from runner.files import AtomicFile
from runner.job import Job
from runner.model import RowTotals, Sums, TaskState
from runner.store import rows
from runner.store.database import Store
from runner.store.rows import Settled
from runner.store.runs import Run, line_of
from runner.store.tasks import checksum

__all__ = ["Outputs", "export"]


def export(store: Store, run: Run, job: Job, outputs: Outputs) -> RowTotals:
    """Write a line for each row of a run, the failed ones also to the errors file; what the rows came to.

    The summary is taken away first and is the caller's to write last: it is the mark of a whole output.
    """
    with AtomicFile(outputs.output) as output, AtomicFile(outputs.errors) as errors:
        totals = _write_rows(store, run, job, drawing_of(job), output, errors)
        outputs.note(output)
        outputs.drop(outputs.summary)
        if errors.size:
            outputs.note(errors)
        else:
            errors.discard()
            outputs.drop(outputs.errors)
    outputs.settle(output)
    if errors.size:
        outputs.settle(errors)
    return totals


def _write_rows(
    store: Store, run: Run, job: Job, drawing: Drawing, output: AtomicFile, errors: AtomicFile
) -> RowTotals:
    totals = RowTotals()
    accepted = job.accepts
    answers: defaultdict[tuple[str, bool], Sums] = defaultdict(Sums)
    reasons: Counter[str] = Counter()
    with store.read() as connection, _damage_told(run):
        for row in rows.settled(connection, run.id, run.series_id):
            reused = row.asked_by_run != run.id or row.asked_by_row != row.id
            error = error_of(row, accepted)
            if row.state == TaskState.ANSWERED:
                _check(row, run)
                answers[row.model or "unknown", reused].add(usage_of(row), row.cost)
                reasons[row.finish_reason or "unknown"] += 1
            if error is None:
                totals.ok += 1
                output.write(drawing.ok(row, reused=reused) + b"\n")
                continue
            line = drawing.failed(row, error) + b"\n"
            code = str(error["code"])
            if row.row_fault is not None:
                totals.invalid += 1
            elif code == "skipped":
                totals.skipped += 1
            else:
                totals.failed += 1
            if code != "skipped":
                totals.error_codes[code] = totals.error_codes.get(code, 0) + 1
                errors.write(line)
            output.write(line)
    totals.finish_reasons = dict(reasons)
    _add_up(totals, answers)
    return totals


@contextmanager
def _damage_told(run: Run) -> Iterator[None]:
    # Records were read once before and bodies too: what cannot be read any more has changed in the store.
    try:
        yield
    except ValueError as error:
        raise StoreUnusable(
            f"What the store holds of run {run.name} is damaged: {error}. Nothing was written. Restore a copy of "
            "the store; `runner doctor` checks the whole of it."
        ) from error


def _check(row: Settled, run: Run) -> None:
    if not isinstance(row.body, bytes) or checksum(row.body) != row.checksum:
        raise StoreUnusable(
            f"The stored answer of line {line_of(row.id)} of run {run.name} is damaged. Nothing was written. "
            "Restore a copy of the store; `runner doctor` checks the whole of it."
        )


def _add_up(totals: RowTotals, answers: Mapping[tuple[str, bool], Sums]) -> None:
    """What the answers came to, by model and by whether another row had paid for them."""
    for (model, reused), sums in answers.items():
        for whole in (
            totals.reused if reused else totals.paid,
            totals.by_model.setdefault(model, Sums()),
        ):
            for one in fields(Sums):
                setattr(whole, one.name, getattr(whole, one.name) + getattr(sums, one.name))

"""Store to output files, in input order. Drawn from saved bodies: a mistake in drawing costs nothing.

One line for each non-blank line of the input, always. Each file appears under its name only when it is whole,
and the summary last of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from runner.errors import StoreUnusable
from runner.export.drawing import Drawing, drawing_of, error_of, usage_of
from runner.export.matrix import Matrix, refuse_matrix, refuse_other_rows
from runner.export.ownership import Outputs
from runner.export.packs import Packs
from runner.files import AtomicFile
from runner.job import Job
from runner.model import TaskState
from runner.pricing import Prices
from runner.store import rows
from runner.store.answers import SharedBody
from runner.store.database import Store
from runner.store.rows import Settled
from runner.store.runs import Run
from runner.sums import ONLINE, RowTotals, Sums, mode_of

__all__ = ["Outputs", "export", "refuse_matrix", "refuse_other_rows"]

_ANSWERED = TaskState.ANSWERED.value


def export(store: Store, run: Run, job: Job, outputs: Outputs, prices: Prices | None = None) -> RowTotals:
    """Write a line for each row of a run, the failed ones also to the errors file; what the rows came to.

    The summary is taken away first and is the caller's to write last: it is the mark of a whole output. What was
    saved by asking in cheaper ways is told as far as `prices` know it.
    """
    with ExitStack() as stack:
        output, *others = [stack.enter_context(AtomicFile(path)) for path in outputs.drawn]
        errors = stack.enter_context(AtomicFile(outputs.errors))
        drawing = drawing_of(job)
        sheet: Sheet = Matrix(run, job, output, others[0]) if others else Lines(drawing, output)
        totals = _write_rows(store, run, job, _Writing(drawing, sheet, errors), prices)
        sheet.finish()
        written = [output, *others, *([errors] if errors.size else [])]
        outputs.note(output)
        outputs.drop(outputs.summary)
        for file in written[1:]:
            outputs.note(file)
        if not errors.size:
            errors.discard()
            outputs.drop(outputs.errors)
    for file in written:
        outputs.settle(file)
    return totals


class Sheet(Protocol):
    """What the rows of a run are written into, in input order."""

    def ok(self, row: Settled, *, reused: bool) -> None: ...

    def failed(self, row: Settled, error: Mapping[str, Any], line: bytes) -> None: ...

    def finish(self) -> None: ...


class Lines:
    """An output of one line for each row."""

    def __init__(self, drawing: Drawing, output: AtomicFile) -> None:
        self._drawing = drawing
        self._output = output

    def ok(self, row: Settled, *, reused: bool) -> None:
        self._output.write(self._drawing.ok(row, reused=reused) + b"\n")

    def failed(self, row: Settled, error: Mapping[str, Any], line: bytes) -> None:
        self._output.write(line)

    def finish(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Writing:
    drawing: Drawing
    sheet: Sheet
    errors: AtomicFile


def _write_rows(store: Store, run: Run, job: Job, writing: _Writing, prices: Prices | None) -> RowTotals:
    totals = RowTotals()
    accepted = job.accepts
    answers: defaultdict[tuple[str, str, bool], Sums] = defaultdict(Sums)
    reasons: Counter[str] = Counter()
    with (
        store.read() as connection,
        _damage_told(run),
        Packs(partial(SharedBody, connection), run) as packs,
    ):
        for found in rows.settled(connection, run.id, run.series_id):
            row = packs.own(found) if found.state == _ANSWERED else found
            reused = row.asked_by_run != run.id or row.asked_by_row != row.id
            error = error_of(row, accepted)
            if row.state == _ANSWERED:
                mode = mode_of(row.tier, job.mode)
                answers[row.model or "unknown", mode, reused].add(usage_of(row), row.cost)
                if mode != ONLINE and prices is not None and not reused:
                    _count_saving(totals, mode, row, prices)
                reasons[row.finish_reason or "unknown"] += 1
            if error is None:
                totals.ok += 1
                writing.sheet.ok(row, reused=reused)
                continue
            line = writing.drawing.failed(row, error) + b"\n"
            _count_failure(totals, row, str(error["code"]))
            if error["code"] != "skipped":
                writing.errors.write(line)
            writing.sheet.failed(row, error, line)
    totals.finish_reasons = dict(reasons)
    _add_up(totals, answers)
    _balance(totals, run)
    return totals


def _count_saving(totals: RowTotals, mode: str, row: Settled, prices: Prices) -> None:
    usage = usage_of(row)
    if row.model is None or usage is None or row.cost is None:
        return
    standard = prices.cost(row.model, None, usage)
    if standard is not None:
        totals.saved[mode] = totals.saved.get(mode, 0) + standard - row.cost


def _count_failure(totals: RowTotals, row: Settled, code: str) -> None:
    if row.row_fault is not None:
        totals.invalid += 1
    elif code == "skipped":
        totals.skipped += 1
    else:
        totals.failed += 1
    if code != "skipped":
        totals.error_codes[code] = totals.error_codes.get(code, 0) + 1


def _balance(totals: RowTotals, run: Run) -> None:
    accounted = totals.ok + totals.failed + totals.invalid + totals.skipped
    if accounted != run.rows_in:
        raise StoreUnusable(
            f"Run {run.name} does not balance: {run.rows_in} lines came in, {accounted} are accounted for. Nothing "
            "was written. `runner doctor` checks the store."
        )


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


def _add_up(totals: RowTotals, answers: Mapping[tuple[str, str, bool], Sums]) -> None:
    """What the answers came to, by model, by mode and by whether another row had paid for them."""
    for (model, mode, reused), sums in answers.items():
        wholes = [totals.by_model.setdefault(model, Sums())]
        if reused:
            wholes.append(totals.reused)
        else:
            wholes += [totals.paid, totals.by_mode.setdefault(mode, Sums())]
        for whole in wholes:
            whole.add_sums(sums)

"""The whole sentence: lock, recover, ingest, then expand, dispatch and settle until done, then export.

Every step leaves what it did in the store, so that any start, after any end of the last, does what is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from runner import takeup
from runner.api.account import Account
from runner.asking import Asking, ask
from runner.dispatch.spool import spool_of
from runner.errors import LISTED_FAULTS, BadInput, BudgetReached, LineFault, NotFinished, UsageError
from runner.export import Outputs, export, refuse_matrix, refuse_other_rows
from runner.files import MAX_LINE
from runner.job import Job
from runner.model import RunState, TaskState
from runner.preflight import new_models, refuse_boundless
from runner.pricing import Prices
from runner.report import summarise
from runner.stack import roomy
from runner.stop import Stop
from runner.store import answers, batches, rows, runs, series, tasks, totals
from runner.store.clock import now
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.locks import SeriesLock
from runner.store.place import path_of
from runner.store.runs import Run
from runner.store.series import Tenure

Emit = Callable[[dict[str, Any]], None]

REPRICED_AT_ONCE = 5_000

CLOCK_SLACK = 60_000_000
"""Microseconds by which a clock may have been set back without any harm."""

_ABANDONED = {
    "code": "process_ended",
    "message": "the process ended while it waited for the answer; `runner retry` asks again",
    "status": None,
    "attempts": 0,
}
AFTER_A_CRASH = {"retry": TaskState.READY, "hold": TaskState.HELD, "fail": TaskState.FAILED}


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a run: the job, the account, and how this start is to handle them.

    `input` is None for standard input (`stdin`), or where the rows are in the store already (`run_name`).
    `budget` is in pico-dollars; `grace` and `quarantine` in seconds; `on_ambiguous` is retry, hold or fail.
    `waits` is False where it is to end as soon as nothing can be done now (for cron).
    """

    job: Job
    account: Account
    identity: Identity
    store_url: str
    output: Path
    prices: Prices
    input: Path | None = None
    stdin: BinaryIO | None = None
    run_name: str | None = None
    limit: int | None = None
    concurrency: int | None = None
    budget: int | None = None
    max_line: int = MAX_LINE
    grace: float = 25.0
    on_ambiguous: str = "retry"
    quarantine: float = 600.0
    waits: bool = True
    skip_invalid: bool = False
    overwrite: bool = False
    fresh: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """How a start ended: 0 or 3, the run, and its summary."""

    exit_code: int
    run: str
    summary: dict[str, Any]
    output: Path
    did_nothing: bool
    this_start: dict[str, Any]


@roomy
def run(start: Start, *, stop: Stop, emit: Emit) -> Finished:
    """Do what is left of a run, and write its output. A RunnerError says why it ended before its end."""
    refuse_matrix(start.job, start.output)
    with (
        SeriesLock(path_of(start.store_url), start.identity.digest) as lock,
        Store.open(start.store_url) as store,
    ):
        store.keep_ballast(start.identity.digest)
        with store.write() as connection:
            tenure = series.take(connection, start.identity)
        outputs = Outputs(store, tenure, start.output)
        outputs.check(overwrite=start.overwrite)
        recover(store, tenure, start.on_ambiguous, emit)
        if start.fresh:
            takeup.forget_answers(store, tenure)
        this = _take_up(store, tenure, start, outputs, stop, emit)
        lock.name_run(this.name)
        refuse_other_rows(store, this, start.job, start.output)
        told = {"run": this.name, "job": start.job.name, "rows": this.rows_in, "state": this.state}
        emit({"event": "started", **told})
        if this.state is RunState.FINISHED and not start.again and _is_drawn(this, start, outputs):
            return _finished(this, dict(this.summary or {}), start.output, None)
        this, did = _ask(store, tenure, this, start, stop, emit)
        summary = _draw(store, tenure, this, start, outputs)
        return _finished(this, summary, start.output, did)


def recover(store: Store, tenure: Tenure, on_ambiguous: str, emit: Emit) -> None:
    """What a dead process left in flight may have been charged: note that, and decide what becomes of it."""
    to = AFTER_A_CRASH[on_ambiguous]
    error = None if to is TaskState.READY else orjson.dumps(_ABANDONED).decode()
    with store.write() as connection:
        series.fence(connection, tenure)
        found = tasks.recover(connection, series_id=tenure.series_id, to=to, error=error)
        for one in batches.out(connection, tenure.series_id):
            # It died between the last of its rows and the word that it has ended.
            if not batches.left(connection, one.id, after_call=0, limit=1):
                failed = one.seen is not None and one.seen.status == "failed"
                batches.end(connection, [(one.id, "failed" if failed else "collected")])
            elif one.created_at > now() + CLOCK_SLACK:
                # The clock was set back since: what was due then would be due so much later.
                batches.keep(connection, [(one.id, one.submission._replace(due=0.0))])
    shutil.rmtree(spool_of(store.path, tenure.series_id), ignore_errors=True)
    if found:
        emit({"event": "recovered", "tasks": found, "now": to.value})


def _take_up(store: Store, tenure: Tenure, start: Start, outputs: Outputs, stop: Stop, emit: Emit) -> Run:
    if start.run_name is not None:
        with store.read() as connection:
            this = runs.find(connection, start.run_name)
        if this.state is RunState.INGESTING:
            raise UsageError(
                f"Run {this.name} ended while its input was read, so its rows are not all in the store. Give the "
                "same command as then, which reads the input again. Nothing was paid for it."
            )
    else:
        this = takeup.take_up(
            store,
            tenure,
            start.job,
            takeup.Source(start.input, start.stdin, limit=start.limit, max_line=start.max_line),
            stopping=stop,
            told=lambda count: emit({"event": "ingesting", "rows": count}),
        )
    _refuse_bad_lines(store, tenure, this, start, outputs)
    with store.write() as connection:
        series.fence(connection, tenure)
        runs.set_job(connection, this.id, start.job.frozen(), skip_invalid=start.skip_invalid)
        if this.state is RunState.REJECTED:
            runs.move(connection, this.id, RunState.INGESTING)
        if this.state in (RunState.INGESTING, RunState.REJECTED, RunState.CANCELLED):
            runs.move(connection, this.id, RunState.ACTIVE)
        if this.state is not RunState.FINISHED:
            runs.look_again(connection, this.id)
        tasks.bring_forward(connection, this.id, longest=int(start.job.retry.max_wait * 1_000_000))
        if start.again:
            accepted = start.job.accepts
            again = tasks.retry(
                connection,
                run_id=this.id,
                series_id=tenure.series_id,
                accepted=None if accepted is None else sorted(accepted),
            )
            if again:
                runs.others_look_again(connection, this.id, tenure.series_id)
            if again and this.state is RunState.FINISHED:
                runs.move(connection, this.id, RunState.ACTIVE)
            emit({"event": "retrying", "tasks": again})
        return runs.get(connection, this.id)


def _refuse_bad_lines(store: Store, tenure: Tenure, this: Run, start: Start, outputs: Outputs) -> None:
    """BadInput if the input has no row, or bad lines that are not to be left out, or an end that is missing."""
    with store.read() as connection:
        cut = rows.ends_early(connection, this.id) if this.rows_invalid else None
    if this.rows_in and not cut and (start.skip_invalid or not this.rows_invalid):
        return
    if this.state is RunState.INGESTING:
        with store.write() as connection:
            series.fence(connection, tenure)
            runs.move(connection, this.id, RunState.REJECTED)
    name = start.input or "standard input"
    if not this.rows_in:
        raise BadInput(f"{name} has no row at all ({this.lines_blank} blank lines). Nothing was sent.")
    with store.read() as connection:
        outputs.write_errors(map(_fault_line, rows.faults(connection, this.id)))
        first = list(islice(rows.faults(connection, this.id), LISTED_FAULTS))
    advice = "Mend the lines, or leave them out with --skip-invalid."
    if this.rows_invalid == this.rows_in:
        advice = "Not one line is good: does the job name the right fields, and is this the right input?"
    if cut:
        advice = f"The file cannot be read to its end (line {cut}), so nothing of it is asked: give it whole."
    raise BadInput(
        f"{this.rows_invalid:,} of {this.rows_in:,} lines of {name} cannot be asked. Nothing was sent and "
        f"nothing was paid. All faults are in {outputs.errors}. {advice}",
        first,
    )


def _fault_line(fault: LineFault) -> bytes:
    return orjson.dumps({"line": fault.line, "key": fault.key, "code": fault.code, "message": fault.message})


def _ask(
    store: Store, tenure: Tenure, this: Run, start: Start, stop: Stop, emit: Emit
) -> tuple[Run, dict[str, Any]]:
    did: dict[str, Any] = {}
    with store.read() as connection:
        left = totals.unfinished(connection, this.id)
    if left:
        if start.budget is not None:
            refuse_boundless(store, this, start.job, start.prices, origin=start.account.origin)
        asking = Asking(
            store=store,
            tenure=tenure,
            run=this,
            job=start.job,
            account=start.account,
            prices=start.prices,
            budget=start.budget,
            concurrency=start.concurrency,
            on_ambiguous=start.on_ambiguous,
            grace=start.grace,
            new_models=new_models(store, this, start.job),
            fresh=start.fresh,
        )
        did = _answer(asking, start, stop, emit)
    with store.write() as connection:
        series.fence(connection, tenure)
        held, left = totals.held(connection, this.id), totals.unfinished(connection, this.id)
        if not (held or left) and this.state is RunState.ACTIVE:
            runs.move(connection, this.id, RunState.FINISHED)
        this = runs.get(connection, this.id)
    if left:
        raise NotFinished(f"Not finished: {left:,} rows have no answer yet. Run the same command again.")
    if held:
        raise takeup.RowsHeld(held, this.name)
    return this, did


def _answer(asking: Asking, start: Start, stop: Stop, emit: Emit) -> dict[str, Any]:
    """Get the rows answered in the way that the job's mode says; what this start did."""
    if start.job.mode == "online":
        did = _ask_online(asking, stop, emit)
        with asking.store.read() as connection:
            if not totals.unfinished(connection, asking.run.id):
                return did
    from runner.batching import Batching, batch
    from runner.scheduling import schedule

    if start.job.mode == "auto":
        return schedule(asking, quarantine=start.quarantine, waits=start.waits, stop=stop, emit=emit)
    plans = start.job.mode == "batch"
    batching = Batching(asking, start.quarantine, waits=start.waits, plans=plans)
    did = batch(batching, stop=stop, emit=emit)
    # What batches of an earlier start left over is asked as this start says.
    return did if plans else _answer(asking, start, stop, emit)


def _ask_online(asking: Asking, stop: Stop, emit: Emit) -> dict[str, Any]:
    try:
        return ask(asking, stop=stop, emit=emit)
    except BudgetReached:
        with asking.store.read() as connection:
            if not totals.set_aside(connection, asking.run.id):
                raise
        # What the batches that are out leave of the budget is known once they have ended.
        return {}


def _is_drawn(this: Run, start: Start, outputs: Outputs) -> bool:
    unpriced = (this.summary or {}).get("cost_usd", {}).get("unknown_price_rows", 0)
    if unpriced and len(start.prices):
        return False
    return this.drawn_as == _drawn_as(start) and outputs.is_whole(
        with_errors=_failures(dict(this.summary or {})) > 0
    )


def _draw(store: Store, tenure: Tenure, this: Run, start: Start, outputs: Outputs) -> dict[str, Any]:
    _price_what_was_unpriced(store, tenure, start.prices)
    rows_came_to = export(store, this, start.job, outputs, start.prices)
    summary = summarise(
        store, this, rows_came_to, job_name=start.job.name, prices_as_of=start.prices.as_of or None
    )
    with store.write() as connection:
        series.fence(connection, tenure)
        runs.set_drawn(connection, this.id, _drawn_as(start), summary)
    outputs.write_summary(summary)
    return summary


def _price_what_was_unpriced(store: Store, tenure: Tenure, prices: Prices) -> None:
    """Answers that came while no price was known get theirs."""
    after = 0
    while len(prices):
        with store.write() as connection:
            series.fence(connection, tenure)
            found = answers.unpriced(connection, tenure.series_id, after=after, limit=REPRICED_AT_ONCE)
            known = [(prices.cost(one.model, one.tier, one.usage), one.answer_id) for one in found]
            answers.set_costs(connection, [(cost, number) for cost, number in known if cost is not None])
        if not found:
            return
        after = found[-1].answer_id


def _drawn_as(start: Start) -> str:
    """What an output depends on beside its run: where it goes and how it is drawn."""
    job = start.job
    parts = [str(start.output), job.output_field, job.keep, sorted(job.accepts or ())]
    return orjson.dumps(parts).decode()


def _failures(summary: dict[str, Any]) -> int:
    counted = summary.get("rows", {})
    return int(counted.get("failed", 0)) + int(counted.get("invalid", 0)) + int(counted.get("skipped", 0))


def _finished(this: Run, summary: dict[str, Any], output: Path, did: dict[str, Any] | None) -> Finished:
    return Finished(
        exit_code=3 if _failures(summary) else 0,
        run=this.name,
        summary=summary,
        output=output,
        did_nothing=did is None,
        this_start=did or {},
    )

"""What can be done with a run that is in the store, without asking anything: draw it again, stop it, forget it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from runner import takeup
from runner.errors import UsageError
from runner.export import Outputs, export, refuse_matrix, refuse_other_rows
from runner.job import Job
from runner.model import RunState
from runner.report import summarise
from runner.store import batches, runs, series, totals
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.locks import SeriesLock
from runner.store.place import path_of
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.sums import RowTotals


def export_again(
    store_url: str, run_name: str, *, output: Path | None, partial: bool, overwrite: bool
) -> tuple[Run, dict[str, Any], Path]:
    """Write a run's output again; the run, its summary, and where the output is. Asks and pays nothing.

    UsageError if the run is not finished and `partial` is not asked for.
    """
    this, identity = _find(store_url, run_name)
    job = Job.thaw(dict(this.job))
    where = output.absolute() if output is not None else job.output
    if where is None:
        raise UsageError("The run has no output of its own: name one with -o.")
    refuse_matrix(job, where)
    with SeriesLock(path_of(store_url), identity.digest), Store.open(store_url) as store:
        tenure = _take(store, identity)
        with store.read() as connection:
            this = runs.get(connection, this.id)
            left = totals.unfinished(connection, this.id) + totals.held(connection, this.id)
        if this.state in (RunState.INGESTING, RunState.REJECTED):
            raise UsageError(f"Run {this.name} is {this.state}: it has no rows to export.")
        if left and not partial:
            raise UsageError(
                f"Run {this.name} is not finished: {left:,} rows are left. Run the same command again to finish "
                "it, or --partial for what there is."
            )
        refuse_other_rows(store, this, job, where)
        outputs = Outputs(store, tenure, where)
        outputs.check(overwrite=overwrite)
        came_to: RowTotals = export(store, this, replace(job, output=where), outputs)
        summary = summarise(store, this, came_to, job_name=job.name, prices_as_of=None)
        outputs.write_summary(summary)
    return this, summary, where


class BatchesOut(NamedTuple):
    """A run that nobody runs, and whose batches are out: only who may speak for its account can call them off."""

    run_name: str
    job: Job
    identity: Identity


def cancel(store_url: str, run_name: str) -> str | BatchesOut:
    """Ask the process that runs a run to stop, or mark a run that nobody runs; what was done, as a sentence. Where
    nobody runs it and batches are out that it waits for, nothing is done."""
    this, identity = _find(store_url, run_name)
    lock = SeriesLock(path_of(store_url), identity.digest)
    holder = lock.holder()
    with Store.open(store_url) as store:
        if holder is not None and holder.runs(this.name):
            return _ask_to_stop(store, this, str(holder))
        if holder is not None:
            return (
                f"Run {this.name} is not running: {holder} is at work on run {holder.run} of the same series. "
                f"`runner cancel {holder.run}` stops that one."
            )
        with lock, store.write() as connection:
            this = runs.get(connection, this.id)
            out = batches.waited_for(connection, this.id, this.series_id)
            goes_on = this.state in (RunState.ACTIVE, RunState.CANCELLED)
            if any(goes_on or one.run_id == this.id for one in out):
                return BatchesOut(this.name, Job.thaw(dict(this.job)), identity)
            if this.state is RunState.ACTIVE:
                runs.move(connection, this.id, RunState.CANCELLED)
    if this.state is not RunState.ACTIVE:
        return f"Run {this.name} is {this.state}: there is nothing to stop."
    return f"Run {this.name} is cancelled. What is answered is kept; the same command goes on with it."


def _ask_to_stop(store: Store, this: Run, holder: str) -> str:
    with store.write() as connection:
        runs.ask_to_stop(connection, this.id)
        out = batches.waited_for(connection, this.id, this.series_id)
    if not out:
        return f"Run {this.name} was asked to stop ({holder}). It ends when its calls in flight have ended."
    return (
        f"Run {this.name} was asked to stop ({holder}). It cancels its batches, waits for their end, and takes in what "
        "they did."
    )


def forget(store_url: str, run_name: str) -> str:
    """Delete a run and its series' answers; what was done, as a sentence."""
    this, identity = _find(store_url, run_name)
    with SeriesLock(path_of(store_url), identity.digest), Store.open(store_url) as store:
        takeup.forget_run(store, _take(store, identity), this)
    return (
        f"Run {this.name} and the answers of its series are deleted from {path_of(store_url)}. Its output files "
        "are where they were."
    )


def _find(store_url: str, run_name: str) -> tuple[Run, Identity]:
    with Store.read_only(store_url) as store, store.read() as connection:
        this = runs.find(connection, run_name)
        return this, series.identity_of(connection, this.series_id)


def _take(store: Store, identity: Identity) -> Tenure:
    with store.write() as connection:
        return series.take(connection, identity)

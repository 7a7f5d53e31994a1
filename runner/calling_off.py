"""Call off the batches of a run that nobody runs: cancel them, wait for their end, and take in what they did.

What was not sent is not sent; what may have been is looked for until that is known; what was is cancelled. Their
rows that were not done are ready again, for whoever goes on with the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from runner.api.account import Account
from runner.asking import Asking
from runner.batching import Batching, batch
from runner.errors import Interrupted, NotFinished
from runner.job import Job
from runner.model import RunState, TaskState
from runner.polling import hours
from runner.pricing import Prices
from runner.stop import Stop
from runner.store import batches, runs, series, totals
from runner.store.batches import Kept
from runner.store.database import Store
from runner.store.locks import SeriesLock
from runner.store.place import path_of
from runner.store.runs import Run
from runner.store.series import Tenure
from runner.submission import Stage

Emit = Callable[[dict[str, Any]], None]

_MAYBE_THERE = (Stage.SENDING, Stage.UNKNOWN, Stage.FENCING, Stage.FENCED)


@dataclass(frozen=True, slots=True)
class CallOff:
    """Whose batches to call off, and how: `poll`, `quarantine` and `grace` are in seconds, `poll` None where the job
    says it; where it does not wait, it asks them to end and leaves the rest to another time."""

    store_url: str
    run_name: str
    account: Account
    prices: Prices
    poll: float | None
    quarantine: float
    grace: float
    waits: bool = True


def call_off(what: CallOff, *, stop: Stop, emit: Emit) -> str:
    """Call off the batches that a run waits for; what was done, as sentences. Raises NotFinished, or Interrupted,
    where some have not ended yet."""
    with Store.read_only(what.store_url) as store, store.read() as connection:
        found = runs.find(connection, what.run_name)
        identity = series.identity_of(connection, found.series_id)
    with (
        SeriesLock(path_of(what.store_url), identity.digest),
        Store.open(what.store_url) as store,
    ):
        with store.write() as connection:
            tenure = series.take(connection, identity)
            this = runs.get(connection, found.id)
            out = batches.waited_for(connection, this.id, this.series_id)
        before = _answered(store, out)
        _tell_unknown(out, what.quarantine, emit)
        stopped = _live_to_the_end(_asking(store, tenure, this, what), what, stop, emit)
        with store.read() as connection:
            still_out = batches.waited_for(connection, this.id, this.series_id)
        if still_out:
            raise stopped(_still_out(this, still_out))
        return _close(store, tenure, this, out, before)


def _asking(store: Store, tenure: Tenure, this: Run, what: CallOff) -> Asking:
    job = Job.thaw(dict(this.job))
    if what.poll is not None:
        job = replace(job, batch=replace(job.batch, poll=what.poll))
    return Asking(
        store=store,
        tenure=tenure,
        run=this,
        job=job,
        account=what.account,
        prices=what.prices,
        budget=None,
        concurrency=None,
        on_ambiguous="retry",
        grace=what.grace,
    )


def _live_to_the_end(
    asking: Asking, what: CallOff, stop: Stop, emit: Emit
) -> type[NotFinished] | type[Interrupted]:
    """Live the batches as far as this start does; what it is called if that is not to their end."""
    batching = Batching(asking, what.quarantine, waits=what.waits, plans=False, calls_off=True)
    try:
        batch(batching, stop=stop, emit=emit)
    except Interrupted:
        return Interrupted
    except NotFinished:
        pass
    return NotFinished


def _close(store: Store, tenure: Tenure, this: Run, out: list[Kept], before: int) -> str:
    """Mark the run, and say what has become of its batches and rows."""
    with store.write() as connection:
        series.fence(connection, tenure)
        if this.state is RunState.ACTIVE:
            runs.move(connection, this.id, RunState.CANCELLED)
    with store.read() as connection:
        left, held = totals.unfinished(connection, this.id), totals.held(connection, this.id)
    lines = sum(one.lines for one in out)
    answered = _answered(store, out) - before
    called_off = "1 batch was" if len(out) == 1 else f"{len(out):,} batches were"
    told = [
        f"Run {this.name} is cancelled: {called_off} called off ({lines:,} rows).",
        f"{answered:,} of these rows were answered first, and are kept.",
    ]
    if held:
        told.append(
            f"{held:,} rows may have been answered and charged, and are held: `runner retry {this.name}` asks them "
            "again."
        )
    told.append(
        f"{left:,} rows are left; the same command goes on with them."
        if left
        else "No row is left to ask: the same command writes the output."
    )
    return " ".join(told)


def _tell_unknown(out: list[Kept], quarantine: float, emit: Emit) -> None:
    for one in out:
        if one.submission.stage in _MAYBE_THERE:
            emit(
                {
                    "event": "batch",
                    "run": one.run_name,
                    "batch": one.submission.shard,
                    "state": "unknown",
                    "lines": one.lines,
                    "message": "whether it was created is not known: it is looked for until that is, which can take "
                    f"{hours(1.5 * quarantine)}",
                }
            )


def _still_out(this: Run, out: list[Kept]) -> str:
    lines = sum(one.lines for one in out)
    unknown = sum(one.submission.stage in _MAYBE_THERE for one in out)
    which = (
        f"1 batch of run {this.name} has"
        if len(out) == 1
        else f"{len(out):,} batches of run {this.name} have"
    )
    whether = f", of {unknown:,} it is not known whether they were created" if unknown else ""
    return (
        f"{which} not ended yet ({lines:,} rows{whether}); what could be cancelled is. `runner cancel {this.name}` "
        "again takes in what they did; nothing new is submitted meanwhile."
    )


def _answered(store: Store, out: list[Kept]) -> int:
    """How many tasks of the runs that have these batches out are answered."""
    with store.read() as connection:
        states = [totals.by_state(connection, run_id) for run_id in {one.run_id for one in out}]
    return sum(one.get(TaskState.ANSWERED.value, 0) for one in states)

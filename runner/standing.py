"""Where runs stand, read from the store alone: nothing is locked for longer than a look, and nothing changed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.admission import QUEUE_FULL
from runner.model import RunState
from runner.polling import MISSING, stands_still, unheard_of
from runner.pricing import usd
from runner.store import batches, runs, series, totals
from runner.store.batches import Kept
from runner.store.clock import moment
from runner.store.database import Store
from runner.store.identity import Identity
from runner.store.locks import SeriesLock
from runner.store.place import path_of
from runner.store.runs import Run
from runner.submission import UNSENT, Stage

if TYPE_CHECKING:
    from sqlalchemy import Connection

Clock = Callable[[], float]
"""Tells the seconds since 1970."""


def all_runs(store_url: str, limit: int, *, clock: Clock = time.time) -> list[dict[str, Any]]:
    """The newest runs, newest first."""
    with Store.read_only(store_url) as store, store.read() as connection:
        return [
            _short(
                run,
                series.identity_of(connection, run.series_id),
                path_of(store_url),
                _out(connection, run),
                clock(),
            )
            for run in runs.newest(connection, limit)
        ]


def one_run(store_url: str, run_name: str, *, clock: Clock = time.time) -> dict[str, Any]:
    """One run with its calls, its batches, its commonest errors, and what to do next."""
    with Store.read_only(store_url) as store, store.read() as connection:
        run = runs.find(connection, run_name)
        identity = series.identity_of(connection, run.series_id)
        attempts = totals.attempts(connection, run.id)
        held = totals.held(connection, run.id)
        finished = run.state is RunState.FINISHED
        left = 0 if finished else totals.unfinished(connection, run.id)
        states = {} if finished else totals.by_state(connection, run.id)
        paid = totals.paid(connection, run.id)
        errors = totals.commonest_errors(connection, run.id)
        out = _out(connection, run)
        ended = Counter(one.result for one in batches.of_run(connection, run.id) if one.result)
    now = clock()
    short = _short(run, identity, path_of(store_url), out, now)
    if not finished:
        short |= {"ok": states.get("answered", 0), "failed": states.get("failed", 0), "cost_usd": usd(paid)}
    progress = run.progress or {}
    running = short["state"] == "running"
    told = [_batch(one, now) for one in out]
    return {
        **short,
        "provider": identity.provider,
        "origin": identity.origin,
        "input": "standard input" if identity.input_path == "-" else identity.input_path,
        "output": run.job.get("output"),
        "invalid": run.rows_invalid,
        "left": left,
        "held": held,
        "requests": attempts.requests,
        "retries": attempts.retries,
        "rate_limited": attempts.rate_limited,
        "at_risk_usd": usd(attempts.at_risk),
        "rows_per_second": progress.get("rows_per_second") if running else None,
        "eta_seconds": progress.get("eta_seconds") if running else None,
        "held_because": progress.get("held_because") if running else None,
        "batches": told,
        "batches_ended": dict(sorted(ended.items())),
        "errors": [{"code": code, "status": status, "times": times} for code, status, times in errors],
        "next": _next(run, short, left, held, told),
    }


def _out(connection: Connection, run: Run) -> list[Kept]:
    """The batches out that a run waits for."""
    if run.state in (RunState.ACTIVE, RunState.CANCELLED):
        return batches.waited_for(connection, run.id, run.series_id)
    return [one for one in batches.out(connection, run.series_id) if one.run_id == run.id]


def _short(run: Run, identity: Identity, store_path: Path, out: Sequence[Kept], now: float) -> dict[str, Any]:
    state = run.state.value
    holder = None
    if run.state in (RunState.ACTIVE, RunState.INGESTING):
        holder = SeriesLock(store_path, identity.digest).holder()
        if holder is not None and not holder.runs(run.name):
            holder = None
        # What waits goes on by itself, what is paused does not.
        waits = any(_is_sent(one) or one.submission.due > now for one in out)
        state = "running" if holder is not None else "waiting" if waits else "paused"
    summary = run.summary or {}
    counted = summary.get("rows", {})
    progress = run.progress or {}
    return {
        "run": run.name,
        "job": identity.job_name,
        "state": state,
        "holder": None if holder is None else str(holder),
        "rows": run.rows_in,
        "ok": counted.get("ok", _answered(progress, run.rows_invalid)),
        "failed": counted.get("failed", progress.get("failed")),
        "cost_usd": summary.get("cost_usd", {}).get("total", progress.get("cost_usd")),
        "started_at": f"{moment(run.created_at):%Y-%m-%dT%H:%M:%SZ}",
        "finished_at": f"{moment(run.finished_at):%Y-%m-%dT%H:%M:%SZ}" if run.finished_at else None,
    }


def _answered(progress: Mapping[str, Any], invalid: int) -> int | None:
    """The rows done that did not fail, as far as the last progress tells."""
    if progress.get("done") is None:
        return None
    return max(0, int(progress["done"]) - int(progress.get("failed") or 0) - invalid)


def _is_sent(batch: Kept) -> bool:
    return batch.submission.stage not in UNSENT


def _batch(batch: Kept, now: float) -> dict[str, Any]:
    """A batch that has not ended; `sent` if it is at the provider, or may be. `age_seconds` is since it was submitted,
    or planned; `waits_until` the time of the next try of one that is not submitted; `odd` says what is not as usual."""
    submission, seen = batch.submission, batch.seen
    age = max(0.0, now - (batch.submitted_at or batch.created_at) / 1_000_000)
    due = submission.due if not _is_sent(batch) and submission.due > now else None
    return {
        "batch": submission.batch_id or submission.shard,
        "run": batch.run_name,
        "model": batch.model,
        "state": _state(batch, waits=due is not None),
        "sent": _is_sent(batch),
        "lines": batch.lines,
        "done": None if seen is None or not _is_sent(batch) else seen.completed,
        "age_seconds": round(age),
        "waits_until": None if due is None else f"{moment(round(due * 1_000_000)):%Y-%m-%dT%H:%M:%SZ}",
        "odd": _odd(batch, age, now),
    }


def _state(batch: Kept, *, waits: bool) -> str:
    """The server's word for a batch, or our own for one that it has not told of yet."""
    if waits and batch.submission.words == QUEUE_FULL:
        return "queue_full"
    return batch.submission.stage.value if batch.seen is None else batch.seen.status


def _odd(batch: Kept, age: float, now: float) -> str | None:
    """What is odd about a batch; None where nothing is."""
    submission, seen = batch.submission, batch.seen
    if submission.stage in (Stage.SENDING, Stage.UNKNOWN, Stage.FENCING, Stage.FENCED):
        return "no answer tells whether it was created: it is looked for before it may be submitted again"
    if seen is None:
        return None
    if seen.status == MISSING:
        return "its server says that there is no such batch"
    # Since when it says what it says is not kept: only of the first state is that its age.
    odd = stands_still(
        seen.status,
        for_seconds=age if seen.status not in ("finalizing", "cancelling") else 0.0,
        expires_in=None if seen.expires_at is None else seen.expires_at - now,
        expires=seen.expires_at is not None,
    )
    return odd or unheard_of(seen.status) or None


def _next(run: Run, short: Mapping[str, Any], left: int, held: int, out: Sequence[Mapping[str, Any]]) -> str:
    if short["holder"] is not None:
        calls_off = ", and calls its batches off" if out else ""
        return f"It is running ({short['holder']}). `runner cancel {run.name}` stops it{calls_off}."
    if run.state is RunState.REJECTED:
        return "Mend the input's bad lines and run the same command again, or add --skip-invalid."
    if out:
        goes_on = f"`runner resume {run.name}`, or the same command as before,"
        if all(one["waits_until"] for one in out):
            return f"{goes_on} submits what waits, from {out[0]['waits_until']} on."
        return (
            f"The batches go on at the provider. {goes_on} takes in what they have done; `runner cancel {run.name}` "
            "calls them off."
        )
    if held:
        return f"`runner retry {run.name}` asks the held rows again; they may have been charged."
    if left or run.state in (RunState.ACTIVE, RunState.CANCELLED, RunState.INGESTING):
        return f"`runner resume {run.name}`, or the same command as before, goes on."
    if run.summary is None:
        return "Every row has been asked, but the output is not written: the same command again writes it."
    if short["failed"]:
        return f"`runner retry {run.name}` tries the failed rows again."
    if run.rows_invalid:
        return f"Every good row is answered. {run.rows_invalid:,} invalid lines were left out: mend them, run again."
    return "Nothing: every row is answered."

"""Where runs stand, read from the store alone: nothing is locked for longer than a look, and nothing changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.model import RunState
from runner.pricing import usd
from runner.store import runs, series, totals
from runner.store.clock import moment
from runner.store.database import Store, path_of
from runner.store.locks import SeriesLock
from runner.store.runs import Run
from runner.store.series import Identity


def all_runs(store_url: str, limit: int) -> list[dict[str, Any]]:
    """The newest runs, newest first."""
    with Store.read_only(store_url) as store, store.read() as connection:
        return [
            _short(run, series.identity_of(connection, run.series_id), path_of(store_url))
            for run in runs.newest(connection, limit)
        ]


def one_run(store_url: str, run_name: str) -> dict[str, Any]:
    """One run with its calls, its commonest errors, and what to do next."""
    with Store.read_only(store_url) as store, store.read() as connection:
        run = runs.find(connection, run_name)
        identity = series.identity_of(connection, run.series_id)
        attempts = totals.attempts(connection, run.id)
        held = totals.held(connection, run.id)
        finished = run.state is RunState.FINISHED
        left = 0 if finished else totals.unfinished(connection, run.id)
        states = {} if finished else totals.by_state(connection, run.id)
        errors = totals.commonest_errors(connection, run.id)
    short = _short(run, identity, path_of(store_url))
    if not finished:
        short |= {"ok": states.get("answered", 0), "failed": states.get("failed", 0)}
    progress = run.progress or {}
    running = short["state"] == "running"
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
        "errors": [{"code": code, "status": status, "times": times} for code, status, times in errors],
        "next": _next(run, short, left, held),
    }


def _short(run: Run, identity: Identity, store_path: Path) -> dict[str, Any]:
    state = run.state.value
    holder = None
    if run.state in (RunState.ACTIVE, RunState.INGESTING):
        holder = SeriesLock(store_path, identity.digest).holder()
        state = "running" if holder is not None else "paused"
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


def _next(run: Run, short: dict[str, Any], left: int, held: int) -> str:
    if short["holder"] is not None:
        return f"It is running ({short['holder']}). `runner cancel {run.name}` stops it."
    if run.state is RunState.REJECTED:
        return "Mend the input's bad lines and run the same command again, or add --skip-invalid."
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

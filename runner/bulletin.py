"""What there is to tell of the batches of a run: how far they are, what is out, how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.dispatch.batch_life import Life
from runner.polling import hours
from runner.pricing import usd
from runner.settle.tally import Tally
from runner.store.runs import Run


def progress(
    run: Run, tally: Tally, lives: Sequence[Life], *, left: int, waits_for_room: bool
) -> dict[str, Any]:
    """The event that tells how far a run is. `left` were so many rows when this start began."""
    left = max(0, left - tally.answered - tally.failed)
    return {
        "event": "progress",
        "run": run.name,
        "rows": run.rows_in,
        "done": run.rows_in - left,
        "answered": tally.answered,
        "failed": tally.failed,
        "left": left,
        "in_flight": sum(life.kept.lines for life in lives if life.is_sent),
        "requests": tally.attempts,
        "retries": tally.retries,
        "rate_limited": tally.rate_limited,
        "ambiguous": tally.ambiguous,
        "rows_per_second": 0.0,
        "eta_seconds": None,
        "input_tokens": tally.input_tokens,
        "output_tokens": tally.output_tokens,
        "cost_usd": None if tally.unpriced and not tally.cost else usd(tally.cost),
        # What the standard way was found to allow, for a start after this one.
        "calls_per_second_allowed": (run.progress or {}).get("calls_per_second_allowed"),
        "bound_by": "queue" if waits_for_room or _is_queue_full(lives) else "batches",
        "held_for": 0.0,
        "held_because": "",
        "batches": [_batch(life) for life in lives],
    }


def _batch(life: Life) -> dict[str, Any]:
    seen = life.kept.seen
    return {
        "batch": life.submission.batch_id or life.submission.shard,
        "state": "queue_full" if life.waits_for_room else life.status,
        "lines": life.kept.lines,
        "done": None if seen is None else seen.completed,
        "age_seconds": round(life.age()),
    }


def how_it_goes_on(lives: Sequence[Life], run_name: str, *, keeps_batches: bool) -> str:
    """What becomes of a run that was stopped, as sentences, at a provider that keeps its batches or does not."""
    out = [life for life in lives if life.is_sent]
    if not out:
        return "What is answered is kept; the same command goes on."
    if not keeps_batches:
        return (
            f"{_count(len(out), 'batch ends', 'batches end')} with the simulator ({_rows(out):,} rows); what is "
            "answered is kept, and the same command goes on."
        )
    return (
        f"{_count(len(out), 'batch goes', 'batches go')} on at the provider ({_rows(out):,} rows): the same command "
        f"takes in what {'it does' if len(out) == 1 else 'they do'}, `runner cancel {run_name}` calls "
        f"{'it' if len(out) == 1 else 'them'} off."
    )


def what_is_out(lives: Sequence[Life], left: int) -> str:
    """Why a run is not finished that can do nothing more now, with so many rows `left`."""
    out = [life for life in lives if life.is_sent]
    waiting = max(0, left - _rows(out))
    parts = []
    if out:
        oldest = max(life.age() for life in out)
        parts.append(
            f"{_count(len(out), 'batch is', 'batches are')} out ({_rows(out):,} rows, the oldest for {hours(oldest)})"
        )
    if waiting:
        room = " for room in the account's queue" if _is_queue_full(lives) else ""
        parts.append(f"{_count(waiting, 'row waits', 'rows wait')}{room}")
    return f"Not finished: {' and '.join(parts)}. Run the same command again later; it goes on from here."


def _is_queue_full(lives: Sequence[Life]) -> bool:
    return any(life.waits_for_room for life in lives)


def _rows(lives: Sequence[Life]) -> int:
    return sum(life.kept.lines for life in lives)


def _count(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"

"""Store to totals: the summary of a run, whose equation must balance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from runner.errors import StoreUnusable
from runner.pricing import usd
from runner.store import totals as store_totals
from runner.store.clock import moment
from runner.store.database import Store
from runner.store.reckoning import Reckoning, Tokens, reckon
from runner.store.runs import Run
from runner.sums import ONLINE, RowTotals, Sums, mode_of


def summarise(
    store: Store, run: Run, rows: RowTotals, *, job_name: str, prices_as_of: str | None
) -> dict[str, Any]:
    """The summary of a run as `OUTPUT.summary.json` holds it. StoreUnusable if a line is unaccounted for."""
    with store.read() as connection:
        attempts = store_totals.attempts(connection, run.id)
        again = store_totals.asked_again(connection, run.id)
        reckoning = reckon(connection, run.id)
    paid = _sum([rows.paid, *again.values()])
    models = _joined(rows.by_model, [(model, sums) for (model, _), sums in again.items()])
    job_mode = str(run.job.get("mode", ONLINE))
    modes = _joined(rows.by_mode, [(mode_of(tier, job_mode), sums) for (_, tier), sums in again.items()])
    accounted = rows.ok + rows.failed + rows.invalid + rows.skipped
    if accounted != run.rows_in:
        raise StoreUnusable(
            f"Run {run.name} does not balance: {run.rows_in} lines came in, {accounted} are accounted for. "
            "No summary was written. `runner doctor` checks the store."
        )
    finished = moment(run.finished_at) if run.finished_at else datetime.now(UTC)
    started = moment(run.created_at)
    return {
        "run": run.name,
        "job": job_name,
        "complete": rows.skipped == 0,
        "rows": {
            "in": run.rows_in,
            "ok": rows.ok,
            "failed": rows.failed,
            "invalid": rows.invalid,
            "skipped": rows.skipped,
        },
        "requests": attempts.requests,
        "retries": attempts.retries,
        "rate_limited": attempts.rate_limited,
        "ambiguous": attempts.ambiguous,
        "tokens": _tokens(paid),
        "cost_usd": {
            "total": _money(paid),
            "reused": _money(rows.reused),
            "at_risk": usd(attempts.at_risk),
            "unknown_price_rows": paid.unpriced + rows.reused.unpriced,
            "prices_as_of": prices_as_of,
        },
        "reused_rows": rows.reused.rows,
        "models": {
            name: {"rows": sums.rows, "tokens": _tokens(sums), "cost_usd": _money(sums)}
            for name, sums in models.items()
        },
        "modes": {
            name: {
                "rows": sums.rows,
                "tokens": _tokens(sums),
                "cost_usd": _money(sums),
                **({"saved_usd": usd(rows.saved[name])} if name in rows.saved else {}),
            }
            for name, sums in (modes or {ONLINE: Sums()}).items()
        },
        **({"batches": _batches(reckoning)} if reckoning.submitted else {}),
        "finish_reasons": dict(sorted(rows.finish_reasons.items())),
        "errors": dict(sorted(rows.error_codes.items(), key=lambda pair: (-pair[1], pair[0]))),
        "started_at": _time(started),
        "finished_at": _time(finished),
        "seconds": round(max(0.0, (finished - started).total_seconds()), 3),
    }


def _sum(parts: Iterable[Sums]) -> Sums:
    whole = Sums()
    for part in parts:
        whole.add_sums(part)
    return whole


def _joined(some: Mapping[str, Sums], others: Iterable[tuple[str, Sums]]) -> dict[str, Sums]:
    """The sums of each name, by name."""
    joined = {name: _sum([sums]) for name, sums in some.items()}
    for name, sums in others:
        joined.setdefault(name, Sums()).add_sums(sums)
    return dict(sorted(joined.items()))


def _tokens(sums: Sums) -> dict[str, int]:
    return {
        "input": sums.input,
        "cached_input": sums.cached_input,
        "cache_write": sums.cache_write,
        "output": sums.output,
        "reasoning": sums.reasoning,
        "total": sums.total,
    }


def _batches(reckoning: Reckoning) -> dict[str, Any]:
    """How many batches there were, and by how much what they say of their usage differs from their rows' sum."""
    differing = [one for one in reckoning.said if one.said != one.rows]
    differs = None
    if differing:
        differs = {"batches": len(differing)} | {
            name: sum(getattr(one.said, name) - getattr(one.rows, name) for one in differing)
            for name in Tokens._fields
        }
    return {"count": reckoning.submitted, "usage_known": len(reckoning.said), "usage_differs": differs}


def _money(sums: Sums) -> str | None:
    # Where nothing could be priced the sum is unknown, not zero.
    return None if sums.unpriced and not sums.priced else usd(sums.cost)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

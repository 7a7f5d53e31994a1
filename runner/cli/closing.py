"""What is said last of a run: what it came to, what each way did, and where its output is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.cli import printable


def closing(run: str, summary: dict[str, Any], output: Path, *, did_nothing: bool = False) -> list[str]:
    """The last lines of a start: what the run came to, and where its output is."""
    rows, cost = summary["rows"], summary["cost_usd"]
    parts = [f"{rows['ok']:,} of {rows['in']:,} rows answered"]
    parts += [f"{rows[name]:,} {name}" for name in ("failed", "invalid", "skipped") if rows[name]]
    nothing = "Nothing to do: " if did_nothing else ""
    lines = [f"{nothing}{', '.join(parts)}. {summary['tokens']['total']:,} tokens, {money(cost)}."]
    lines += _ways(summary["modes"])
    if summary["errors"]:
        common = ", ".join(f"{code} ({count:,})" for code, count in list(summary["errors"].items())[:5])
        again = f" `runner retry {run}` tries the failed rows again." if rows["failed"] else ""
        lines.append(f"Failures: {printable(common)}.{again}")
    differs = summary.get("batches", {}).get("usage_differs")
    if differs:
        lines.append(_usage_differs(differs))
    lines.append(f"Output: {output}")
    return lines


def _usage_differs(differs: dict[str, int]) -> str:
    """That batches name another usage than their rows add up to: positive figures are in no row."""
    figures = ", ".join(f"{differs[name]:+,} {name}" for name in ("input", "output", "total"))
    which = "1 batch names" if differs["batches"] == 1 else f"{differs['batches']:,} batches name"
    return f"Usage: {which} other tokens than the answered rows add up to ({figures})."


def _ways(modes: dict[str, Any]) -> list[str]:
    """What each way did and saved, where one was cheaper than the standard."""
    if not any("saved_usd" in one for one in modes.values()):
        return []
    parts = []
    for name, one in modes.items():
        saved = "" if one.get("saved_usd") in (None, "0") else f", ${one['saved_usd']} saved"
        cost = "cost unknown" if one["cost_usd"] is None else f"${one['cost_usd']}"
        parts.append(f"{name} {one['rows']:,} row{'' if one['rows'] == 1 else 's'} ({cost}{saved})")
    return [f"Ways: {', '.join(parts)}."]


def money(cost: dict[str, Any]) -> str:
    """What a run has cost, in a few words."""
    text = "cost unknown (no price for the model)" if cost["total"] is None else f"${cost['total']}"
    extras = []
    if cost["reused"] not in (None, "0"):
        extras.append(f"${cost['reused']} reused")
    if cost["at_risk"] not in (None, "0"):
        extras.append(f"up to ${cost['at_risk']} at risk")
    if cost["total"] is not None and cost["unknown_price_rows"]:
        extras.append(f"{cost['unknown_price_rows']:,} rows without a price")
    return text + (f" ({', '.join(extras)})" if extras else "")

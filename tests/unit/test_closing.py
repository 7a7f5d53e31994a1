"""What is said last of a run: sums, ways, and where its output is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.cli.closing import closing


def summary(**modes: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run of three rows."""
    cost = {"total": "0.03", "reused": "0", "at_risk": "0", "unknown_price_rows": 0}
    return {
        "rows": {"in": 3, "ok": 3, "failed": 0, "invalid": 0, "skipped": 0},
        "tokens": {"total": 1200},
        "cost_usd": cost,
        "modes": modes,
        "errors": {},
    }


def test_one_way_at_the_standard_price_is_not_spoken_of() -> None:
    lines = closing("abc", summary(online={"rows": 3, "cost_usd": "0.03"}), Path("out.jsonl"))

    assert lines == ["3 of 3 rows answered. 1,200 tokens, $0.03.", "Output: out.jsonl"]


def test_each_way_says_what_it_cost_and_saved() -> None:
    found = summary(
        batch={"rows": 2, "cost_usd": "0.01", "saved_usd": "0.01"},
        flex={"rows": 0, "cost_usd": None, "saved_usd": None},
        online={"rows": 1, "cost_usd": "0.02"},
    )

    assert closing("abc", found, Path("out.jsonl"))[1] == (
        "Ways: batch 2 rows ($0.01, $0.01 saved), flex 0 rows (cost unknown), online 1 row ($0.02)."
    )
